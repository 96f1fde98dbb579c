from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
from fake_packages import site_in, write_files

from puffer_policies.errors import MissingDependency, PluginError
from puffer_policies.registry.records import (
    Capabilities,
    Layer,
    PolicyRecord,
    Provenance,
    WrapperRecord,
)

ACME = Provenance(
    layer=Layer.PLUGIN, distribution="acme-nets", version="1.2", origin="registry.toml:3"
)


def policy(**fields):
    return PolicyRecord(**{"name": "Net", "target": "x:Net", "provenance": ACME, **fields})


def test_a_record_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        policy().name = "Other"


def test_a_record_is_hashable_although_its_defaults_are_not():
    assert len({policy(defaults={"a": [1]}), policy(defaults={"a": [1]})}) == 1


def test_a_record_survives_pickling():
    record = policy(defaults={"hidden_size": 64}, capabilities=Capabilities(actions=("box",)))
    assert pickle.loads(pickle.dumps(record)) == record


def test_load_imports_nested_attributes():
    assert policy(target="collections:OrderedDict").load().__name__ == "OrderedDict"
    assert policy(target="email.message:EmailMessage").load().__name__ == "EmailMessage"


def test_a_class_that_was_given_is_loaded_without_import():
    local = type("Local", (), {})
    assert policy(target="nowhere:Local", loaded=local).load() is local


def test_a_target_that_is_no_class_is_refused_with_its_place():
    with pytest.raises(PluginError, match=r"should be a class[\s\S]*registry.toml:3"):
        policy(target="os:getcwd").load()


def test_a_missing_module_names_target_and_place():
    with pytest.raises(PluginError, match="there is no module 'nowhere_at_all'") as caught:
        policy(target="nowhere_at_all.nets:Net").load()
    assert not isinstance(caught.value, MissingDependency)
    assert "registry.toml:3" in caught.value.fix


def test_a_missing_attribute_is_a_plugin_error_that_names_both():
    with pytest.raises(PluginError, match=r"'acme-nets/Net' \(acme-nets 1.2\).*'os:Nett'"):
        policy(target="os:Nett").load()


@pytest.mark.parametrize(
    ("extra", "fix"),
    [("fast", "pip install 'acme-nets[fast]'"), ("", "Install what provides 'not_there'.")],
)
def test_a_missing_dependency_names_what_to_install(tmp_path, extra, fix):
    with site_in(tmp_path):
        write_files(tmp_path, {"needy.py": "import not_there\nclass Net: ..."})
        with pytest.raises(MissingDependency, match="needs the module 'not_there'") as caught:
            policy(target="needy:Net", extra=extra).load()
    assert caught.value.fix == fix


@pytest.mark.parametrize("crime", ["1 / 0", "raise SystemExit(3)", "import os; os.nothing"])
def test_a_module_that_breaks_at_import_is_a_plugin_error_with_its_cause(tmp_path, crime):
    with site_in(tmp_path):
        write_files(tmp_path, {"rude.py": crime})
        with pytest.raises(PluginError) as caught:
            policy(target="rude:Net").load()
    assert caught.value.__cause__ is not None
    assert caught.value.distribution == "acme-nets"


def test_a_file_beside_a_registry_file_can_be_imported_but_shadows_nothing(tmp_path):
    with site_in(tmp_path / "elsewhere"):
        write_files(tmp_path, {"my_own_nets.py": "class Net: ...", "json.py": "1 / 0"})
        cls = policy(target="my_own_nets:Net", search_path=str(tmp_path)).load()
        assert cls.__module__ == "my_own_nets"
        assert policy(target="json:JSONDecoder", search_path=str(tmp_path)).load()


def test_plain_data_says_everything_but_the_class():
    data = policy(capabilities=Capabilities(observations=("image",), recurrent=True)).to_dict()
    assert data["qualified_name"] == "acme-nets/Net"
    assert data["kind"] == "policy"
    assert data["layer"] == "plugin"
    assert data["observations"] == ["image"]
    assert data["recurrent"] is True


def test_a_wrapper_tells_its_traits():
    record = WrapperRecord(
        name="Wrap", target="x:Wrap", provenance=ACME, forbids=("recurrent",), provides=("masked",)
    )
    assert record.kind == "wrapper"
    assert record.to_dict()["forbids"] == ["recurrent"]
