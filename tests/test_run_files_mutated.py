"""Mutated files of a run are read right or refused in words, whatever stands in them.

``--exhaustive`` reads 10,000 of each kind.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium.spaces import Box, Discrete
from mutations import mutated_bytes, mutated_json, overwrite

from puffer_policies.assembly import checkpoint, tensorfile
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.tensorfile import digest_of
from puffer_policies.config.load import ConfigWarning, load_config, load_run_config
from puffer_policies.errors import PolicyError
from puffer_policies.runs import snapshot_file
from puffer_policies.runs.setup import policy_of, vecenv_of
from puffer_policies.runs.snapshot import take_snapshot, with_envs
from puffer_policies.spaces import Spaces
from puffer_policies.train.trainer import Trainer

pytestmark = pytest.mark.trainer

NUMBERS = [400, pytest.param(10_000, marks=pytest.mark.exhaustive)]
MOST_MEMORY = 400_000  # KiB that all mutants together may add to the greatest size of the process

FLAGS = [
    *("--vec.num-envs", "2", "--train.bptt-horizon", "8", "--policy.hidden-size", "2"),
    *("--train.total-timesteps", "1000000", "--train.alarm-interval", "0"),
]


@pytest.fixture(autouse=True)
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


@pytest.fixture(scope="module")
def trainer():
    config = load_config("CartPole-v1", FLAGS)
    vecenv = vecenv_of(config)
    trainer = Trainer(config.train, vecenv, policy_of(config, vecenv))
    update(trainer)
    yield trainer
    trainer.close()


def update(trainer):
    trainer.learn(trainer.estimate(trainer.collect()))


def outcome(function, *arguments):
    """Return the result, or None for an error of ours that a reader can take in."""
    problem = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        try:
            return function(*arguments)
        except PolicyError as error:
            problem = str(error)
    assert 0 < len(problem) < 20_000
    return None


class Original:
    """A file of tensors, taken apart once, so that a mutant of it is made quickly."""

    def __init__(self, path, key):
        self.key, self.data = key, path.read_bytes()
        self.tensors, self.text = tensorfile.read_tensors(path, key=key)
        (length,) = struct.unpack_from("<Q", self.data)
        self.entries = json.loads(self.data[8 : 8 + length])
        self.content = self.data[8 + length :]
        self.header = json.loads(self.text).get("header")  # a text of JSON in another

    def mutant(self, generator):
        """Return a mutant of the file's bytes, of its header or of its tensors."""
        choice = generator.random()
        if choice < 0.3:
            return mutated_bytes(self.data, generator)
        if choice < 0.4:
            return self._with_tensors(mutated_tensors(self.tensors, generator))
        if self.header is not None and choice < 0.6:
            return self._with_text(self._with_header(mutated_json(self.header, generator)))
        return self._with_text(mutated_json(self.text, generator))

    def _with_header(self, header):
        return json.dumps({**json.loads(self.text), "header": header})

    def _with_text(self, text):
        entries = json.dumps({**self.entries, "__metadata__": {self.key: text}}).encode()
        return struct.pack("<Q", len(entries)) + entries + self.content

    def _with_tensors(self, tensors):
        digest = digest_of(tensors)
        if self.header is None:
            text = json.dumps({**json.loads(self.text), "digest": digest})
        else:
            text = self._with_header(json.dumps({**json.loads(self.header), "digest": digest}))
        return safetensors.torch.save(tensors, metadata={self.key: text})


def mutated_tensors(tensors, generator):
    tensors = dict(tensors)
    name = generator.choice([*tensors])
    tensor = tensors.pop(name)
    match generator.randrange(6):
        case 0:
            return tensors
        case 1:
            return tensors | {f"{name}x": tensor}
        case 2:
            return tensors | {name: tensor.reshape(-1)[:-1]}
        case 3:
            dtype = generator.choice([torch.float64, torch.int8, torch.bool, torch.bfloat16])
            return tensors | {name: tensor.to(dtype)}
        case 4 if tensor.is_floating_point():
            return tensors | {name: torch.full_like(tensor, generator.choice([1e9, float("nan")]))}
        case _:
            return tensors | {name: tensor[None]}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mutated_policy_is_read_right_or_refused_in_words(number, tmp_path):
    path, generator = tmp_path / "m.safetensors", random.Random(number)
    config = load_config("CartPole-v1", FLAGS).to_args()
    policy = get_policy("Default(hidden_size=2)", CARTPOLE)
    checkpoint.save_checkpoint(path, policy, env=CARTPOLE, config=config)
    originals = [Original(each, checkpoint.METADATA_KEY) for each in (path, path, FORMAT_1)]
    policies = []
    for _ in range(number):
        overwrite(path, generator.choice(originals).mutant(generator))
        if (policy := outcome(checkpoint.load_policy, path, CARTPOLE)) is not None:
            policies.append(policy)
    assert number / 50 < len(policies) < number, "mutants are too harmless or too wild"
    for policy in policies[::20]:
        _, values = policy.forward_eval(torch.ones(1, 4), {})
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mutated_trainer_is_read_right_or_refused_in_words(number, trainer, tmp_path):
    path, generator = tmp_path / "trainer.safetensors", random.Random(number)
    header = checkpoint.header_of(trainer.policy, env=trainer.vecenv)
    snapshot = with_envs(take_snapshot(trainer), trainer)
    snapshot_file.write_snapshot(path, snapshot, header)
    original, resumed = Original(path, snapshot_file.METADATA_KEY), 0
    for _ in range(number):
        overwrite(path, original.mutant(generator))
        if outcome(snapshot_file.resume_trainer, trainer, path) is not None:
            resumed += 1
            if resumed % 20 == 0:
                outcome(update, trainer)
    assert number / 50 < resumed < number, "mutants are too harmless or too wild"


@pytest.mark.parametrize("number", [100, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_a_mutated_trainer_of_an_earlier_version_is_read_right_or_refused_in_words(
    number, tmp_path
):
    path, generator = tmp_path / "trainer.safetensors", random.Random(number)
    original, snapshots = Original(FORMAT_2 / path.name, snapshot_file.METADATA_KEY), 0
    path.touch()
    for _ in range(number):
        overwrite(path, original.mutant(generator))
        snapshots += outcome(snapshot_file.read_snapshot, path) is not None
    assert number / 50 < snapshots < number, "mutants are too harmless or too wild"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mutated_config_of_a_run_is_read_right_or_refused_in_words(number, tmp_path):
    path, generator = tmp_path / "config.json", random.Random(number)
    args = load_config("CartPole-v1", FLAGS).to_args()
    original, configs = json.dumps(args).encode(), []
    path.touch()
    for _ in range(number):
        if generator.random() < 0.3:
            overwrite(path, mutated_bytes(original, generator))
        else:
            overwrite(path, mutated_json(original.decode(), generator).encode())
        if (config := outcome(load_run_config, tmp_path)) is not None:
            configs.append(config)
    assert number / 50 < len(configs) < number, "mutants are too harmless or too wild"
    for config in configs[::50]:
        path.write_text(json.dumps(config.to_args()))
        assert load_run_config(path) == config


_CART = np.float32([4.8, np.inf, 0.41887903, np.inf])
CARTPOLE = Spaces(Box(-_CART, _CART), Discrete(2))
FORMAT_1 = Path(__file__).parent / "checkpoint_of_format_1.safetensors"
FORMAT_2 = Path(__file__).parent / "run_of_format_2"
