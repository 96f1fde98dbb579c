from __future__ import annotations

import json
import os
import sys

import pytest
from commands import run
from fake_packages import site_in, write_files

from puffer_policies.errors import ConfigError, TrustError
from puffer_policies.registry import discover, set_default_registry
from puffer_policies.registry.trust import STORE_NAME, forget, read_trusted, trust

FILE = """
    schema = 1
    [policies.Foreign]
    target = "foreign_nets:Foreign"
    summary = "Somebody's."
    [wrappers.Around]
    target = "foreign_nets:Around"
"""
MODULE = """
    from pathlib import Path

    Path(__file__).with_name("ran").touch()

    from puffer_policies.models import Default

    class Foreign(Default): ...
"""
POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are those of POSIX")


@pytest.fixture
def shared(tmp_path):
    """Return a folder to which everybody may write, with a registry file and its module."""
    folder = tmp_path / "shared"
    with site_in(folder):  # forgets the module afterwards
        sys.path.remove(str(folder))
        write_files(folder, {"registry.toml": FILE, "foreign_nets.py": MODULE})
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """Return an environment whose home is empty; it is that of the process, too."""
    home = str(tmp_path / "home")
    for name in ("XDG_CONFIG_HOME", "PUFFER_POLICIES_REGISTRY", "PUFFER_POLICIES_TRUST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    return {"HOME": home}


@pytest.fixture
def command(shared, environ, monkeypatch, capsys):
    """Return a function that runs a command line in the shared folder, as a new process would."""
    monkeypatch.chdir(shared)
    monkeypatch.setenv("PUFFER_POLICIES_PLUGINS", "")

    def command(*words):
        set_default_registry(None)
        return run(capsys, *words)

    yield command
    set_default_registry(None)


def foreign(folder, environ):
    return discover(environ=environ, cwd=folder, plugins=[]).get("Foreign")


def has_run(folder):
    return (folder / "ran").exists()


def of_everybody(folder):
    folder.chmod(0o777)


def file_of_everybody(folder):
    (folder / "registry.toml").chmod(0o666)


def of_a_run(folder):
    (folder / "best.safetensors").touch()


def inside_a_run(folder):
    (folder.parent / "trainer.safetensors").touch()


# -- whose file it is ----------------------------------------------------------------------------


def test_a_file_of_ones_own_needs_no_consent(shared, environ):
    shared.chmod(0o755)
    assert foreign(shared, environ).load().__name__ == "Foreign"
    assert has_run(shared)


@POSIX
@pytest.mark.parametrize("change", [of_everybody, file_of_everybody, of_a_run, inside_a_run])
def test_a_file_that_another_may_have_written_runs_no_code(shared, environ, change):
    shared.chmod(0o755)
    change(shared)
    record = foreign(shared, environ)
    with pytest.raises(TrustError, match=f"puffer-policies trust {shared}"):
        record.load()
    assert not has_run(shared)


@POSIX
def test_a_file_of_another_user_runs_no_code(shared, environ, monkeypatch):
    shared.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(TrustError, match=r"registry.toml belongs to user .*, not to you"):
        foreign(shared, environ).load()
    assert not has_run(shared)


def test_a_file_that_the_user_names_or_keeps_was_chosen(shared, environ):
    named = {**environ, "PUFFER_POLICIES_REGISTRY": str(shared / "registry.toml")}
    assert foreign(shared, named).load()
    (shared / "puffer_policies").mkdir()
    (shared / "registry.toml").rename(shared / "puffer_policies" / "registry.toml")
    (shared / "puffer_policies").chmod(0o777)
    assert not foreign(shared, {"XDG_CONFIG_HOME": str(shared)}).provenance.distrust


# -- consent -------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("path", [".", "registry.toml"])
def test_consent_is_remembered_whatever_is_written_later(shared, environ, path):
    trust(shared / path, environ)
    file = shared / "registry.toml"
    file.write_text(file.read_text() + "\n[alias]\nMore = 'Foreign'\n")
    assert foreign(shared, environ).load()
    forget(shared / path, environ)
    assert foreign(shared, environ).provenance.distrust


@POSIX
def test_consent_ends_when_the_file_changes_hands(shared, environ):
    trust(shared, environ)
    store = read_trusted(environ).store
    store.write_text(json.dumps({str(shared / "registry.toml"): 12345}))
    assert foreign(shared, environ).provenance.distrust


@POSIX
def test_a_variable_trusts_for_one_command(shared, environ, tmp_path):
    paths = os.pathsep.join([str(tmp_path / "other"), str(shared)])
    assert not foreign(shared, {**environ, "PUFFER_POLICIES_TRUST": paths}).provenance.distrust
    assert foreign(shared, {**environ, "PUFFER_POLICIES_TRUST": str(tmp_path)}).provenance.distrust


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "b"}', "\0", "[" * 100_000])
def test_a_broken_store_trusts_nothing_and_can_be_written_again(shared, environ, text):
    store = read_trusted(environ).store
    store.parent.mkdir(parents=True)
    store.write_text(text)
    assert read_trusted(environ).owners == {}
    discover(environ=environ, cwd=shared, plugins=[])
    trust(shared, environ)
    assert list(read_trusted(environ).owners) == [str(shared / "registry.toml")]
    assert [each.name for each in store.parent.iterdir()] == [STORE_NAME]


def test_what_can_not_be_trusted_is_refused_in_words(shared, environ, tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        trust(tmp_path / "gone", environ)
    with pytest.raises(ConfigError, match="not among the files that you have trusted"):
        forget(shared, environ)


# -- the command line ----------------------------------------------------------------------------


@POSIX
def test_names_that_are_not_trusted_are_listed_and_explained(command, shared):
    for words in (("list",), ("show", "Foreign"), ("why", "Foreign"), ("why", "Around")):
        code, printed, error = command(*words)
        assert code == 0
        assert "project, not trusted" in printed
        assert error == ""
    assert f"everybody on this machine may write to {shared}" in printed
    assert not has_run(shared)


@POSIX
@pytest.mark.parametrize(
    "words",
    [
        ("show", "Foreign", "--card"),
        ("check", "Foreign"),
        pytest.param(
            ("train", "CartPole-v1", "--policy-name", "Foreign", "--quiet"),
            marks=pytest.mark.trainer,
        ),
        pytest.param(("compare", "CartPole-v1", "Foreign"), marks=pytest.mark.trainer),
    ],
)
def test_a_verb_that_would_run_the_code_says_the_step(command, shared, words):
    code, _, error = command(*words)
    assert code == 2
    assert f"would run code of {shared}" in error
    assert f"puffer-policies trust {shared}" in error
    assert not has_run(shared)


@POSIX
def test_the_step_works_and_the_code_is_announced_once(command, shared):
    assert command("trust", str(shared))[0] == 0
    code, printed, _ = command("trust", "--list")
    assert str(shared / "registry.toml") in printed
    code, printed, error = command("show", "Foreign", "--env", "CartPole-v1")
    assert code == 0
    assert "not trusted" not in printed
    assert error.splitlines() == [
        f"note: Foreign from {shared / 'registry.toml'} runs code of {shared}"
    ]
    assert command("trust", "--remove", str(shared))[0] == 0
    assert command("show", "Foreign", "--env", "CartPole-v1")[0] == 2


@POSIX
def test_doctor_names_what_is_not_trusted_and_imports_the_rest(shared, environ):
    from puffer_policies.registry.doctor import examine

    findings = examine(discover(environ=environ, cwd=shared, plugins=[]))
    verdicts = {finding.subject: finding.verdict for finding in findings}
    assert verdicts["project/Foreign"] == verdicts["project/Around"] == "not trusted"
    assert verdicts["puffer-policies/Default"] == "ok"
