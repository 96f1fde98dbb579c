"""Configs: layers and their order, origins, unknown keys, PufferLib's dict, shipped configs."""

import dataclasses
import os
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from puffer_policies.config.config import Config
from puffer_policies.config.load import load_config, resolve_env_name, shipped_configs
from puffer_policies.config.schema import (
    SECTIONS,
    BaseConfig,
    TrainConfig,
    VecConfig,
    field_docs,
    options,
)
from puffer_policies.errors import ConfigError
from puffer_policies.registry import set_default_registry


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="run.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


@pytest.mark.parametrize("cls", SECTIONS.values())
def test_every_field_has_one_line_of_text(cls):
    docs = field_docs(cls)
    assert list(docs) == [each.name for each in dataclasses.fields(cls)]
    assert all(text and "\n" not in text for text in docs.values())


def test_options_are_what_help_prints():
    shown = {each.flag: each for each in options()}
    assert shown["--train.learning-rate"].default == TrainConfig().learning_rate
    assert shown["--vec.num-envs"].type == "int >= 1"
    assert "policy" in shown["--policy-name"].doc


def test_layers_are_default_family_file_flags(write):
    path = write('[base]\nenv_name = "cartpole"\n[train]\ngamma = 0.9\ngae_lambda = 0.7\n')
    config = load_config(path, ["--train.gae-lambda", "0.6"])
    assert config.train.gae_lambda == 0.6
    assert config.train.gamma == 0.9
    assert config.train.update_epochs == load_config("cartpole").train.update_epochs
    assert config.train.vf_coef == TrainConfig().vf_coef


def test_every_value_knows_its_origin(write):
    path = write('[base]\nenv_name = "cartpole"\n[train]\ngamma = 0.9\n')
    config = load_config(path, ["--train.seed", "3", "--policy.hidden-size=32"])
    assert config.origin("train", "seed") == "command line"
    assert config.origin("policy", "hidden_size") == "command line"
    assert config.origin("train", "gamma") == f"{path}:4"
    assert "classic_control.toml:" in config.origin("train", "update_epochs")
    assert config.origin("train", "vf_coef") == "default"


def test_an_unknown_key_is_an_error_with_line_and_nearest_key(write):
    path = write('[base]\nenv_name = "cartpole"\n\n[train]\nlearnin_rate = 1\n[vex]\na = 1\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert f"{path}:5: train.learnin_rate: no such key" in text
    assert "'learning_rate'" in text
    assert f"{path}:6: there is no section [vex]. Did you mean 'vec'" in text


def test_a_key_of_another_section_is_shown_the_way():
    with pytest.raises(ConfigError, match=r"It is a key of \[vec\]: --vec\.num-envs\."):
        load_config("cartpole", ["--train.num-envs", "3"])
    with pytest.raises(ConfigError, match=r"It is a key of \[train\]: --train\.gamma\."):
        load_config("cartpole", ["--gamma", "3"])


def test_wrong_flags_come_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(
            "cartpole", ["--train.gama", "1", "loose", "--train.anneal-lr=2", "--train.seed"]
        )
    text = str(caught.value)
    assert "--train.gama: no such key in [train]. Did you mean 'gamma'" in text
    assert "'loose': expected a flag" in text
    assert "--train.anneal-lr: expected True or False, found '2'" in text
    assert "--train.seed: expected a value" in text


def test_false_none_lists_and_exponents_parse_on_the_command_line():
    flags = ["--train.anneal-lr", "False", "--rnn-name", "None", "--train.total-timesteps", "1e6"]
    flags += ["--policy.sizes", "[64, 32]", "--env.gravity", "-9.8", "--train.target-kl", "None"]
    config = load_config("cartpole_lstm", flags)
    assert config.train.anneal_lr is False
    assert config.base.rnn_name is None
    assert config.train.total_timesteps == 1_000_000
    assert config.policy["sizes"] == [64, 32]
    assert config.env == {"gravity": -9.8}


def test_a_wrapper_can_be_named_where_the_default_is_none():
    assert load_config("cartpole", ["--rnn-name", "LSTMWrapper"]).base.rnn_name == "LSTMWrapper"


def test_arguments_of_a_replaced_policy_are_dropped():
    assert load_config("cartpole").policy == {"hidden_size": 128}
    assert load_config("cartpole", ["--policy-name", "Structured"]).policy == {}
    assert load_config("cartpole_lstm", ["--rnn-name", "None"]).rnn == {}
    flags = ["--policy-name", "Structured", "--policy.hidden-size", "32"]
    assert load_config("cartpole", flags).policy == {"hidden_size": 32}


def test_widths_that_a_memory_was_given_go_with_the_policy_that_they_describe(write):
    text = '[base]\nenv_name = "cartpole_lstm"\n[rnn]\ninput_size = 64\nhidden_size = 64\n'
    path = write(text + "num_layers = 2\n")
    assert load_config(path).rnn == {"input_size": 64, "hidden_size": 64, "num_layers": 2}
    other = load_config(path, ["--policy-name", "Structured"])
    assert other.rnn == {"num_layers": 2}


@pytest.mark.parametrize("name", ["cartpole_lstm", "cartpole_novel", "masked_recall"])
def test_shipped_memories_fit_whatever_policy_is_named(name):
    assert load_config(name).rnn == {}


def test_any_other_name_is_a_gymnasium_id_with_the_defaults():
    config = load_config("Somewhere/Else-v3")
    assert config.base == BaseConfig(env_name="Somewhere/Else-v3")
    assert config.train == TrainConfig()
    assert config.vec == VecConfig()


def test_a_toml_file_may_name_an_env_that_is_not_shipped(write):
    config = load_config(write('[base]\nenv_name = "My-v0"\n[env]\nsizes = [1, 2]\n'))
    assert config.base.env_name == "My-v0"
    assert config.env == {"sizes": [1, 2]}


def test_none_can_be_written_in_toml(write):
    config = load_config(write('[base]\nenv_name = "cartpole_lstm"\nrnn_name = "None"\n'))
    assert config.base.rnn_name is None


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml"):
        load_config(str(tmp_path / "no.toml"))


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads(name):
    config = load_config(name)
    assert config.base.env_name == shipped_configs()[name].env_name
    assert shipped_configs()[name].summary


def test_shipped_configs_are_sorted_by_name():
    assert {"acrobot", "breakout", "cartpole", "pendulum"} <= shipped_configs().keys()
    assert list(shipped_configs()) == sorted(shipped_configs())


def test_aliases_lead_to_the_same_config():
    assert load_config("puffer_breakout") == load_config("breakout")
    assert load_config("CartPole-v1") == load_config("cartpole")
    assert resolve_env_name("puffer_breakout") == "puffer_policies/Breakout-v0"
    assert resolve_env_name("Other-v0") == "Other-v0"


def test_names_and_aliases_are_unique():
    names = [n for each in shipped_configs().values() for n in (each.name, *each.aliases)]
    assert len(names) == len(set(names))


def test_pufferlibs_dict_has_its_names():
    args = load_config("puffer_breakout").to_args()
    assert {"package", "env_name", "policy_name", "rnn_name"} <= args.keys()
    assert {"vec", "env", "policy", "rnn", "train"} <= args.keys()
    assert args["train"]["bptt_horizon"] > 0


def test_the_dict_that_a_user_changed_makes_a_config_again():
    args = load_config("cartpole").to_args()
    assert Config.from_args(args) == load_config("cartpole")
    args["rnn_name"] = "LSTMWrapper"
    args["train"]["use_rnn"] = True
    args["train"]["bptt_horizon"] = 64
    config = Config.from_args(args)
    assert config.base.rnn_name == "LSTMWrapper"
    assert config.train.use_rnn is True
    assert TrainConfig.from_dict(args["train"]).bptt_horizon == 64


def test_changing_the_dict_changes_no_shipped_config():
    args = load_config("cartpole").to_args()
    args["policy"]["hidden_size"] = 1
    args["train"]["gamma"] = 0.1
    assert load_config("cartpole").policy == {"hidden_size": 128}


def test_unknown_keys_of_the_dict_are_errors():
    with pytest.raises(ConfigError, match=r"train\.bptt_horizn.*'bptt_horizon'"):
        TrainConfig.from_dict({"bptt_horizn": 64})
    with pytest.raises(ConfigError, match=r"args\['polcy'\].*'policy'"):
        Config.from_args({**load_config("cartpole").to_args(), "polcy": {}})


def test_every_wrong_value_of_a_section_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(gamma=2.0, seed=-1, device=3)
    text = str(caught.value)
    assert "train.gamma" in text
    assert "train.seed" in text
    assert "train.device: expected text, found 3" in text


def test_sections_convert_what_they_are_given():
    assert TrainConfig(total_timesteps=1e6).total_timesteps == 1_000_000
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 3


def test_a_wrapper_and_use_rnn_false_contradict_each_other():
    with pytest.raises(ConfigError, match="use_rnn is False"):
        load_config("cartpole_lstm", ["--train.use-rnn", "False"])


def test_loading_a_config_imports_neither_torch_nor_numpy_nor_gymnasium():
    code = (
        "import sys; from puffer_policies.config.load import load_config; load_config('breakout');"
        "print({'torch', 'numpy', 'gymnasium'} & sys.modules.keys())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["train = 5", "[[train]]\nseed = 1"])
def test_a_section_that_is_no_table_is_said(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run.toml:1: \[train\] must be a table"):
        load_config(str(path))


def _make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes({"latin-1": b"# caf\xe9\n", "long": b"#" * 2_000_000}[kind])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are files on POSIX alone")
@pytest.mark.parametrize("name", ["run.toml", "run.ini", "config.json"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pipe", "not a file"),
        ("device", "not a file"),
        ("folder", "is not the folder of a run"),
        ("latin-1", "is not UTF-8: byte 0xe9 at offset 5"),
        ("long", "longer than 1,000,000 bytes"),
    ],
)
def test_what_is_no_text_file_is_refused_and_never_waited_for(tmp_path, name, kind, expected):
    _make(tmp_path / name, kind)
    with pytest.raises(ConfigError, match=expected):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"env_name": ' + "9" * 5000 + "}", "3", "{"])
def test_json_that_is_no_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        load_config(str(tmp_path))


@pytest.mark.parametrize("name", ["a\0b", "a\0b.toml", "x" * 5000, "x" * 5000 + ".ini", "\udcff"])
def test_a_name_that_no_file_can_have_is_no_traceback(name):
    with suppress(ConfigError):
        assert load_config(name).base.env_name == name


@pytest.mark.parametrize("name", ["cartpol", "cartpoel", "breakot", "CARTPOLE"])
def test_a_misspelled_config_is_not_taken_for_an_env(name):
    with pytest.raises(ConfigError, match=f"No config is called '{name}'") as caught:
        load_config(name)
    assert "Did you mean the config '" in caught.value.fix


@pytest.mark.parametrize("name", ["my_env", "Cartpol-v1", "acme/cartpol", "module:cartpol"])
def test_a_name_that_an_env_can_have_is_taken_for_one(name):
    assert load_config(name).base.env_name == name


def test_an_env_that_is_registered_may_be_called_almost_like_a_config(monkeypatch, project):
    module = SimpleNamespace(registry={"cartpole2": None})
    monkeypatch.setitem(sys.modules, "gymnasium", module)
    assert load_config("cartpole2").base.env_name == "cartpole2"
    module.registry.clear()
    with pytest.raises(ConfigError):
        load_config("cartpole2")
    (project / "registry.toml").write_text('schema = 1\n[envs]\ncartpole2 = "my_envs"\n')
    set_default_registry(None)
    assert load_config("cartpole2").base.env_name == "cartpole2"
