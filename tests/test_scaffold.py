"""A new package: its names, what is refused, and that it is written whole or not at all."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fake_packages import site_in

from puffer_policies.cli.main import main
from puffer_policies.errors import ConfigError
from puffer_policies.registry import set_default_registry
from puffer_policies.registry.scaffold import FILES, TEMPLATE, derive_names, write_package

TEMPLATE_NAMES = ("my-policies", "my_policies", "MyNet")


@pytest.mark.parametrize(
    ("name", "distribution", "package", "policy"),
    [
        ("acme", "acme", "acme", "AcmeNet"),
        ("acme-policies", "acme-policies", "acme_policies", "AcmeNet"),
        ("Acme_Fast.Nets", "acme-fast-nets", "acme_fast_nets", "AcmeFastNet"),
        ("policies", "policies", "policies", "PoliciesNet"),
        ("a2c-policy", "a2c-policy", "a2c_policy", "A2cNet"),
        ("my-policies", "my-policies", "my_policies", "MyNet"),
    ],
)
def test_every_name_derives_from_one(name, distribution, package, policy):
    names = derive_names(name)
    assert (names.distribution, names.package, names.policy) == (distribution, package, policy)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "keyword"),
        ("json", "Python's own"),
        ("torch", "torch .* is installed"),
        ("Puffer.Policies", "puffer-policies .* is installed"),
        ("importlib-resources.", "not a distribution name"),
        ("-acme", "not a distribution name"),
        ("ac me", "not a distribution name"),
        ("acme/nets", "not a distribution name"),
        ("../acme", "not a distribution name"),
        ("äcme", "not a distribution name"),
        ("", "not a distribution name"),
        ("3d-nets", "begin with a letter"),
        ("project", "the registry calls"),
        ("a" * 300, "300 characters"),
    ],
)
def test_a_name_that_can_not_be_is_one_clear_error(tmp_path, name, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        write_package(name, into=tmp_path)
    assert repr(name) in caught.value.problem
    assert "acme-policies" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_the_import_name_of_another_distribution_is_taken(tmp_path):
    with site_in(tmp_path) as site:
        site.install("acme-of-others", files={"acme_import/__init__.py": ""})
        with pytest.raises(ConfigError, match="a package 'acme_import' in"):
            derive_names("acme-import")


def test_the_package_is_written_into_a_folder_of_its_name(tmp_path):
    scaffold = write_package("Acme_Policies", into=tmp_path)
    assert scaffold.folder == tmp_path / "acme-policies"
    assert files_of(tmp_path) == sorted(f"acme-policies/{name}" for name in scaffold.files)
    assert "src/acme_policies/nets.py" in scaffold.files


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "acme").mkdir()
    assert (write_package("acme", into=tmp_path).folder / "pyproject.toml").is_file()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path, kind):
    target, elsewhere = tmp_path / "acme", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "folder":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="is there already; nothing was written"):
        write_package("acme", into=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_parent_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no folder") as caught:
        write_package("acme", into=tmp_path / "nowhere")
    assert caught.value.fix.startswith("mkdir -p")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch, error):
    write, paths = Path.write_text, []

    def fail_at_the_fourth(path, *args, **kwargs):
        paths.append(path)
        if len(paths) == 4:
            raise error
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail_at_the_fourth)
    expected = ConfigError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_package("acme", into=tmp_path)
    assert len(paths) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_fills_meanwhile_is_left_alone(tmp_path, monkeypatch):
    rename = Path.rename

    def overtaken(path, target):
        target.mkdir()
        (target / "notes.txt").write_text("mine")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(ConfigError, match="could not be written"):
        write_package("acme", into=tmp_path)
    assert files_of(tmp_path) == ["acme/notes.txt"]


def test_no_name_of_the_template_is_left(tmp_path):
    scaffold = write_package("acme", into=tmp_path)
    for name in scaffold.files:
        text = f"{name}\n{(scaffold.folder / name).read_text()}"
        assert not [token for token in TEMPLATE_NAMES if token in text], name


def test_the_files_say_the_same_names(tmp_path):
    folder = write_package("acme-policies", into=tmp_path).folder
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    manifest = tomllib.loads((folder / "src/acme_policies/registry.toml").read_text())
    assert project["project"]["name"] == manifest["distribution"] == "acme-policies"
    [entry] = project["project"]["entry-points"]["puffer_policies.manifest"].values()
    assert entry == "acme_policies:registry.toml"
    assert manifest["policies"]["AcmeNet"]["target"] == "acme_policies.nets:AcmeNet"
    classes = ast.parse((folder / "src/acme_policies/nets.py").read_text()).body
    assert "AcmeNet" in [getattr(node, "name", "") for node in classes]
    test = (folder / "tests/test_conformance.py").read_text()
    assert 'test_conformance = conformance_tests("acme-policies")' in test.splitlines()


def test_the_template_is_listed_whole():
    """A checkout holds what tests left there besides, so git is asked where there is one."""
    root = Path(__file__).parent.parent
    listing = subprocess.run(
        ["git", "ls-files"], cwd=root / TEMPLATE, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    assert sorted(FILES) == sorted(listing.stdout.split())


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUFFER_POLICIES_PLUGINS", "")
    set_default_registry(None)
    yield tmp_path
    set_default_registry(None)


def test_new_shows_every_derived_name(in_an_empty_folder, capsys):
    assert main(["new", "acme-policies"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"distribution +acme-policies\n", out)
    assert re.search(r"package +acme_policies\n", out)
    assert re.search(r"policy +acme-policies/AcmeNet", out)


def test_new_as_json_lists_the_files(in_an_empty_folder, capsys):
    (in_an_empty_folder / "a folder").mkdir()
    assert main(["new", "acme", "--into", "a folder", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["policy"] == "acme/AcmeNet"
    assert all((in_an_empty_folder / data["folder"] / name).is_file() for name in data["files"])


def test_a_refused_name_is_exit_code_2(in_an_empty_folder, capsys):
    assert main(["new", "json"]) == 2
    assert "Python's own" in capsys.readouterr().err


def test_new_imports_no_torch(tmp_path):
    code = (
        "import sys; from puffer_policies.cli.main import main;"
        "assert main(['new', 'acme']) == 0;"
        "heavy = {'torch', 'numpy', 'gymnasium'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_python_dash_m_fills_an_empty_folder_in_the_working_directory(tmp_path):
    (tmp_path / "acme").mkdir()
    command = [sys.executable, "-m", "puffer_policies", "new", "acme"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "acme" / "pyproject.toml").is_file()


def files_of(folder: Path) -> list[str]:
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder).as_posix() for path in paths)
