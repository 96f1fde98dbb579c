"""Packages that only some users of a run need: imported when they are, with the extra's name."""

from __future__ import annotations

import importlib
from types import ModuleType

from puffer_policies.errors import MissingDependency


def import_optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, which the extra `extra` installs and `purpose` needs.

    Raises:
        MissingDependency: it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"{purpose} needs {module.partition('.')[0]}: {error}.",
            fix=f'pip install "puffer-policies[{extra}]"',
        ) from error
