from __future__ import annotations

import re
from textwrap import dedent

import pytest

from puffer_policies.errors import ConfigError
from puffer_policies.registry.catalog import __doc__ as FORMAT
from puffer_policies.registry.catalog import read_catalog
from puffer_policies.registry.records import Layer, PolicyRecord, Provenance, WrapperRecord
from puffer_policies.tomlfile import read_toml

PROJECT = Provenance(layer=Layer.PROJECT, distribution="project")
ACME = Provenance(layer=Layer.PLUGIN, distribution="acme-nets", version="1.2")


@pytest.fixture
def write_registry(tmp_path):
    """Return a function that writes a registry.toml and gives its path."""

    def write(text):
        path = tmp_path / "registry.toml"
        path.write_text(dedent(text), encoding="utf-8")
        return path

    return write


def refusal(path, place=PROJECT):
    with pytest.raises(ConfigError) as caught:
        read_catalog(path, place)
    return str(caught.value)


# -- TOML files ----------------------------------------------------------------------------------


def test_a_key_knows_its_line(write_registry):
    file = read_toml(
        write_registry(
            '''\
            top = 1
            [a]  # comment
            x = """
            [not.a.table]
            y = 1
            """
            list = [
              ["b"],
              "]",
            ]
            z = {inner = 1}
            [a."b c".d]
            'k' = 1
            dotted.key = 2
            [[rows]]
            '''
        )
    )
    lines = {
        ("top",): 1,
        ("a",): 2,
        ("a", "x"): 3,
        ("a", "list"): 7,
        ("a", "z"): 11,
        ("a", "z", "inner"): 11,
        ("a", "b c", "d"): 12,
        ("a", "b c"): 12,
        ("a", "b c", "d", "k"): 13,
        ("a", "b c", "d", "dotted", "key"): 14,
        ("rows",): 15,
        ("a", "gone"): 2,
    }
    assert {keys: file.at(*keys) for keys in lines} == {
        keys: f"{file.path}:{line}" for keys, line in lines.items()
    }
    assert file.at("nowhere") == str(file.path)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("a = 1\na = 2\n", ":2:6", "may appear in a file only once"),
        ("[a]\nb = 1\n[a]", ":3:3", "may appear in a file only once"),
        ("a = yes", ":1:5", "Text needs quotes"),
        ("a = [1,", ":1", "this is not TOML"),
        ("a = 1\nb", ":2", "this is not TOML"),
    ],
)
def test_malformed_toml_is_told_by_line_and_column(write_registry, text, place, expected):
    with pytest.raises(ConfigError) as caught:
        read_toml(write_registry(text))
    assert f"registry.toml{place}" in str(caught.value)
    assert expected in str(caught.value)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "registry.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n[b]\r\nc = 2\r\n")
    file = read_toml(path)
    assert file.data == {"a": 1, "b": {"c": 2}}
    assert file.at("b", "c") == f"{path}:3"


def test_files_that_can_not_be_read_say_why(tmp_path):
    (tmp_path / "latin").write_bytes(b"a = '\xe9'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_toml(tmp_path / "latin")
    with pytest.raises(ConfigError, match="There is no file"):
        read_toml(tmp_path / "gone")
    with pytest.raises(ConfigError, match="can't be read"):
        read_toml(tmp_path)


# -- registry.toml -------------------------------------------------------------------------------


def test_the_format_in_the_docstring_is_read(write_registry):
    text = re.search(r"```toml\n(.*)```", FORMAT, re.DOTALL)[1]
    catalog = read_catalog(write_registry(text), PROJECT)
    net, wrapper = catalog.records
    assert isinstance(net, PolicyRecord)
    assert net.defaults == {"hidden_size": 256}
    assert net.capabilities.observations == ("vector", "image")
    assert net.override is True
    assert isinstance(wrapper, WrapperRecord)
    assert wrapper.provides == ("attention",)
    assert [pointer.kind for pointer in catalog.pointers] == ["alias", "deprecated", "removed"]
    assert [preset.name for preset in catalog.presets] == ["my-preset"]
    assert {choice.table for choice in catalog.choices} == {"resolve", "names", "distributions"}
    assert [limit.specifier for limit in catalog.requirements] == [">=1.2"]


def test_a_record_knows_its_line_and_whose_it_is(write_registry):
    path = write_registry('schema = 1\n\n[policies.Net]\ntarget = "acme.nets:Net"\n')
    (record,) = read_catalog(path, ACME).records
    assert record.provenance.origin == f"{path}:3"
    assert record.qualified_name == "acme-nets/Net"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[policies.Net]\ntraget = "a:B"', 3, "unknown key 'traget'. Did you mean 'target'?"),
        ("[policy.Net]", 2, "unknown key 'policy'. Did you mean 'policies'?"),
        ("[zzz]", 2, "unknown key 'zzz'. Known are schema,"),
        ("[policies.Net]\nsummary = 'x'", 2, "policies.Net has no target"),
        ("[policies.Net]\ntarget = 3", 3, "policies.Net.target should be a string, got 3"),
        ("[policies.Net]\ntarget = 'a.b'", 3, "did you mean 'a:b'?"),
        ("[policies.Net]\ntarget = 'os'", 3, "should be 'module:Class'"),
        ("[policies.Net]\ntarget = 'a:b()'", 3, "should be 'module:Class'"),
        ("[policies.'my net']\ntarget = 'a:B'", 2, "'my net' should be a class name"),
        ("[policies.class]\ntarget = 'a:B'", 2, "'class' should be a class name"),
        ("[policies]\nNet = 'a:B'", 3, "policies.Net should be a table"),
        ("policies = 3", 2, "policies should be a table, got 3"),
        (
            "[policies.Net]\ntarget = 'a:B'\nobservations = ['picture']",
            4,
            "'picture' is not a kind; known are vector, array, image",
        ),
        ("[policies.Net]\ntarget = 'a:B'\nactions = 'box'", 4, "should be a list of strings"),
        ("[policies.Net]\ntarget = 'a:B'\nactions = ['boxx']", 4, "Did you mean 'box'?"),
        ("[policies.Net]\ntarget = 'a:B'\nrecurrent = 1", 4, "should be true or false, got 1"),
        ("[policies.Net]\ntarget = 'a:B'\nmin_image_size = true", 4, "should be a whole number"),
        ("[policies.Net]\ntarget = 'a:B'\nmin_image_size = -1", 4, "-1 should be"),
        ("[policies.Net]\ntarget = 'a:B'\nrequires = []", 4, "unknown key 'requires'"),
        ("[policies.Net]\ntarget = 'a:B'\ndefaults = {a = 1979-05-27}", 4, "plain data"),
        (
            "[wrappers.W]\ntarget = 'a:B'\nrequires = ['x']\nforbids = ['x']",
            5,
            "'x' is required as well",
        ),
        ("[presets.small]\npolicy = 'Net('", 3, "is not a policy expression"),
        ("[presets.small]", 2, "presets.small has no policy"),
        ("[presets.'a b']\npolicy = 'Net'", 2, "'a b' should be of ASCII letters"),
        ("[alias]\nA = 3", 3, "alias.A should be some text, got 3"),
        ("[alias]\nA = 'a b'", 3, "'a b' should be a class name"),
        ("[removed]\nA = ''", 3, "removed.A should be some text"),
        ("[resolve]\nNet = 'acme/Other'", 3, "can only be settled for acme/Net"),
        ("[resolve]\nNet = '-acme'", 3, "is not a distribution name"),
        ("[block]\nnames = 'Net'", 3, "block.names should be a list of strings"),
        ("[block]\nname = ['Net']", 3, "Did you mean 'names'?"),
        ("[require]\nacme = '1.2'", 3, "'1.2' is not a version limit"),
        ("distribution = 3", 2, "3 is not a distribution name"),
    ],
)
def test_an_offence_is_told_by_line(write_registry, text, line, expected):
    text = refusal(write_registry(f"schema = 1\n{text}\n"))
    assert f"registry.toml:{line}: " in text
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("", "write `schema = 1` as its first line"),
        ("schema = 2", "has schema 2, this puffer_policies reads 1: upgrade"),
        ("schema = '1'", "schema should be 1, got '1'"),
        ("schema = true", "schema should be 1, got True"),
    ],
)
def test_another_schema_is_refused_before_anything_else(write_registry, first, expected):
    assert expected in refusal(write_registry(f"{first}\n[nonsense]\n"))


def test_all_offences_of_a_file_come_in_one_error(write_registry):
    text = refusal(write_registry("schema = 1\n[zzz]\n[policies.a]\n[alias]\nB = 2\n"))
    assert "has 3 errors:" in text
    assert [int(n) for n in re.findall(r"registry.toml:(\d+): ", text)] == [2, 3, 5]


def test_one_name_in_two_tables_is_an_offence(write_registry):
    text = refusal(
        write_registry("schema = 1\n[policies.Net]\ntarget = 'a:B'\n[removed]\nNet = 'it went'\n")
    )
    assert "registry.toml:5: 'Net' is in [policies] as well" in text


@pytest.mark.parametrize(
    "table", ["[resolve]\nA = 'b'", "[block]\nnames = ['A']", "[require]\na = '>1'"]
)
def test_a_package_manifest_can_not_rule_over_names(write_registry, table):
    text = refusal(write_registry(f"schema = 1\n{table}\n"), ACME)
    assert "registry.toml:2: " in text
    assert "for a user's or a project's registry.toml" in text


def test_a_package_manifest_can_not_override(write_registry):
    path = write_registry("schema = 1\n[policies.Net]\ntarget = 'a:B'\noverride = true\n")
    assert "registry.toml:4: override: a package can't" in refusal(path, ACME)
    assert read_catalog(path, PROJECT).records[0].override


def test_a_manifest_of_another_package_is_refused(write_registry):
    path = write_registry("schema = 1\ndistribution = 'other'\n")
    assert "manifest is of 'other', but 'acme-nets'" in refusal(path, ACME)
    assert read_catalog(write_registry("schema = 1\ndistribution = 'Acme_Nets'\n"), ACME)
