"""Every door takes its keywords from the fields of a record, so a new field is accepted by all."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium import spaces

from puffer_policies import get_policy
from puffer_policies.contract import NEEDS_MASK, NEEDS_PREVIOUS
from puffer_policies.errors import PolicyError
from puffer_policies.registry import Registry, register_policy, register_wrapper
from puffer_policies.registry.catalog import read_catalog
from puffer_policies.registry.fields import keyword_types
from puffer_policies.registry.plugins import Registrar
from puffer_policies.registry.records import Capabilities, Layer, Provenance
from puffer_policies.spaces import Spaces
from puffer_policies.zoo.mlp import Default

ROOT = Path(__file__).parent.parent
PROJECT = Provenance(layer=Layer.PROJECT, distribution="project")
SPECIMENS = {str: "text", bool: True, int: 7, tuple: ["vector", "box"], dict: {"hidden_size": 8}}


def by_manifest(kind, keywords, folder):
    table = "policies" if kind == "policy" else "wrappers"
    values = {key: value for key, value in keywords.items() if not isinstance(value, dict)}
    lines = [f"schema = 1\n[{table}.Net]\ntarget = 'a:Net'"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    if "defaults" in keywords:
        lines.append("defaults = {hidden_size = 8}")
    path = folder / "registry.toml"
    path.write_text("\n".join(lines))
    return read_catalog(path, PROJECT).records[0]


def by_decorator(kind, keywords, folder):
    registry = Registry()
    decorator = register_policy if kind == "policy" else register_wrapper
    decorator(registry=registry, **keywords)(type("Net", (), {}))
    return registry.get("Net")


def by_registrar(kind, keywords, folder):
    registrar = Registrar(PROJECT)
    add = registrar.add_policy if kind == "policy" else registrar.add_wrapper
    add("Net", "a:Net", **keywords)
    return registrar.records[0]


DOORS = pytest.mark.parametrize("door", [by_manifest, by_decorator, by_registrar])
KINDS = pytest.mark.parametrize("kind", ["policy", "wrapper"])


@DOORS
@KINDS
def test_every_field_is_a_keyword_of_every_door_and_shown(door, kind, tmp_path):
    keywords = {name: SPECIMENS[each] for name, each in keyword_types(kind).items()}
    for name in ("observations", "actions"):
        if name in keywords:  # the kinds that exist
            keywords[name] = ["multidiscrete"]
    for trait in ("requires", "forbids", "provides"):
        if trait in keywords:
            keywords[trait] = [trait]
    record = door(kind, keywords, tmp_path)
    data = {**record.to_dict(), "extra": record.extra, "override": record.override}
    assert {name: data[name] for name in keywords} == keywords
    hash(record)


@DOORS
@KINDS
@pytest.mark.parametrize("keyword", ["sumary", "name_of_nothing"])
def test_an_unknown_keyword_is_refused_with_the_nearest_or_all(door, kind, keyword, tmp_path):
    hint = "Did you mean 'summary'" if keyword == "sumary" else "Known are .*summary, paper"
    with pytest.raises(PolicyError, match=f"'{keyword}'[\\s\\S]*{hint}"):
        door(kind, {keyword: "x"}, tmp_path)


@DOORS
@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("recurrent", 1, "true or false, got 1"),
        ("min_image_size", True, "a whole number, got True"),
        ("actions", "box", "a list of strings, got 'box'"),
        ("actions", [3], r"a list of strings, got [\[(]3"),
        ("summary", 3, "a string, got 3"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(door, keyword, value, expected, tmp_path):
    with pytest.raises(PolicyError, match=f"{keyword} should be {expected}"):
        door("policy", {keyword: value}, tmp_path)


@pytest.mark.parametrize(
    ("decorator", "kind"), [(register_policy, "policy"), (register_wrapper, "wrapper")]
)
def test_help_and_editors_know_the_keywords(decorator, kind):
    assert {*inspect.signature(decorator).parameters} == {*keyword_types(kind), "name", "registry"}


def test_a_plugin_may_pass_capabilities_as_one_object():
    registrar = Registrar(PROJECT)
    registrar.add_policy("Net", "a:Net", capabilities=Capabilities(recurrent=True), actions=["box"])
    (record,) = registrar.records
    assert record.capabilities == Capabilities(recurrent=True, actions=("box",))


@pytest.mark.parametrize("need", [NEEDS_MASK, NEEDS_PREVIOUS])
def test_a_need_of_the_record_is_an_attribute_of_the_module(need):
    registry = Registry()
    register_policy(registry=registry, **{need: True})(type("Needy", (Default,), {}))
    env = Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    policy = get_policy("Needy", env, registry=registry)
    assert getattr(policy, need) is True
    assert getattr(policy, "needs_mask" if need == NEEDS_PREVIOUS else "needs_previous", 0) == 0


NEW_CAPABILITY = """
import json, sys
from puffer_policies.cli.main import main
from puffer_policies.registry import Registry, register_policy
from puffer_policies.registry.plugins import Registrar
from puffer_policies.registry.records import Layer, Provenance

registry = Registry()
register_policy(registry=registry, needs_sleep=True)(type("Net", (), {}))
assert registry.get("Net").capabilities.traits == {"needs_sleep"}
registrar = Registrar(Provenance(layer=Layer.PLUGIN, distribution="acme"))
registrar.add_policy("Net", "a:Net", needs_sleep=True)
assert registrar.records[0].to_dict()["needs_sleep"] is True
main(["show", "Mine", "--json"])
main(["show", "Mine"])
"""


def test_a_new_capability_is_one_field(tmp_path):
    """A copy of the package, with one line more, takes, shows and stacks it."""
    copy = tmp_path / "puffer_policies"
    shutil.copytree(ROOT / "puffer_policies", copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "registry.toml", copy)
    records = copy / "registry" / "records.py"
    field = "    needs_mask: bool = False\n"
    assert field in records.read_text()
    records.write_text(
        records.read_text().replace(field, f"    needs_sleep: bool = False\n{field}")
    )
    (tmp_path / "registry.toml").write_text(
        "schema = 1\n[policies.Mine]\ntarget = 'a:Mine'\nneeds_sleep = true\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", NEW_CAPABILITY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PUFFER_POLICIES_PLUGINS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    data, _, text = run.stdout.rpartition("\n}\n")
    assert json.loads(f"{data}}}")["needs_sleep"] is True
    assert re.search(r"^needs_sleep +yes$", text, re.MULTILINE)
