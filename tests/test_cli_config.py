"""The verbs about configs, and what is said to a config that is misnamed or mistaken."""

from __future__ import annotations

import json
import sys

import pytest
from commands import run

from puffer_policies.config.load import load_config

pytestmark = pytest.mark.usefixtures("project")


def test_a_shown_config_is_a_file_that_loads_as_the_config(capsys, project):
    code, out, err = run(capsys, "show-config", "cartpole_lstm", "--train.gamma", "0.5")
    assert (code, err) == (0, "")
    (project / "run.toml").write_text(out)
    assert load_config("run.toml") == load_config("cartpole_lstm", ["--train.gamma", "0.5"])


def test_a_shown_config_says_where_each_value_comes_from(capsys):
    _, out, _ = run(capsys, "show-config", "cartpole", "--origin", "--train.no-anneal-lr")
    assert "anneal_lr = false  # command line" in out
    assert "classic_control.toml:" in out
    values = [line for line in out.splitlines() if " = " in line][1:]
    assert all("  # " in line for line in values)


def test_a_shown_config_as_json_is_a_runs(capsys, project):
    _, out, _ = run(capsys, "show-config", "cartpole", "--json")
    (project / "config.json").write_text(out)
    assert load_config("config.json") == load_config("cartpole")
    _, shown, _ = run(capsys, "show-config", str(project), "--json")
    assert shown == out
    _, out, _ = run(capsys, "show-config", "config.json", "--json", "--origin")
    assert json.loads(out)["train"]["gamma"] == {"value": 0.98, "origin": "config.json"}


def test_the_policy_of_a_shown_config_may_be_missing_here(capsys):
    code, out, err = run(capsys, "show-config", "cartpole", "--policy-name", "Defualt")
    assert code == 0
    assert 'policy_name = "Defualt"' in out
    assert "warning: No policy or wrapper is called 'Defualt'" in err


def test_configs_are_listed_and_matched_by_name_and_alias(capsys):
    _, out, _ = run(capsys, "configs")
    assert "CartPole-v1" in out
    assert "acrobot" in out
    _, out, _ = run(capsys, "configs", "Breakout-v0", "--json")
    (found,) = json.loads(out)
    assert found["name"] == "breakout"
    assert found["env_name"] == "puffer_policies/Breakout-v0"
    assert {"summary", "aliases"} <= found.keys()
    code, out, _ = run(capsys, "configs", "zzz")
    assert (code, out) == (0, "Nothing matches 'zzz'.\n")


@pytest.mark.trainer
def test_training_nothing_lists_the_configs_that_there_are(capsys):
    _, listed, _ = run(capsys, "configs")
    code, out, err = run(capsys, "train")
    assert (code, out) == (2, listed)
    assert "Say what to train" in err


def test_help_leads_to_the_options_and_the_configs(capsys):
    code, out, _ = run(capsys, "train", "cartpole", "--help")
    assert code == 0
    assert all(word in out for word in ("--options", "show-config", "configs", "--allow-unknown"))


def test_options_have_the_values_of_a_config(capsys):
    _, out, _ = run(capsys, "train", "--options")
    assert "--train.gamma float from 0 to 1  (default: 0.99)" in out
    assert "--policy-name str that names a policy  (default: Default)" in out
    _, out, _ = run(capsys, "train", "cartpole", "--options")
    assert "--train.gamma float from 0 to 1  (value: 0.98)" in out
    _, out, _ = run(capsys, "train", "cartpole", "--options", "--json")
    options = {each["flag"]: each for each in json.loads(out)}
    assert (options["--train.gamma"]["value"], options["--train.gamma"]["default"]) == (0.98, 0.99)


def test_unknown_keys_are_warnings_where_that_is_asked_for(capsys, project):
    (project / "run.toml").write_text('[base]\nenv_name = "CartPole-v1"\n[train]\ngama = 0.9\n')
    code, out, err = run(capsys, "show-config", "run.toml")
    assert (code, out) == (2, "")
    code, out, err = run(capsys, "show-config", "run.toml", "--allow-unknown")
    assert code == 0
    assert "warning: run.toml:4: train.gama has no effect" in err
    code, _, err = run(capsys, "show-config", "run.toml", "--allow-unknown", "--train.gama", "1")
    assert code == 2
    assert "--train.gama: no such key" in err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["show-config", "cartpoel"],
            ["No config is called", "'CartPole-v1'", "config 'cartpole'"],
        ),
        (["show-config", "breakot"], ["config 'breakout'"]),
        (["show-config", "zzzz"], ["'puffer-policies configs' lists the configs"]),
        (["show-config", "brakout.toml"], ["no file brakout.toml", "'breakout'"]),
        (
            ["show-config", "run.yaml"],
            ["run.yaml is a file, but not a config", ".toml, .ini or .json"],
        ),
        (["show-config", "."], ["not the folder of a run"]),
        (["show-config", "cartpole", "--orgin"], ["no flag --orgin", "Did you mean '--origin'?"]),
        (["show-config", "--orgin", "cartpole"], ["Did you mean '--origin'?"]),
        (["show-config", "cartpole", "twice"], ["'twice': expected a flag"]),
        (
            ["show-config", "cartpole", "--train.anneal-lr", "maybe"],
            ["True or False, found 'maybe'"],
        ),
        (["show-config", "--train.anneal-lr", "cartpole"], ["True or False, found 'cartpole'"]),
        (
            ["show-config", "cartpole", "--policy-name", "os.system"],
            ["'os.system' is not a policy"],
        ),
        (["show-config", "cartpole", "--rnn-name", "os:system"], ["'os:system' is an import path"]),
        (["config"], ["Did you mean 'configs'"]),
    ],
)
def test_a_mistake_is_told_its_cure(capsys, project, argv, expected):
    (project / "run.yaml").write_text("")
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert [text for text in expected if text not in err] == []
    assert "Traceback" not in err


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["cartpoel"], ["'CartPole-v1'", "config 'cartpole'"]),
        (["CartPoel-v1"], ["No config is called 'CartPoel-v1'", "'CartPole-v1'"]),
        (["ALE/Pogn-v5"], ["ALE/Pong-v5"]),
        (["--quite", "cartpole"], ["Did you mean '--quiet'?"]),
        (["--gamma", "0.9", "cartpole"], ["It is a key of [train]: --train.gamma."]),
        (["--train.no-anneal-lr"], ["Say what to train"]),
        (["nowhere-v0", "--policy-name", "Defualt"], ["Did you mean 'Default'?"]),
    ],
)
def test_a_mistake_in_training_is_told_its_cure(capsys, argv, expected):
    code, _, err = run(capsys, "train", *argv)
    assert code == 2
    assert [text for text in expected if text not in err] == []


def test_a_refused_name_is_never_imported(capsys, project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    (project / "evil.py").write_text("open('imported', 'w').close()\nclass Net: pass\n")
    (project / "run.toml").write_text(
        '[base]\nenv_name = "CartPole-v1"\npolicy_name = "evil:Net"\n'
    )
    named = (
        ["run.toml"],
        ["cartpole", "--policy-name", "evil.Net"],
        ["cartpole", "--rnn-name=evil"],
    )
    for words in named:
        _, _, err = run(capsys, "show-config", *words)
        assert err
        assert "evil" not in sys.modules
        assert not (project / "imported").exists()


def test_a_preset_is_shown_like_a_policy(capsys, project):
    (project / "registry.toml").write_text(
        'schema = 1\n[presets.small]\npolicy = "Default(hidden_size=8)"\nsummary = "tiny"\n'
    )
    code, out, _ = run(capsys, "show", "small")
    assert code == 0
    assert all(
        word in out for word in ("preset", "Default(hidden_size=8)", "tiny", "registry.toml:2")
    )
    _, out, _ = run(capsys, "show", "small", "--json")
    assert json.loads(out)["policy"] == "Default(hidden_size=8)"
    _, out, _ = run(capsys, "show", "small", "--env", "CartPole-v1", "--json")
    assert json.loads(out)["parameters"]["total"] == 5 * 8 + 8 * 2 + 2 + 8 + 1


def test_a_pattern_matches_the_name_behind_the_package_too(capsys, project):
    (project / "registry.toml").write_text('schema = 1\n[presets.small]\npolicy = "Default"\n')
    _, out, _ = run(capsys, "list", "sma*")
    assert "project/small" in out
