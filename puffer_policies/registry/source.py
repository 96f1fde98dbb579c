"""Reads modules without importing them: their files, docstrings, and signatures of classes."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path


def find_package(name: str) -> ModuleSpec | None:
    """Return the spec of a top-level package or module, without importing it."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        # The finder of an editable install may raise; then it has no such package.
        return None


def locate_package(name: str, *, search_path: str = "") -> Path | None:
    """Return the folder or file of a top-level package or module, without importing it."""
    if search_path:
        for candidate in (Path(search_path, name), Path(search_path, f"{name}.py")):
            if candidate.exists():
                return candidate
    spec = find_package(name)
    if spec is None:
        return None
    # A namespace package has several folders and no file; its first folder stands for it.
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

    The text comes from the source, so that showing it imports nothing. The constructor may be
    inherited from classes that can be read as well; a class that is made by a call has none here.
    """
    arguments = _constructor(target, search_path)
    return _signature_text(arguments) if arguments else ""


def module_docstring(target: str, *, search_path: str = "") -> str:
    """Return the docstring of the module of ``module:Class``, or '' if it can't be read."""
    tree = _parsed(target, search_path)
    return (ast.get_docstring(tree) or "") if tree else ""


def class_docstring(target: str, *, search_path: str = "") -> str:
    """Return the docstring of the class ``module:Class``, or '' if it can't be read."""
    node = _class(_parsed(target, search_path), target)
    return (ast.get_docstring(node) or "") if node else ""


def _constructor(target: str, search_path: str) -> ast.arguments | None:
    """Return the parameters of a class's own constructor, or of the one that it inherits.

    A memory wrapper names its core in the class statement, ``class X(MemoryWrapper, core=XCore)``:
    the options of the core, which stand after its two sizes, take the place of ``**options``.
    """
    tree = _parsed(target, search_path)
    node = _class(tree, target)
    if tree is None or node is None:
        return None
    own = [each for each in node.body if getattr(each, "name", None) == "__init__"]
    if own:
        return own[-1].args if isinstance(own[-1], ast.FunctionDef) else None
    bases = (_constructor(_target(tree, base, target), search_path) for base in node.bases)
    arguments = next(filter(None, bases), None)
    cores = [keyword.value for keyword in node.keywords if keyword.arg == "core"]
    if arguments is None or not cores or arguments.kwarg is None:
        return arguments
    core = _constructor(_target(tree, cores[0], target), search_path)
    return _joined(arguments, core) if core else arguments


def _joined(arguments: ast.arguments, core: ast.arguments) -> ast.arguments:
    """Return a wrapper's parameters with the options of its core in the place of ``**options``."""
    sizes = 3  # self, input_size, hidden_size
    defaults = [*[None] * (len(core.args) - len(core.defaults)), *core.defaults]
    return ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args,
        defaults=arguments.defaults,
        kwonlyargs=[*arguments.kwonlyargs, *core.args[sizes:], *core.kwonlyargs],
        kw_defaults=[*arguments.kw_defaults, *defaults[sizes:], *core.kw_defaults],
    )


def _target(tree: ast.Module, name: ast.expr, target: str) -> str:
    """Return ``module:Class`` of a class that the module of `target` names, or '' if unknown."""
    module = target.partition(":")[0]
    if not isinstance(name, ast.Name):
        return ""
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level)
    for node in imports:
        for alias in node.names:
            if (alias.asname or alias.name) == name.id:
                return f"{node.module}:{alias.name}"
    neighbor = f"{module}:{name.id}"
    return neighbor if neighbor != target else ""


def _class(tree: ast.Module | None, target: str) -> ast.ClassDef | None:
    """Return the statement of the class ``module:Class``, which may be inside another class."""
    body: list[ast.stmt] = tree.body if tree else []
    node: ast.stmt | None = None
    for part in target.partition(":")[2].split("."):
        # A later definition of the same name replaces the former.
        node = next((each for each in reversed(body) if getattr(each, "name", None) == part), None)
        body = getattr(node, "body", [])
    return node if isinstance(node, ast.ClassDef) else None


def _parsed(target: str, search_path: str) -> ast.Module | None:
    """Return the syntax tree of the module of ``module:Class``, or None if it can't be read."""
    path = locate_module(target.partition(":")[0], search_path=search_path)
    if path is None or not path.is_file():
        return None
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return None


def _signature_text(arguments: ast.arguments) -> str:
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
    # Users never pass self.
    first = bare.posonlyargs or bare.args
    del first[:1]
    return f"({ast.unparse(bare)})"
