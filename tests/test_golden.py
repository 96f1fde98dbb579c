"""The golden sample of a checkpoint: a policy that answers otherwise than it did is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium import spaces as gym
from torch import nn

from puffer_policies.assembly.checkpoint import load_policy, read_checkpoint, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.golden import STEPS, deviation, take_sample
from puffer_policies.assembly.header import GOLDEN, read_header
from puffer_policies.errors import CheckpointError
from puffer_policies.nn.samples import random_observations
from puffer_policies.registry import register_policy, register_wrapper
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.base import PolicyWrapper
from puffer_policies.zoo.mlp import Default

SPACES = Spaces(gym.Box(-1, 1, (3,)), gym.Discrete(2))
EVERYTHING = Spaces(
    gym.Dict({"a": gym.Box(-1, 1, (2,), np.float64), "b": gym.Tuple((gym.Discrete(3),))}),
    gym.MultiDiscrete([2, 3]),
)


class Versioned(Default):
    """A policy whose next version computes otherwise."""

    factor = 1.0

    def encode_observations(self, observations, state=None):
        return super().encode_observations(observations, state) * self.factor


class Counting(Default):
    """It normalizes by a statistic that its state_dict lacks."""

    def __init__(self, env, hidden_size=8):
        super().__init__(env, hidden_size=hidden_size)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def encode_observations(self, observations, state=None):
        return super().encode_observations(observations, state) / self.scale


class Codes(Default):
    """It reads three of the codes that its space allows."""

    def __init__(self, env, hidden_size=8):
        super().__init__(env, hidden_size=hidden_size)
        self.table = nn.Embedding(3, hidden_size)

    def encode_observations(self, observations, state=None):
        return self.table(observations.long()).mean(1)


@pytest.fixture(autouse=True)
def _project(project):
    """Names that are registered here are gone afterwards."""


@pytest.mark.parametrize("spaces", [SPACES, EVERYTHING], ids=["vector", "nested"])
@pytest.mark.parametrize(
    "expression",
    [
        "Default(hidden_size=8)",
        "LSTMWrapper(Default(hidden_size=8))",
        "PrevActionRewardWrapper(GRUWrapper(ActionMaskWrapper(Default(hidden_size=8))))",
    ],
)
def test_a_policy_answers_as_it_did(expression, spaces, tmp_path):
    policy = get_policy(expression, spaces)
    path = save_checkpoint(tmp_path / "m", policy, env=spaces)
    sample = read_checkpoint(path).sample
    assert sample["value"].shape == (2, STEPS)
    assert deviation(load_policy(path), spaces, sample) == 0
    assert read_header(path).digest


def test_another_version_of_a_class_is_noticed(tmp_path, monkeypatch):
    register_policy(Versioned)
    path = save_checkpoint(tmp_path / "m", get_policy("Versioned", SPACES), env=SPACES)
    load_policy(path)
    monkeypatch.setattr(Versioned, "factor", 1.5)
    with pytest.raises(CheckpointError, match="does not answer as it did") as caught:
        load_policy(path)
    assert "load_policy(path, verify=False)" in caught.value.fix
    assert isinstance(load_policy(path, verify=False), Versioned)
    monkeypatch.setattr(Versioned, "factor", "no number")
    with pytest.raises(CheckpointError, match="can't be had: TypeError"):
        load_policy(path)


class Scaled(Default):
    """A policy with defaults that no tensor shows."""

    def __init__(self, env, hidden_size=8, factor=1.0, shifts=(0.0, 1.0), gone=3):
        super().__init__(env, hidden_size=hidden_size)
        self.factor, self.shifts = factor, shifts

    def encode_observations(self, observations, state=None):
        return super().encode_observations(observations, state) * self.factor + sum(self.shifts)


class Cooler(PolicyWrapper):
    """A wrapper with a default."""

    def __init__(self, env, policy, temperature=2.0):
        super().__init__(env, policy)
        self.temperature = temperature

    def transform_logits(self, logits, state):
        return logits / self.temperature


def scaled_later(self, env, hidden_size, factor=2.0, shifts=(5.0,), new=None):
    """The constructor of `Scaled` in the next version: one argument has no default any more."""
    Default.__init__(self, env, hidden_size=hidden_size)
    self.factor, self.shifts = factor, shifts


def cooler_later(self, env, policy, temperature=9.0):
    """The constructor of `Cooler` in the next version."""
    PolicyWrapper.__init__(self, env, policy)
    self.temperature = temperature


def test_another_default_of_a_later_version_is_not_taken(tmp_path, monkeypatch):
    register_policy(Scaled)
    register_wrapper(Cooler)
    policy = get_policy("Cooler(Scaled(factor=1.5))", SPACES)
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    assert load_policy(path).spec == policy.spec  # which is as short as it was
    monkeypatch.setattr(Scaled, "__init__", scaled_later)
    monkeypatch.setattr(Cooler, "__init__", cooler_later)
    loaded = load_policy(path)
    assert (loaded.temperature, loaded.policy.factor, loaded.policy.shifts) == (2.0, 1.5, [0, 1])
    # What is saved again has to say so, as these are no defaults now.
    assert loaded.spec.wrappers[0].kwargs == {"temperature": 2.0}
    assert loaded.spec.kwargs == {"hidden_size": 8, "factor": 1.5, "shifts": [0, 1]}
    same = get_policy("Cooler(Scaled(hidden_size=8), temperature=2.0)", SPACES, pretrained=path)
    assert same.spec == loaded.spec
    with pytest.raises(CheckpointError, match=r"temperature of .*Cooler is 2\.0, not 9\.0"):
        get_policy("Cooler(Scaled, temperature=9.0)", SPACES, pretrained=path)


def test_another_default_of_a_later_critic_is_not_taken(tmp_path, monkeypatch):
    register_policy(Scaled)
    stack = "SeparateCriticWrapper(Default(hidden_size=8), critic='Scaled(factor=1.5)')"
    policy = get_policy(stack, SPACES)
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    assert load_policy(path).spec == policy.spec
    monkeypatch.setattr(Scaled, "__init__", scaled_later)
    loaded = load_policy(path)
    assert (loaded.critic.factor, loaded.critic.shifts) == (1.5, [0, 1])
    assert loaded.critic.spec.kwargs == {"hidden_size": 8, "factor": 1.5, "shifts": [0, 1]}
    again = save_checkpoint(tmp_path / "again", loaded, env=SPACES)
    assert load_policy(again).spec == loaded.spec
    with pytest.raises(CheckpointError, match=r"factor=1\.5"):
        get_policy(stack.replace("1.5", "2.0"), SPACES, pretrained=path)


def test_a_default_that_no_file_holds_is_left_to_the_class(tmp_path, monkeypatch):
    monkeypatch.setattr(Scaled.__init__, "__defaults__", (8, torch.ones(()), (float("nan"),), {1}))
    register_policy(Scaled)
    path = save_checkpoint(tmp_path / "m", get_policy("Scaled", SPACES), env=SPACES)
    (origin,) = read_header(path).origins
    assert origin.defaults == {"hidden_size": 8}


def test_a_statistic_that_is_not_saved_is_noticed(tmp_path):
    register_policy(Counting)
    policy = get_policy("Counting", SPACES)
    policy.scale.fill_(3.0)
    with pytest.raises(CheckpointError, match="does not answer as it did"):
        load_policy(save_checkpoint(tmp_path / "m", policy, env=SPACES))


def test_other_versions_of_its_packages_are_named(tmp_path, monkeypatch):
    register_policy(Versioned)
    path = save_checkpoint(tmp_path / "m", get_policy("Versioned", SPACES), env=SPACES)
    tensors = safetensors.torch.load_file(path)
    header = json.loads(read_header(path).to_json())
    header["versions"]["torch"] = "1.0"
    safetensors.torch.save_file(tensors, path, {"puffer_policies": json.dumps(header)})
    monkeypatch.setattr(Versioned, "factor", 1.5)
    with pytest.raises(CheckpointError, match=r"saved with torch 1\.0; 2.* is installed"):
        load_policy(path)


def test_nothing_of_a_policy_is_moved(tmp_path):
    policy = get_policy("NormalizeObservationWrapper(Default(hidden_size=8))", SPACES).train()
    before = {name: each.clone() for name, each in policy.state_dict().items()}
    generator = torch.get_rng_state()
    save_checkpoint(tmp_path / "m", policy, env=SPACES)
    assert policy.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], each) for name, each in policy.state_dict().items())


def test_weights_of_another_moment_are_what_answers(tmp_path):
    policy = get_policy("Default(hidden_size=8)", SPACES)
    earlier = {name: each.clone() for name, each in policy.state_dict().items()}
    with torch.no_grad():
        policy.critic.weight.mul_(-2)
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES, weights=earlier)
    assert torch.equal(load_policy(path).critic.weight, earlier["critic.weight"])


def test_a_policy_that_does_not_answer_to_every_member_of_its_space_has_no_sample(tmp_path):
    spaces = Spaces(gym.Box(0, 255, (4,), np.uint8), gym.Discrete(2))
    register_policy(Codes)
    policy = get_policy("Codes", spaces)
    assert take_sample(policy, spaces) == {}
    path = save_checkpoint(tmp_path / "m", policy, env=spaces)
    assert not [key for key in safetensors.torch.load_file(path) if key.startswith(GOLDEN)]
    assert isinstance(load_policy(path), Codes)


def test_half_precision_has_no_number_that_is_scaled_down():
    observations = random_observations(gym.Box(-1, 1, (2,), np.float16), (3,), seed=0)
    assert (observations.dtype, observations.shape) == (torch.float16, (3, 2))
