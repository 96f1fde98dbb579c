"""Classes and factories at a place: ``path/to/file.py::Class``, ``module:factory``.

A file or a module that was written for PufferLib can be imported where that is not installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from puffer_policies.errors import BuildError, PluginError, did_you_mean
from puffer_policies.files import user_path
from puffer_policies.foreign import error_text, foreign_code
from puffer_policies.registry.folders import import_name
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.wrappers.base import PolicyWrapper

SEPARATOR = "::"
"""Stands between the file and the class of ``path/to/file.py::Class``."""

PLACE = re.compile(rf"[^\s(),]+{SEPARATOR}\w+|(?<![\w./'\"])[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""``path/to/file.py::Class`` or ``module:factory`` in an expression."""
SCHEMES = {
    "rllib": "puffer_policies.interop.rllib",
    "rsl_rl": "puffer_policies.interop.rsl_rl",
    "sb3": "puffer_policies.interop.stable_baselines3",
    "skrl": "puffer_policies.interop.skrl",
}
"""Short names of modules with the policies of other libraries, such as ``sb3:MlpPolicy``."""
_STAND_IN = "FileClass"


def class_at(text: str) -> type:
    """Return the class of ``path/to/file.py::Class``; see `object_at`."""
    value = object_at(text)
    if not isinstance(value, type):
        raise BuildError(f"{text!r} is not a class.", fix="Write path/to/file.py::Class.")
    return value


def object_at(text: str) -> Any:
    """Import the file of ``path/to/file.py::Class``, or a module, and return the class or factory.

    The file can import those beside it, as when it is run as a script.

    Raises:
        BuildError: there is no such file, or nothing of this name in it.
        PluginError: the import failed.
    """
    place, name = place_and_name(text)
    module = _import_file(place.absolute()) if isinstance(place, Path) else _import_module(place)
    value = getattr(module, name, None)
    if not callable(value):
        names = [key for key, each in vars(module).items() if _is_own(each, module)]
        raise BuildError(
            f"There is no class or function {name!r} in {place}.",
            fix=did_you_mean(name, names) or f"It has {', '.join(names) or 'none'}.",
        )
    return value


def _is_own(value: Any, module: ModuleType) -> bool:
    return isinstance(value, type | FunctionType) and value.__module__ == module.__name__


def definition(place: Path | str, name: str) -> ast.AST | None:
    """Return how a file defines a name, which is not imported; None if it can't be told."""
    if isinstance(place, str):
        return None
    try:
        tree = ast.parse(place.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    defined = {
        node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    return defined.get(name)


def looks_like_wrapper(place: Path | str, node: ast.AST | None) -> bool:
    """Whether a class of a file derives from `PolicyWrapper`, by its text."""
    bases = [ast.unparse(each) for each in node.bases] if isinstance(node, ast.ClassDef) else []
    names = [base.rpartition(".")[2] for base in bases]
    if any(name == PolicyWrapper.__name__ for name in names):
        return True
    return any(looks_like_wrapper(place, definition(place, name)) for name in names)


def place_and_wrappers(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the class or factory of an expression, and the wrappers around it as expressions.

    Raises:
        BuildError: the class is not the innermost, or has arguments.
    """
    if "(" not in text.partition(SEPARATOR if SEPARATOR in text else ":")[0]:
        return text, ()
    match = PLACE.search(text)
    spec = PolicySpec.parse(PLACE.sub(_STAND_IN, text, count=1))
    if match is None or spec.name != _STAND_IN or spec.kwargs:
        raise BuildError(
            f"{text!r}: the class of a file stands in the innermost brackets, without arguments.",
            fix="Write 'Wrapper(path/to/file.py::Class)'.",
        )
    return match[0], tuple(str(PolicySpec(each.name, each.kwargs)) for each in spec.wrappers)


def classes_hint(path: str) -> str:
    """Return how the classes of a file are written, which is not imported."""
    try:
        tree = ast.parse(user_path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "Write path/to/file.py::Class."
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    names = " or ".join(f"{path}{SEPARATOR}{name}" for name in classes[:5])
    return f"Write {names}." if names else "It defines no class."


def place_and_name(text: str) -> tuple[Path | str, str]:
    """Return the file or the module of a place, and the name in it."""
    path, separator, name = text.partition(SEPARATOR)
    if not separator:
        module, _, name = text.partition(":")
        return SCHEMES.get(module, module), name
    if not name.isidentifier():
        raise BuildError(f"{text!r} does not name a class.", fix="Write path/to/file.py::Class.")
    file = user_path(path)
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else f"is not a file in {Path.cwd()}"
        raise BuildError(f"{text!r}: {path!r} {problem}.", fix="Write path/to/file.py::Class.")
    return file, name


def _import_module(name: str) -> ModuleType:
    def failure(error: BaseException) -> PluginError:
        return PluginError(f"Importing {name} failed: {error_text(error)}")

    with foreign_code(f"importing {name}", failure), _pufferlib():
        return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    def failure(error: BaseException) -> PluginError:
        return PluginError(f"Importing {path} failed: {error_text(error)}")

    if path.suffix != ".py" or "." in path.stem:
        raise BuildError(f"{path} is not a Python file.")
    # By its place, so that it never takes the place of an installed module of the same name, nor
    # that of a file elsewhere that is called like it.
    with foreign_code(f"importing {path}", failure), _pufferlib():
        return importlib.import_module(import_name(path.stem, str(path.parent)))


# -- PufferLib, where it is not installed ----------------------------------------------------------

_PUFFERLIB = "pufferlib"
_STAND_INS = ("models", "pytorch", "spaces")
"""Modules of ours that take the place of PufferLib's where it is not installed."""

_ABSENT = ("emulation", "vector", "environments", "ocean", "utils")
"""Modules of PufferLib that we have nothing for; a file may import them and use little of them."""


@contextmanager
def _pufferlib() -> Iterator[None]:
    """Let a file that was written for PufferLib import what it needs where that is not installed.

    Our modules of the same names stand in for its own, during the import only.
    """
    if importlib.util.find_spec(_PUFFERLIB) is not None:
        yield
        return
    package = _StandIn(_PUFFERLIB)
    package.__path__ = []
    modules = {_PUFFERLIB: package}
    for name in (*_STAND_INS, *_ABSENT):
        module = _StandIn(f"{_PUFFERLIB}.{name}")
        if name in _STAND_INS:
            ours = importlib.import_module(f"puffer_policies.{name}")
            vars(module).update({key: getattr(ours, key) for key in ours.__all__})
        setattr(package, name, module)
        modules[module.__name__] = module
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module of PufferLib where it is not installed: what is missing fails when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"

        def absent(*_: Any, **__: Any) -> Any:
            raise BuildError(
                f"{full} is called, and PufferLib is not installed.",
                fix="Install PufferLib 3.0, or give the checker a policy that does not need it.",
            )

        return absent
