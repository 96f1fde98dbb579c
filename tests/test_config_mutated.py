"""Mutated configs and expressions are read right or refused in words, whatever stands in them.

``--exhaustive`` reads 10,000 of each kind.
"""

from __future__ import annotations

import json
import warnings

import pytest
from mutations import mutants, overwrite
from pufferlib_files import FILES

from puffer_policies.config.config import config_to_toml
from puffer_policies.config.load import ConfigWarning, load_config
from puffer_policies.errors import PolicyError
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.streams import json_text

MANY = pytest.param(10_000, marks=pytest.mark.exhaustive)

RUN = """\
[base]
env_name = "My-v0"
policy_name = "LSTMWrapper(Default(hidden_size=8))"

[train]
learning_rate = 2.5e-4
total_timesteps = 1_000
anneal_lr = false
batch_size = "auto"
device = "cpu"

[env]
sizes = [1, 2]
nested = {a = 1, b = ["x", true]}
text = '''
two lines'''

[log]
wandb = "None"
"""
INI = (
    "[base]\nenv_name = My-v0\nrnn_name = None\n[policy]\nhidden_size = 8\nsizes = [1, (2, 3)]\n"
    "[train]\ngamma: 0.9 ; why\nbatch_size = auto\nseed = 1e3\n[env]\nx = {'a': [true, null]}\n"
)
EXPRESSIONS = (
    "Default",
    "puffer-policies/Default(hidden_size=8)",
    "LSTMWrapper(acme/Net(sizes=[1, 2.5], text='a/b', flag=True), num_layers=2)",
    "Outer(Inner(Net(a={'k': [None, -1]})), b=\"x\")",
)


def outcome(function, *arguments):
    """Return the result, or None for an error of ours that a reader can take in."""
    problem = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConfigWarning)
        try:
            return function(*arguments)
        except PolicyError as error:
            problem = error.problem
    assert 0 < len(problem) < 20_000
    return None


def require_whole(config, path):
    """Require that a config is JSON and TOML, and that its TOML in a file is read as the config."""
    assert json.loads(json_text(config.to_args()), parse_constant=pytest.fail) == config.to_args()
    text = outcome(config_to_toml, config)  # the text "None" can't be written
    if text is not None:
        overwrite(path, text.encode())
        assert load_config(str(path)) == config


@pytest.mark.parametrize("number", [400, MANY])
@pytest.mark.parametrize("name", ["run.toml", "run.ini"])
def test_a_mutated_config_is_read_right_or_refused_in_words(tmp_path, name, number):
    texts = [RUN] if name.endswith("toml") else [INI, *(file.read_text() for file in FILES)]
    path, configs = tmp_path / name, []
    path.touch()
    for text in mutants(texts, number, seed=number):
        overwrite(path, text.encode())
        if (config := outcome(load_config, str(path), ["--env-name", "My-v0"])) is not None:
            configs.append(config)
    assert number / 50 < len(configs) < number, "mutants are too harmless or too wild"
    again = tmp_path / "again.toml"
    again.touch()
    for config in configs[::5]:
        require_whole(config, again)


@pytest.mark.parametrize("number", [400, MANY])
def test_a_mutated_expression_is_read_right_or_refused_in_words(number):
    specs = [outcome(PolicySpec.parse, text) for text in mutants(EXPRESSIONS, number, seed=number)]
    parsed = [spec for spec in specs if spec is not None]
    assert number / 50 < len(parsed) < number, "mutants are too harmless or too wild"
    for spec in parsed:
        assert PolicySpec.parse(str(spec)) == spec
        assert PolicySpec.from_json(spec.to_json()) == spec
