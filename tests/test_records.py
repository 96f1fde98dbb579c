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


@pytest.mark.parametrize(
    "crime",
    [
        "1 / 0",
        "raise SystemExit(3)",
        "import os; os.nothing",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "import pytest; pytest.skip(allow_module_level=True)",
        "class Mute(BaseException):\n    def __str__(self): raise self\nraise Mute",
    ],
)
def test_a_module_that_breaks_at_import_is_a_plugin_error_with_its_cause(tmp_path, crime):
    with site_in(tmp_path):
        write_files(tmp_path, {"rude.py": crime})
        with pytest.raises(PluginError) as caught:
            policy(target="rude:Net").load()
    assert caught.value.__cause__ is not None
    assert caught.value.distribution == "acme-nets"


@pytest.mark.parametrize(
    "member", ["__class__ = property(lambda self: 1 / 0)", "def __repr__(self): raise SystemExit"]
)
def test_an_object_that_raises_whatever_it_is_asked_is_not_a_class(tmp_path, member):
    with site_in(tmp_path):
        write_files(tmp_path, {"odd_a.py": f"class Odd:\n    {member}\nNet = Odd()"})
        with pytest.raises(PluginError, match="should be a class, but 'odd_a:Net' is"):
            policy(target="odd_a:Net").load()


def test_a_missing_class_is_named_with_the_file_and_the_nearest(tmp_path):
    with site_in(tmp_path):
        write_files(tmp_path, {"near_a.py": "class Network: ..."})
        with pytest.raises(PluginError, match=r"no 'Netwrk' in .*near_a.py") as caught:
            policy(target="near_a:Netwrk").load()
    assert "Did you mean 'Network'?" in caught.value.fix


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
