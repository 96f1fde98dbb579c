"""Optional packages, which are imported where they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from puffer_policies.errors import MissingDependency


def import_optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: the module to import.
        extra: the extra of this package that installs it.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        MissingDependency: it is not installed; the error names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"{purpose} needs {module.partition('.')[0]}: {error}.",
            fix=f'pip install "puffer-policies[{extra}]"',
        ) from error
