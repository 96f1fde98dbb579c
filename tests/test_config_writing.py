"""A config written as TOML loads as an equal config, whatever stands in it."""

from __future__ import annotations

import json
import math
import tomllib
from datetime import date

import pytest
from pufferlib_files import FILES, load

from puffer_policies.config.config import Config, config_to_toml
from puffer_policies.config.load import load_config, load_run_config, shipped_configs
from puffer_policies.errors import ConfigError


def again(config, tmp_path, **options):
    path = tmp_path / "run.toml"
    path.write_text(config_to_toml(config, **options), encoding="utf-8")
    return load_config(str(path))


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_loads_as_it_was(name, tmp_path):
    config = load_config(name)
    assert again(config, tmp_path) == config
    assert again(config, tmp_path, origins=True) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_config_of_a_pufferlib_file_loads_as_it_was(path, tmp_path):
    config = load(path.stem)
    assert again(config, tmp_path) == config


def test_odd_arguments_load_as_they_were(tmp_path):
    args = load_config("cartpole", ["--rnn-name", "LSTMWrapper"]).to_args()
    args["env"] = {
        "none": None,
        "nested": {"a b": [1, None, {"x": 1e-12}], "": True},
        "text": 'quotes " and \\ and \t and \x7f and \n and é and 😀',
        "big": 2**60,
        "float": 1e16,
        "word": "none",
    }
    args["policy"] = {}
    args["train"]["data_dir"] = "None"
    config = Config.from_args(args)
    assert again(config, tmp_path) == config


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize("value", [{1, 2}, b"x", {1: 2}, object(), date.min, math.inf, 2**64, LOOP])
def test_what_neither_toml_nor_json_can_hold_is_in_no_config(value):
    args = load_config("cartpole").to_args()
    with pytest.raises(ConfigError, match=r"env\.odd: expected"):
        Config.from_args({**args, "env": {"odd": value}})
    with pytest.raises(ConfigError, match=r"rnn\.0: expected the name of a keyword argument"):
        Config.from_args({**args, "rnn": {0: 1}})


@pytest.mark.parametrize("value", ["None", [{"deep": "None"}]])
def test_text_that_would_be_read_as_none_is_not_written(value):
    args = load_config("cartpole").to_args()
    args["env"]["odd"] = value
    with pytest.raises(ConfigError, match=r"env\.odd holds .* can't be written"):
        config_to_toml(Config.from_args(args))


def test_no_shipped_config_lies_under_a_complete_file(tmp_path):
    args = {**load_config("cartpole").to_args(), "policy": {}}
    config = Config.from_args(args)
    assert again(config, tmp_path).policy == {}
    path = tmp_path / "part.toml"
    path.write_text('[base]\nenv_name = "cartpole"\n')
    assert load_config(str(path)).policy == {"hidden_size": 128}
    path.write_text('complete = "yes"\n[base]\nenv_name = "cartpole"\n')
    with pytest.raises(ConfigError, match=r"part\.toml:1: complete: expected true or false"):
        load_config(str(path))


def test_origins_are_comments_behind_the_values():
    text = config_to_toml(load_config("cartpole", ["--train.gamma", "0.5"]), origins=True)
    lines = {line.partition(" = ")[0]: line for line in text.splitlines()}
    assert lines["gamma"] == "gamma = 0.5  # command line"
    assert lines["vf_coef"].endswith("  # default")
    assert "classic_control.toml:" in lines["gae_lambda"]
    assert tomllib.loads(text) == tomllib.loads(text.replace("  # command line", ""))


def test_the_folder_of_a_run_and_its_config_are_configs(tmp_path):
    config = load_config("cartpole_lstm", ["--train.seed", "7"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_args()))
    for name in (str(tmp_path), str(path)):
        assert load_config(name) == load_run_config(name) == config
    changed = load_config(str(tmp_path), ["--train.gamma", "0.5"])
    assert (changed.train.gamma, changed.origin("train", "gamma")) == (0.5, "command line")
    assert changed.origin("train", "seed") == str(path)


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        load_config(str(tmp_path))
    path = tmp_path / "config.json"
    for text in ("[]", "{", '{"env_name": "CartPole-v1", "train": 3}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            load_config(str(path))
