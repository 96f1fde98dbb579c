"""The main memory of this machine, and the refusal of what can't fit into it.

Asked for more, Linux often grants the memory and later kills the process that writes to it, without
a word.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from puffer_policies.errors import ConfigError

_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
"""Files with the memory of a container, of version 2 and 1 of Linux's control groups."""


def main_memory() -> int | None:
    """Return the bytes of main memory, or those of this container; None if nobody says."""
    sizes = []
    with suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" is not a number
            sizes.append(int(Path(file).read_text()))
    return min((size for size in sizes if size > 0), default=None)


def require_memory(needed: int, purpose: str, *, fix: str, memory: int | None = None) -> None:
    """Refuse what needs more memory than there is.

    Args:
        needed: bytes, at least.
        purpose: what needs them, as the subject of a sentence in the plural.
        fix: what to do about it.
        memory: bytes of the device that holds it; those of main memory if None.

    Raises:
        ConfigError: there is not enough.
    """
    memory = main_memory() if memory is None else memory
    if memory is not None and needed > memory:
        raise ConfigError(
            f"{purpose} need {_gigabytes(needed)} of memory or more, of {_gigabytes(memory)} here.",
            fix=fix,
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
