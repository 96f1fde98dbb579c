"""Reads a module without importing it: where its file is, its preface, a class's signature."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path


def find_package(name: str) -> ModuleSpec | None:
    """Return the import system's word on a top-level package or module, without importing it."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None  # a finder of somebody's editable install that raises knows no such package


def locate_package(name: str, *, search_path: str = "") -> Path | None:
    """Return the folder or file of a top-level package or module, without importing it."""
    if search_path:
        for candidate in (Path(search_path, name), Path(search_path, f"{name}.py")):
            if candidate.exists():
                return candidate
    spec = find_package(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def locate_module(name: str, *, search_path: str = "") -> Path | None:
    """Return the file of a dotted module; its parents are found on disk, not imported."""
    top, *rest = name.split(".")
    place = locate_package(top, search_path=search_path)
    if place is None:
        return None
    for part in rest:
        place = place / part if (place / part).is_dir() else place / f"{part}.py"
    return (place / "__init__.py" if place.is_dir() else place).resolve()


def constructor_signature(target: str, *, search_path: str = "") -> str:
    """Return ``(env, hidden_size=128)`` of the class ``module:Class``, or '' if it can't be read.

    The text comes from the source, so that showing it imports nothing. A class that inherits its
    constructor, or is made by a call, has no signature here.
    """
    tree = _parsed(target, search_path)
    body: list[ast.stmt] = tree.body if tree else []
    attribute = target.partition(":")[2]
    for part in [*attribute.split("."), "__init__"]:
        found = [node for node in body if getattr(node, "name", None) == part]
        if not found:
            return ""
        if isinstance(found[-1], ast.FunctionDef):
            return _spelled(found[-1].args)
        body = getattr(found[-1], "body", [])
    return ""


def module_docstring(target: str, *, search_path: str = "") -> str:
    """Return what the module of ``module:Class`` says of itself, or '' if it can't be read."""
    tree = _parsed(target, search_path)
    return (ast.get_docstring(tree) or "") if tree else ""


def _parsed(target: str, search_path: str) -> ast.Module | None:
    """Return the syntax tree of the module of ``module:Class``, or None if it can't be read."""
    path = locate_module(target.partition(":")[0], search_path=search_path)
    if path is None or not path.is_file():
        return None
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return None


def _spelled(arguments: ast.arguments) -> str:
    bare = ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args,
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=arguments.defaults,
    )
    every = [*bare.posonlyargs, *bare.args, *bare.kwonlyargs]
    for argument in [*every, *filter(None, (bare.vararg, bare.kwarg))]:
        argument.annotation = None
    first = bare.posonlyargs or bare.args
    del first[:1]
    return f"({ast.unparse(bare)})"
