"""Flags: every spelling of booleans, None, lists and numbers; what is refused, and how."""

from __future__ import annotations

import pytest

from puffer_policies.config.config import Config
from puffer_policies.config.flags import read_flags
from puffer_policies.config.load import ConfigWarning, load_config
from puffer_policies.errors import ConfigError, PolicyError

TRUE = ("True", "true", "TRUE", "yes", "on", "1")
FALSE = ("False", "false", "FALSE", "no", "off", "0")
NONE = ("None", "none", "null", "")


def train(*flags):
    return load_config("cartpole", flags).train


@pytest.mark.parametrize(("words", "expected"), [(word, word in TRUE) for word in (*TRUE, *FALSE)])
@pytest.mark.parametrize("flag", ["--train.anneal-lr", "--train.anneal_lr"])
def test_a_boolean_is_read_in_every_spelling(flag, words, expected):
    assert train(flag, words).anneal_lr is expected
    assert train(f"{flag}={words}").anneal_lr is expected
    assert load_config("cartpole", ["--eval.deterministic", words]).eval.deterministic is expected


def test_a_boolean_alone_is_true_wherever_it_stands():
    assert train("--train.anneal-lr", "False", "--train.anneal-lr").anneal_lr is True
    found = train("--train.clip-vloss", "--train.gamma", "0.5")
    assert (found.clip_vloss, found.gamma) == (True, 0.5)
    assert train("--train.use-rnn").use_rnn is True


@pytest.mark.parametrize("flag", ["--train.no-anneal-lr", "--no-train.anneal-lr"])
def test_a_boolean_that_says_no_is_false_and_takes_no_value(flag):
    found = train(flag, "--train.gamma", "0.5")
    assert (found.anneal_lr, found.gamma) == (False, 0.5)
    assert read_flags([flag, "cartpole"])[1] == ["cartpole"]
    with pytest.raises(ConfigError, match=f"{flag}: it means False and takes no value"):
        train(f"{flag}=True")


def test_only_booleans_stand_alone():
    for flag in ("--train.seed", "--policy.deep", "--rnn-name"):
        with pytest.raises(ConfigError, match=f"{flag}: expected a value after it"):
            train(flag, "--train.gamma", "0.5")
    with pytest.raises(ConfigError, match=r"--train\.no-seed: no such key in \[train\]"):
        train("--train.no-seed", "1")


@pytest.mark.parametrize("word", NONE)
def test_none_is_read_where_it_is_a_value(word):
    assert train(f"--train.target-kl={word}").target_kl is None
    assert load_config("cartpole_lstm", [f"--rnn-name={word}"]).base.rnn_name is None
    with pytest.raises(ConfigError, match="expected an integer"):
        train(f"--train.seed={word}")


@pytest.mark.parametrize("word", ["None", "none", "null"])
def test_none_is_an_argument(word):
    assert load_config("cartpole", ["--env.limit", word]).env == {"limit": None}


@pytest.mark.parametrize("text", ["[1, 2]", "(1, 2)", "1,2", "1, 2"])
def test_a_list_is_read_in_every_spelling(text):
    config = load_config("cartpole", ["--env.sizes", text, f"--policy.sizes={text}"])
    assert config.env["sizes"] == config.policy["sizes"] == [1, 2]


@pytest.mark.parametrize("text", ["1e6", "1_000_000", "1000000", "1.0e6", "+1e6"])
def test_an_integer_is_read_in_every_spelling(text):
    found = train("--train.total-timesteps", text).total_timesteps
    assert (found, type(found)) == (1_000_000, int)


def test_a_negative_number_is_a_value_and_no_flag():
    assert load_config("cartpole", ["--env.x", "-1", "--env.y=-2e-3"]).env == {"x": -1, "y": -2e-3}


def test_a_value_that_begins_with_two_dashes_needs_an_equals_sign():
    assert load_config("cartpole", ["--env.text=--x"]).env == {"text": "--x"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--learning-rat", "1"], "no such option. Did you mean '--train.learning-rate'?"),
        (["--gamma", "1"], "It is a key of [train]: --train.gamma."),
        (["--train.gama", "1"], "Did you mean 'gamma'?"),
        (["--trian.gamma", "1"], "there is no section [trian]. Did you mean 'train'?"),
        (["--train", "1"], "[train] is a section: write --train.KEY VALUE."),
        (["--polcy-name", "X"], "Did you mean '--policy-name'?"),
        (["--hidden-size", "3"], "are --env.KEY, --policy.KEY and --rnn.KEY."),
        (["--train.optimizer", "mun"], "Did you mean 'muon'?"),
        (["--env.sizes", "{1, 2}"], "--env.sizes: expected numbers, text"),
    ],
)
def test_a_wrong_flag_is_told_the_right_one(flags, expected):
    with pytest.raises(ConfigError) as caught:
        train(*flags)
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["acme.nets:Evil", "os:system", "./nets.py::Net", "nets.py"])
@pytest.mark.parametrize("key", ["policy_name", "rnn_name"])
def test_an_import_path_is_refused_in_flags_and_files(tmp_path, key, name):
    flag = f"--{key.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{flag}: .* is an import path; .* registry.toml"):
        load_config("cartpole", [flag, name])
    toml, ini = tmp_path / "run.toml", tmp_path / "run.ini"
    toml.write_text(f'[base]\nenv_name = "CartPole-v1"\n{key} = "{name}"\n')
    ini.write_text(f"[base]\nenv_name = CartPole-v1\n{key} = {name}\n")
    for path in (toml, ini):
        with pytest.raises(ConfigError, match=rf"{path.name}:3: base\.{key}: .* is an import path"):
            load_config(str(path))
    args = {**load_config("cartpole").to_args(), key: name}
    with pytest.raises(ConfigError, match="is an import path"):
        type(load_config("cartpole")).from_args(args)


@pytest.mark.parametrize("name", ["__import__('os')", "Default(x=open('f'))", "", "a b", "X or Y"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(PolicyError, match="is not a policy expression"):
        load_config("cartpole", [f"--policy-name={name}"])


@pytest.mark.parametrize("name", ["acme/Net", "LSTMWrapper(Default(hidden_size=3))", "small-net"])
def test_qualified_names_expressions_and_presets_are_names(name):
    assert load_config("cartpole", ["--policy-name", name]).base.policy_name == name


@pytest.mark.parametrize("name", ["run.toml", "run.ini"])
def test_unknown_keys_of_files_can_be_warned_of(tmp_path, name):
    path = tmp_path / name
    env = '"CartPole-v1"' if name.endswith("toml") else "CartPole-v1"
    path.write_text(f"[base]\nenv_name = {env}\n[train]\ngama = 1\nseed = 5\n[polcy]\nx = 1\n")
    with pytest.raises(ConfigError, match=rf"{name}:4: train\.gama: no such key"):
        load_config(str(path))
    with pytest.warns(ConfigWarning, match=rf"{name}:4: train\.gama has no effect: no such key"):
        config = load_config(str(path), allow_unknown=True)
    assert [each.key for each in config.ignored] == ["train.gama", "[polcy]"]
    assert config.ignored[1].origin == f"{path}:6"
    assert config.train.seed == 5


def test_wrong_values_and_flags_are_never_only_warned_of(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[base]\nenv_name = "CartPole-v1"\n[train]\ngamma = 2.0\n')
    with pytest.raises(ConfigError, match=r"run\.toml:4: train\.gamma"):
        load_config(str(path), allow_unknown=True)
    with pytest.raises(ConfigError, match=r"--train\.gama: no such key"):
        load_config("cartpole", ["--train.gama", "1"], allow_unknown=True)


def test_unknown_keys_of_a_run_can_be_warned_of(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"env_name": "CartPole-v1", "train": {"of_tomorrow": 1}, "new": {}, "x": 1}')
    with pytest.raises(ConfigError, match=r"config\.json: train\.of_tomorrow: no such key"):
        load_config(str(path))
    with pytest.warns(ConfigWarning):
        config = load_config(str(path), allow_unknown=True)
    assert [each.key for each in config.ignored] == ["train.of_tomorrow", "[new]", "x"]


def test_a_key_outside_of_sections_is_shown_the_way(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('learning_rate = 1e-3\nenv_name = "CartPole-v1"\n')
    with pytest.raises(ConfigError, match=r"run\.toml:1: learning_rate: .* key of \[train\]"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--train.gamma", "2"),
        ("--train.adam-beta1", "1"),
        ("--train.adam-beta2", "1.0"),
        ("--train.num-threads", "1e9"),
        ("--train.data-dir", "a\0b"),
        ("--env.flags", "[true, maybe]"),
        ("--env.limit", "inf"),
    ],
)
def test_a_wrong_value_is_not_told_how_flags_are_written(flag, value):
    with pytest.raises(ConfigError, match=f"{flag}: expected") as caught:
        load_config("cartpole", [flag, value])
    assert caught.value.fix == ""
    with pytest.raises(ConfigError) as caught:
        load_config("cartpole", [flag, value, "--train.gama", "1"])
    assert "Flags are --section.key VALUE" in caught.value.fix


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "cuda:", "cuda:-1", "cuda:x", "CPU", ""])
def test_a_device_that_the_trainer_does_not_run_on_is_refused_before_torch_is_imported(name):
    with pytest.raises(ConfigError, match="device: expected cpu, cuda, cuda:N or auto, found"):
        train(f"--train.device={name}")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:12", "auto"])
def test_a_device_may_have_a_number(name):
    assert train("--train.device", name).device == name


@pytest.mark.parametrize(
    ("flag", "option"),
    [
        ("--train.lr", "--train.learning-rate"),
        ("--lr", "--train.learning-rate"),
        ("--train.n-steps", "--train.bptt-horizon"),
        ("--env-id", "--env-name"),
    ],
)
def test_the_name_that_other_libraries_use_leads_to_ours(flag, option):
    with pytest.raises(ConfigError, match=f"{flag}: no such .* Did you mean '{option}'"):
        load_config("cartpole", [flag, "1"])


def test_thousands_of_unknown_keys_are_counted_and_few_are_compared(tmp_path):
    path = tmp_path / "run.toml"
    keys = "".join(f"key_{number} = 1\n" for number in range(5_000))
    path.write_text(f'[base]\nenv_name = "CartPole-v1"\n[train]\n{keys}')
    # To look for the names near all of them would take a minute.
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert caught.value.problem.endswith("... and 4,980 more")
    with pytest.warns(ConfigWarning):
        config = load_config(str(path), allow_unknown=True)
    assert len(config.ignored) == 5_000
    args = {"env_name": "CartPole-v1", "train": dict.fromkeys(map(str, range(5_000)), 1)}
    with pytest.raises(ConfigError, match=r"\.\.\. and 4,980 more"):
        Config.from_args(args)


def test_a_name_of_a_megabyte_has_no_near_ones():
    with pytest.raises(ConfigError, match="no such key"):
        load_config("cartpole", [f"--train.{'x' * 1_000_000}", "1"])


def test_a_tilde_stands_for_the_home_in_every_path_of_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('[base]\nenv_name = "My-v0"\n')
    (tmp_path / "run.ini").write_text("[base]\nenv_name = My-v0\n")
    (tmp_path / "config.json").write_text('{"env_name": "My-v0"}')
    for name in ("~/run.toml", "~/run.ini", "~/config.json", "~"):
        assert load_config(name).base.env_name == "My-v0"
