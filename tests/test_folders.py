"""Modules beside a registry.toml: each file's own, whatever other modules are called."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fake_packages import site_in, write_files
from torch import nn

from puffer_policies.checks.engine.places import class_at
from puffer_policies.errors import MissingDependency, PluginError
from puffer_policies.registry import Registry, default_registry, discover, set_default_registry
from puffer_policies.registry.folders import plain_name

FILE = "schema = 1\n[policies.Tiny]\ntarget = '{}'\n"


@pytest.fixture
def folder(tmp_path):
    """An empty folder, whose modules are forgotten afterwards."""
    with site_in(tmp_path / "elsewhere"):
        yield tmp_path
        for name in [each for each in sys.modules if plain_name(each) != each]:
            del sys.modules[name]


def registry_in(folder: Path, target: str = "nets:Tiny", **modules: str) -> Registry:
    """Write a registry.toml and modules into a folder, and discover them from there.

    The name ``acme__nets`` stands for ``acme/nets.py``, and ``acme__`` for ``acme/__init__.py``.
    """
    paths = {
        f"{name.replace('__', '/')}{'__init__' * name.endswith('__')}.py": text
        for name, text in modules.items()
    }
    write_files(folder, {"registry.toml": FILE.format(target), **paths})
    return discover(environ={"HOME": str(folder / "none")}, cwd=folder, plugins=[])


def test_two_files_with_modules_of_one_name_have_their_own_classes(folder):
    source = "from helpers import WHO\nclass Tiny: who = WHO"
    one, two = (
        registry_in(folder / who, nets=source, helpers=f"WHO = '{who}'") for who in ("one", "two")
    )
    assert [each.get("Tiny").load().who for each in (one, two, one)] == ["one", "two", "one"]
    assert "nets" not in sys.modules
    assert str(folder / "one") not in sys.path


@pytest.mark.parametrize("name", ["types", "json", "email", "test", "nets"])
def test_a_module_may_be_called_like_one_of_python(folder, name):
    source = "import json, types\nassert json.dumps and types.ModuleType\nclass Tiny: ..."
    cls = registry_in(folder, f"{name}:Tiny", **{name: source}).get("Tiny").load()
    assert importlib.import_module(cls.__module__).__file__ == str(folder / f"{name}.py")
    assert not hasattr(importlib.import_module("json"), "Tiny")


@pytest.mark.parametrize(
    "statement",
    [
        "import helpers; value = helpers.VALUE",
        "import sys, helpers as h; value = h.VALUE",
        "from helpers import *; value = VALUE",
        "import inner.deep; value = inner.deep.VALUE; inner.FIRST",
        "import inner.deep as d; value = d.VALUE",
        "from inner import deep; value = deep.VALUE",
        "from inner.deep import VALUE as value",
        "from . import helpers; value = helpers.VALUE",
        "import plain.leaf; value = plain.leaf.VALUE",
        "value = (lambda: __import__('math').pi)() and 7",
    ],
)
def test_a_module_imports_those_beside_it(folder, statement):
    cls = (
        registry_in(
            folder,
            nets=f"class Tiny:\n    def value(self):\n        {statement}\n        return value\n"
            if "*" not in statement
            else f"{statement}\nclass Tiny:\n    def value(self): return value",
            helpers="VALUE = 7",
            inner__="FIRST = 1\nfrom helpers import VALUE",
            inner__deep="from . import FIRST\nfrom inner import VALUE",
            plain__leaf="from helpers import VALUE",
        )
        .get("Tiny")
        .load()
    )
    assert cls().value() == 7


def test_a_target_may_lie_in_a_package_beside_the_file(folder):
    registry = registry_in(
        folder,
        "acme.nets:Tiny",
        acme__="",
        acme__nets="from .base import Tiny",
        acme__base="class Tiny: ...",
    )
    assert plain_name(registry.get("Tiny").load().__module__) == "acme.base"


def test_a_folder_without_an_init_file_shadows_no_package(folder):
    (folder / "wandb").mkdir()
    with site_in(folder / "installed") as site:
        write_files(site.folder, {"wandb/__init__.py": "X = 1"})
        registry = registry_in(folder, nets="from wandb import X\nclass Tiny: ...")
        assert registry.get("Tiny").load()


def test_a_file_that_the_program_can_import_is_one_module(folder):
    with site_in(folder):
        registry = registry_in(folder, nets="class Tiny: ...")
        cls = registry.get("Tiny").load()
        assert cls is importlib.import_module("nets").Tiny


def test_a_class_is_known_by_its_record(folder):
    one, two = (registry_in(folder / who, nets="class Tiny: ...") for who in ("one", "two"))
    cls = one.get("Tiny").load()
    assert one.get("Tiny").is_record_of(cls)
    assert not two.get("Tiny").is_record_of(cls)


def test_a_policy_can_be_sent_to_a_new_process(folder):
    source = "class Tiny:\n    def __init__(self): self.value = 7"
    cls = registry_in(folder, nets=source).get("Tiny").load()
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).value)"
    worker = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(cls()), capture_output=True, check=True
    )
    assert worker.stdout.strip() == b"7"


def test_a_reloaded_module_is_the_file_as_it_is_now(folder):
    cls = registry_in(folder, nets="class Tiny: value = 1").get("Tiny").load()
    (folder / "nets.py").write_text("import helpers\nclass Tiny: value = helpers.VALUE")
    (folder / "helpers.py").write_text("VALUE = 22")
    module = importlib.reload(importlib.import_module(cls.__module__))
    assert module.Tiny.value == 22


def test_a_module_may_decorate_the_class_that_its_file_names(folder):
    registry = registry_in(
        folder,
        nets="""
        from puffer_policies import register_policy

        @register_policy
        class Tiny: ...

        @register_policy
        class Other: ...
        """,
    )
    before = default_registry()
    set_default_registry(registry)
    try:
        cls = registry.get("Tiny").load()
        assert registry.get("Tiny").qualified_name == "project/Tiny"
        importlib.reload(importlib.import_module(cls.__module__))
        assert registry.get("Other").qualified_name == "local/Other"
        assert pickle.loads(pickle.dumps(registry)).get("Other").load().__name__ == "Other"
    finally:
        set_default_registry(before)


def test_a_bytecode_cache_of_the_file_is_neither_read_nor_written(folder):
    registry_in(folder, nets="import helpers\nclass Tiny: ...", helpers="").get("Tiny").load()
    assert not list(folder.rglob("*.pyc"))


def test_a_module_that_is_not_there_is_named_with_the_folder(folder):
    with pytest.raises(PluginError, match=rf"no module 'nets' in {folder}, and none is installed"):
        registry_in(folder).get("Tiny").load()
    registry = registry_in(folder, nets="import not_there")
    with pytest.raises(MissingDependency, match="needs the module 'not_there'"):
        registry.get("Tiny").load()


def test_files_of_one_name_are_checked_each_by_itself(folder):
    for who in ("one", "two"):
        source = "from helpers import WHO\nclass Net: who = WHO"
        write_files(folder / who, {"types.py": source, "helpers.py": f"WHO = '{who}'"})
    classes = [class_at(f"{folder / who / 'types.py'}::Net") for who in ("one", "two")]
    assert [cls.who for cls in classes] == ["one", "two"]


def test_a_file_called_torch_is_not_what_import_torch_means(tmp_path):
    # PufferLib's envs have their policies in a file of this name.
    (tmp_path / "torch.py").write_text("import torch.nn\n\nclass Net(torch.nn.Module): ...\n")
    (tmp_path / "more.py").write_text("import torch\n\nclass More(torch.nn.Module): ...\n")
    for name in ("torch.py::Net", "more.py::More"):
        assert issubclass(class_at(f"{tmp_path / name}"), nn.Module)
