"""Odd surroundings and careless arguments: one message and exit code 2, and nothing ignored."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import gymnasium
import pytest
from commands import run

from puffer_policies.cli.main import main

pytestmark = pytest.mark.usefixtures("project")


def run_apart(*argv: str, stdout=subprocess.PIPE, before="", **environ: str):
    command = f"{before}from puffer_policies.cli.main import main; raise SystemExit(main({argv!r}))"
    return subprocess.run(
        [sys.executable, "-c", command],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def test_an_output_without_unicode_loses_letters_only(monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "ascii"))
    assert main(["check", "Default", "--select", "S1", "--no-isolation"]) == 0
    assert b"Default" in output.getvalue()
    assert b"?" in output.getvalue()


def test_a_working_folder_that_is_gone_is_named(project):
    gone = project / "gone"
    before = f"import os; os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir('../gone'); "
    done = run_apart("list", before=before)
    assert done.returncode == 2
    assert "working folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("verb", [("list",), ("show", "Default")])
def test_an_output_that_is_full_is_a_mistake(verb):
    with open("/dev/full", "w") as full:
        done = run_apart(*verb, stdout=full)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("list", "--fits", ""),
        ("show", "Default", "--env", ""),
        ("check", "Default", "--env", ""),
        ("new", "acme", "--into", ""),
    ],
)
def test_an_empty_value_is_not_as_good_as_none(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert f"argument {argv[-2]}: expected" in err


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "0", "x"])
@pytest.mark.parametrize("argv", [("doctor", "--slow"), ("check", "Default", "--time-limit")])
def test_seconds_are_a_positive_number(capsys, argv, seconds):
    code, out, err = run(capsys, *argv, seconds)
    assert (code, out) == (2, "")
    assert f"expected a number of seconds above 0, found '{seconds}'" in err


@pytest.mark.parametrize("flag", ["--episodes", "--max-steps", "--video-episodes"])
def test_a_number_of_eval_is_read_as_in_a_config(capsys, flag):
    for number in ("1e2", "1_00"):
        code, _, err = run(capsys, "eval", "nowhere", flag, number)
        assert (code, "nowhere" in err) == (2, True)
    for number in ("0", "1.5", "many", "inf"):
        code, _, err = run(capsys, "eval", "nowhere", flag, number)
        assert f"expected a whole number above 0, found {number!r}" in err


def test_an_unknown_flag_hints_at_the_nearest_of_its_verb(capsys):
    code, _, err = run(capsys, "list", "--sorce")
    assert code == 2
    assert "usage: puffer-policies list" in err
    assert "Did you mean '--source'" in err


@pytest.mark.parametrize("verb", ["train", "show-config"])
@pytest.mark.parametrize(
    ("flag", "hint"),
    [("--nope", "no such option"), ("--train.nope", "no such key"), ("--nope.x", "there is no")],
)
def test_an_unknown_flag_of_a_config_is_unknown_also_without_a_value(capsys, verb, flag, hint):
    code, _, err = run(capsys, verb, "CartPole-v1", flag)
    assert code == 2
    assert f"{flag}: {hint}" in err
    assert "expected a value" not in err


def test_no_policy_to_judge_is_said(capsys):
    code, out, _ = run(capsys, "list", "zzz", "--fits", "CartPole-v1")
    assert code == 0
    assert "Nothing matches 'zzz'" in out


def test_a_preset_leads_somewhere(capsys, project):
    (project / "registry.toml").write_text('schema = 1\n[presets.small]\npolicy = "Default"\n')
    code, out, _ = run(capsys, "why", "small")
    assert code == 0
    assert "preset" in out


def test_a_file_is_no_folder_to_make(capsys, project):
    (project / "file").write_text("")
    code, _, err = run(capsys, "new", "acme", "--into", "file")
    assert code == 2
    assert "not a folder" in err
    assert "mkdir" not in err


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("check", ".::X"), "'.' is a folder"),
        (("check", "nowhere.py::X"), "'nowhere.py' is not a file in "),
        (("eval", "nowhere"), "Give a checkpoint, or the folder of a run"),
        (("train", "Cartpole-v1"), "Did you mean"),
        (("train", "CartPole-v1", "--vec.num-envs", "1e30"), "--vec.num-envs"),
        (("train", "CartPole-v1", "--vec.num-envs", "1e11"), "vec.num_envs"),
    ],
)
def test_a_message_says_what_was_found_and_what_to_do(capsys, argv, expected):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert expected in err
    assert "?." not in err


def test_a_terminal_of_eighty_columns_shows_no_empty_one(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "recurrent" not in out
    names = len(json.loads(run(capsys, "list", "--json")[1])["names"])
    assert out.count("\n") < 6 * names, "a column without room breaks every line in many"


@pytest.mark.skipif(
    hasattr(gymnasium.vector, "AutoresetMode"), reason="this gymnasium is new enough for training"
)
def test_training_with_an_old_gymnasium_names_the_extra(capsys):
    code, out, err = run(capsys, "train", "CartPole-v1")
    assert (code, out) == (2, "")
    assert "puffer-policies[train]" in err
    assert gymnasium.__version__ in err
