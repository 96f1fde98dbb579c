"""Registry files of every shape: a right result, or an error of ours that names the file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from puffer_policies.errors import ConfigError, PolicyError
from puffer_policies.registry import Registry, discover
from puffer_policies.registry.catalog import __doc__ as FORMAT
from puffer_policies.registry.catalog import read_catalog
from puffer_policies.registry.records import Layer, Provenance
from puffer_policies.registry.resolution import MAX_ALIASES
from puffer_policies.tomlfile import read_toml

PROJECT = Provenance(layer=Layer.PROJECT, distribution="project")
FILES = int(os.environ.get("PUFFER_POLICIES_FUZZ_FILES", "800"))
EXHAUSTIVE_FILES = 10_000

EXAMPLE = FORMAT[FORMAT.index("schema = 1") : FORMAT.rindex("```")]
VALUES = [
    "0x" + "f" * 5_000, "9" * 5_000, "-" + "9" * 30, "1e400", "nan", "true", "-1", "1979-05-27",
    "[" * 60 + "]" * 60, "[" * 2_000, "{a=" * 40 + "1" + "}" * 40, "{}", "[]", "[[]]", "[1, 'a']",
    "''", "'a/B'", "'a:b'", "'Tiny'", "'Default'", "'LSTMWrapper(Default)'", '"\\u0000"', '"\\n"',
    "'x'" * 3, "'" + "A(" * 300 + "'", "'Default(a=0x" + "f" * 5_000 + ")'", "'>=1'", "'é'", '"""',
]  # fmt: skip
KEYS = [
    "schema", "distribution", "target", "policy", "names", "defaults", "observations", "é", "''",
    '"a.b"', "a.b", ".".join("a" * 300), "policies.Tiny.target", "alias.Net", "removed", "1", "-",
]  # fmt: skip
TABLES = ["policies.Net", "wrappers.Net", "presets.p", "alias", "envs", "resolve", "block", "x", ""]


def mutated(lines: list[str], generator: random.Random) -> bytes:
    """Return a registry file with a few wrong keys, values, tables, lines and bytes."""
    lines = list(lines)
    for _ in range(generator.randint(1, 2)):
        place = generator.randrange(len(lines))
        key, equals, _ = lines[place].partition("=")
        choice = generator.randrange(7)
        if choice == 0 and equals:
            lines[place] = f"{key}= {generator.choice(VALUES)}"
        elif choice == 1 and equals:
            lines[place] = f"{generator.choice(KEYS)} {lines[place][len(key) :]}"
        elif choice == 2:
            lines.insert(place, f"{generator.choice(KEYS)} = {generator.choice(VALUES)}")
        elif choice == 3:
            lines.insert(place, f"[{generator.choice(TABLES)}]")
        elif choice == 4:
            lines.insert(place, generator.choice(lines))
        elif choice == 5:
            del lines[place]
        else:
            lines[place] = lines[place].replace(generator.choice('=[]"#'), "", 1)
    data = bytearray("\n".join(lines), "utf-8")
    if not generator.randrange(10):
        data[generator.randrange(len(data))] = generator.randrange(256)
    return bytes(data)


def outcome(path: Path) -> str:
    """Return the kind of error of a registry file, or '' if it is read and each name answers."""
    try:
        catalog = read_catalog(path, PROJECT, search_path=str(path.parent))
        registry = Registry()
        catalog.add_to(registry)
    except PolicyError as error:
        text = str(error)
        assert len(text) < 20_000
        assert str(path) in text, text
        return type(error).__name__
    for entry in (*registry.records(), *registry.pointers()):
        assert registry.explain(entry.name).lines
        assert repr(entry)
    assert all(str(registry.spec(name)) for name in registry.presets)
    return ""


@pytest.mark.parametrize(
    "count", [FILES, pytest.param(EXHAUSTIVE_FILES, marks=pytest.mark.exhaustive)]
)
def test_a_mutated_file_is_read_or_refused_in_words(tmp_path, count):
    generator, path, outcomes = random.Random(1), tmp_path / "registry.toml", {}
    lines = EXAMPLE.strip().splitlines()
    with path.open("wb", buffering=0) as file:  # to open it anew would take half of the time
        for number in range(count):
            file.seek(0)
            file.truncate(file.write(mutated(lines, generator)))
            try:
                kind = outcome(path)
            except Exception as error:
                error.add_note(f"file {number}: {path.read_bytes()!r}")
                raise
            outcomes[kind] = outcomes.get(kind, 0) + 1
    # All of one outcome would prove nothing.
    assert min(outcomes[""], outcomes["ConfigError"]) > count / 10, outcomes


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("a = 1\nb = 0x" + "f" * 5_000, ":2", "longer than the 64 bits"),
        ("a = [1, [2, 0o7777777777777777777777777]]", ":1", "longer than the 64 bits"),
        ("a = -" + "9" * 5_000, "", "longer than the 64 bits"),
        ("a = " + "[" * 5_000, "", "nested more than"),
        ("a = " + "[" * 60 + "]" * 60, ":1", "nested more than"),
        ("a = " + "{b = " * 60 + "1" + "}" * 60, ":1", "nested more than"),
        ("\n" + ".".join("a" * 20_000) + " = 1", ":2", "nested more than"),
        ("\n" + " . ".join(["'a'"] * 20_000) + " = 1", ":2", "nested more than"),
        ("[" + ".".join("a" * 20_000) + "]", ":1", "nested more than"),
        ("a = " + "x" * 100_000, ":1:5", "this is not TOML"),
    ],
)
def test_what_can_not_be_printed_or_walked_is_refused_in_a_short_text(
    tmp_path, text, place, expected
):
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", [f"a = {2**63 - 1}\nb = -{2**63}", "a = '" + "b." * 40 + "'", "# " + "b." * 40]
)
def test_what_is_only_nearly_too_long_is_read(tmp_path, text):
    (tmp_path / "registry.toml").write_text(text)
    assert read_toml(tmp_path / "registry.toml").text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("".join(f"sumary{i} = 1\n" for i in range(20_000)), "and 19,980 more"),
        (f"observations = {[f'vectr{i}' for i in range(20_000)]}", "'vectr0' is not a kind"),
    ],
)
def test_thousands_of_mistakes_are_counted(tmp_path, text, expected):
    path = tmp_path / "registry.toml"
    path.write_text(f"schema = 1\n[policies.Net]\ntarget = 'a:B'\n{text}")
    with pytest.raises(ConfigError, match=expected) as caught:
        read_catalog(path, PROJECT)
    assert "Did you mean" in str(caught.value)
    assert len(str(caught.value)) < 10_000


def test_a_chain_of_thousands_of_aliases_leads_nowhere(tmp_path):
    aliases = "".join(f"Net{i} = 'Net{i + 1}'\n" for i in range(2_000))
    (tmp_path / "registry.toml").write_text(f"schema = 1\n[alias]\n{aliases}Net2000 = 'Default'")
    registry = discover(environ={}, cwd=tmp_path, plugins=[])
    assert registry.explain("Net0").verdict == "broken"
    assert f"more than {MAX_ALIASES} aliases" in registry.explain("Net0").lines[0]
    assert registry.get("Net1990").name == "Default"
