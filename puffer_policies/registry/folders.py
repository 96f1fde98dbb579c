"""The modules beside a registry.toml, each under a name that is made of its folder.

Python knows a module by its name alone, and two folders may both have a ``nets.py``, or a
``types.py``. Here ``nets.py`` of ``/home/ann`` is
``puffer_policies.registry.folders._2fhome_2fann.nets``. Who imports that name gets this file,
also a worker that unpickles a policy: Python imports this module first, and with it the finder.

Import statements in such a file find the modules beside it, as in a script that is run. They are
translated when the file is compiled.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType, ModuleType
from typing import Any

from puffer_policies.registry.source import find_package

# Python imports what is inside a module only if that has a path; `_Finder` does not need it.
__path__: list[str] = []

_PREFIX = f"{__name__}."

_LIBRARIES = ("torch", "numpy", "gymnasium", "pufferlib")
"""What an import of these names means in every folder: PufferLib's envs keep their policies in a
file called torch.py."""


def import_name(module: str, folder: str) -> str:
    """Return the name by which a target's module is imported: its own, or one with its folder.

    Args:
        module: as a target has it, such as ``nets`` or ``acme.nets``.
        folder: that of the registry.toml, where the module is looked for first; '' for none.
    """
    if not folder:
        return module
    top = module.partition(".")[0]
    package = _package_name(folder)
    if f"{package}.{top}" in sys.modules:
        return f"{package}.{module}"
    beside = _finder_in(folder).find_spec(f"{package}.{top}")
    if beside is None:
        return module
    ordinary = find_package(top)
    if ordinary is None:
        return f"{package}.{module}"
    # To Python, too, a folder without an __init__.py counts only if there is nothing else. A file
    # that the program can import itself must not become two modules, with two classes of one name.
    return module if not beside.origin or _is_same(ordinary, beside) else f"{package}.{module}"


def plain_name(module: str) -> str:
    """Return the name of a module without its folder: the reverse of `import_name`."""
    return module.removeprefix(_PREFIX).partition(".")[2] if module.startswith(_PREFIX) else module


def _is_same(one: ModuleSpec, other: ModuleSpec) -> bool:
    return os.path.realpath(one.origin or "") == os.path.realpath(other.origin or "")


def _package_name(folder: str) -> str:
    """Return the name of the package that stands for a folder: an identifier, for compilers."""
    path = os.fsencode(os.path.realpath(folder))
    return _PREFIX + re.sub(rb"[^A-Za-z0-9]", lambda m: b"_%02x" % m[0][0], path).decode()


def _folder(name: str) -> str:
    """Return the folder that a part of `_package_name` stands for."""
    path = re.sub(rb"_(..)", lambda m: bytes.fromhex(m[1].decode()), name.encode())
    return os.fsdecode(path)


class _Finder(MetaPathFinder):
    """Finds the packages that stand for folders, and the modules in them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module whose name starts with this one's, or None."""
        if not fullname.startswith(_PREFIX):
            return None
        name = fullname.removeprefix(_PREFIX)
        if "." in name:
            specs = (_finder_in(place).find_spec(fullname) for place in path or ())
            return next(filter(None, specs), None)
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [_folder(name)]
        return spec


class _Loader(SourceFileLoader):
    """Compiles a file so that its import statements find the modules beside it."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file, without the cache of bytecode: an ordinary import would take it."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(  # type: ignore[override]
        self, data: Any, path: Any, *, _optimize: int = -1
    ) -> CodeType:
        """Compile source text whose imports are translated."""
        package = ".".join(self.name.split(".")[: _PREFIX.count(".") + 1])
        tree = _Translator(package).visit(ast.parse(data, path))
        code: CodeType = compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)
        return code


class _Translator(ast.NodeTransformer):
    """Replaces the names of the modules in a folder by those with the folder."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._folder = _folder(package.removeprefix(_PREFIX))

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """Translate ``import nets, numpy``, name by name, as their order may matter."""
        statements: list[ast.stmt] = []
        for alias in node.names:
            top, _, rest = alias.name.partition(".")
            if not self._is_beside(top):
                statements.append(ast.Import([alias]))
            elif not rest:
                statements.append(ast.ImportFrom(self._package, [alias], 0))
            else:
                parent, _, last = f"{self._package}.{alias.name}".rpartition(".")
                bound = ast.alias(last, alias.asname or top)
                statements.append(ast.ImportFrom(parent, [bound], 0))
                # `import acme.nets` binds `acme`.
                if alias.asname is None:
                    statements.append(ast.ImportFrom(self._package, [ast.alias(top)], 0))
        return [ast.fix_missing_locations(ast.copy_location(each, node)) for each in statements]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        """Translate ``from nets import Net``."""
        if node.module and not node.level and self._is_beside(node.module.partition(".")[0]):
            node.module = f"{self._package}.{node.module}"
        return node

    def _is_beside(self, name: str) -> bool:
        # The module of a target may be called `types`; an import of `types` means Python's.
        is_elsewhere = name in sys.stdlib_module_names or name in _LIBRARIES
        return not is_elsewhere and import_name(name, self._folder) != name


def _finder_in(folder: str) -> FileFinder:
    # A new one each time, as a finder that is kept overlooks files of the last few milliseconds.
    return FileFinder(
        folder,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_Loader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
