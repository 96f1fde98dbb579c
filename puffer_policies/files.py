"""The files of a run by name, paths as users write them, and writing at once or not at all."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

LATEST = "latest.safetensors"
"""The policy at the last checkpoint."""
BEST = "best.safetensors"
"""The policy with the best mean return so far."""
TRAINER = "trainer.safetensors"
"""Everything from which the run continues, at the same moment as `LATEST`."""
METRICS = "metrics.jsonl"
"""A JSON object on each line: one for each update, and one for the final evaluation."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with a leading ``~`` expanded.

    A shell expands it in a word of its own, but not in ``--train.data-dir=~/runs``, a file or
    Python. Where there is no such home, the path stays as it is, and is then reported as missing.
    """
    return Path(os.path.expanduser(path))


def is_in_run(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is that of a run, or lies inside one; its checkpoints tell."""
    path = Path(folder).absolute()
    # `os.path.exists` takes a folder that may not be read for one without files.
    return any(
        os.path.exists(parent / name)
        for parent in (path, *path.parents)
        for name in (LATEST, BEST, TRAINER)
    )


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it there: a crash at any moment leaves a whole one.

    Raises:
        OSError: the file can't be written; an older one is as it was.
    """
    # The name is this thread's own; `tempfile` would make a file that only its owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Without it, a power cut after the move could leave a file of zeros under the name.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
