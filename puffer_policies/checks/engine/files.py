"""Loads a class that is not installed, from ``path/to/file.py::Class``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from puffer_policies.errors import BuildError, PluginError, did_you_mean

SEPARATOR = "::"

_PUFFERLIB = "pufferlib"
_STAND_INS = ("models", "pytorch", "spaces")


def split_target(target: str) -> tuple[str, str]:
    """Return the path and the class name of ``path/to/file.py::Class``.

    Raises:
        BuildError: there is no such file, or no class name.
    """
    path, _, name = target.partition(SEPARATOR)
    if not name.isidentifier():
        raise BuildError(f"{target!r} names no class.", fix="Write path/to/file.py::Class.")
    if not Path(path).is_file():
        found = "is a folder" if Path(path).is_dir() else f"is no file in {Path.cwd()}"
        raise BuildError(f"{target!r}: {path!r} {found}.", fix="Write path/to/file.py::Class.")
    return path, name


def class_at(target: str) -> type:
    """Import the file of ``path/to/file.py::Class`` and return the class.

    Files beside it can be imported by it, as when it is run as a script.

    Raises:
        BuildError: there is no such file, or no class of this name in it.
        PluginError: the import failed.
    """
    path, name = split_target(target)
    module = _imported(Path(path).absolute())
    found: Any = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise BuildError(
            f"There is no class {name!r} in {path}.",
            fix=did_you_mean(name, classes) or f"Its classes: {', '.join(classes) or 'none'}.",
        )
    return found


def _imported(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that it shadows nothing that is installed
    # A file that is named like an installed module must not take that one's place.
    name = path.stem if known is None and not _is_taken(path) else f"checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BuildError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _pufferlib():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"Importing {path} failed: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _pufferlib() -> Iterator[None]:
    """Let a file that was written for PufferLib import what it needs where that is not installed.

    Our modules of the same names stand in for its own, during the import only.
    """
    if importlib.util.find_spec(_PUFFERLIB) is not None:
        yield
        return
    package = ModuleType(_PUFFERLIB)
    package.__path__ = []
    sys.modules[_PUFFERLIB] = package
    for name in _STAND_INS:
        ours = importlib.import_module(f"puffer_policies.{name}")
        setattr(package, name, ours)
        sys.modules[f"{_PUFFERLIB}.{name}"] = ours
    try:
        yield
    finally:
        for name in (_PUFFERLIB, *(f"{_PUFFERLIB}.{each}" for each in _STAND_INS)):
            del sys.modules[name]


def _is_taken(path: Path) -> bool:
    found = importlib.util.find_spec(path.stem)
    return found is not None and found.origin != str(path)
