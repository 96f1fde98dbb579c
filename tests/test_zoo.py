"""The zoo has the sizes of its sources, and refuses spaces in words."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import ACTIONS, OBSERVATIONS, PIXELS, REFERENCE, VECTOR, observation_batch

from puffer_policies import models, pytorch
from puffer_policies.contract import missing_members
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.models import (
    Continuous,
    Convolutional,
    Default,
    LSTMWrapper,
    MultiDiscrete,
    Structured,
)
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import Spaces
from puffer_policies.zoo.puffer import PufferNet

ATARI = Spaces(PIXELS, spaces.Discrete(4))
BOX = Spaces(VECTOR, ACTIONS["box"])
SEVERAL = Spaces(VECTOR, ACTIONS["multidiscrete"])


def parameters(policy: torch.nn.Module) -> int:
    return sum(each.numel() for each in policy.parameters())


def test_default_has_the_published_sizes() -> None:
    assert parameters(Default(REFERENCE)) == 1_797
    assert parameters(Default("CartPole-v1")) == 1_027


def test_convolutional_has_the_published_size() -> None:
    assert parameters(Convolutional(ATARI)) == 1_686_693


def test_puffernet_has_pufferlibs_size() -> None:
    assert parameters(PufferNet("CartPole-v1")) == 197_504
    assert parameters(PufferNet(BOX, 16, num_layers=2)) == 16 * (8 + 2 + 1) + 2 + 2 * 3 * 16 * 16
    assert not [name for name, _ in PufferNet(BOX, 16).named_parameters() if "bias" in name]


def test_a_policy_with_a_memory_of_its_own_takes_no_second_one() -> None:
    with pytest.raises(BuildError, match="'PufferNet' has a memory already"):
        LSTMWrapper(REFERENCE, PufferNet(REFERENCE, 16))


def test_default_with_lstm_has_the_published_size() -> None:
    assert parameters(LSTMWrapper(REFERENCE, Default(REFERENCE))) == 133_893


@pytest.mark.parametrize(
    ("policy", "env", "hidden", "size"),
    [
        (Structured, REFERENCE, 256, 9 * 256 + 257 * 5),
        (Continuous, BOX, 256, 9 * 256 + 257 * 256 + 257 * 3 + 2),
        (MultiDiscrete, SEVERAL, 256, 9 * 256 + 257 * 10),
    ],
)
def test_the_guides_policies(policy: Any, env: Spaces, hidden: int, size: int) -> None:
    built = policy(env)
    assert (built.hidden_size, parameters(built)) == (hidden, size)
    assert missing_members(built) == []
    assert built(torch.randn(3, 8))[1].shape == (3, 1)
    assert policy(env, hidden_size=32).hidden_size == 32


def test_is_continuous_says_what_the_action_space_is() -> None:
    assert Default(BOX).is_continuous is True
    assert Default(REFERENCE).is_continuous is Default(SEVERAL).is_continuous is False
    assert Default(Spaces(VECTOR, ACTIONS["box_integers"])).is_continuous is False


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3), (1, 36, 50)])
def test_convolutional_infers_layout_and_sizes(shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    policy = Convolutional(Spaces(space, spaces.Discrete(3)), hidden_size=16)
    logits, values = policy(observation_batch(space, 2, 3))
    assert (logits.shape, values.shape) == ((6, 3), (6, 1))


def test_convolutional_takes_pufferlibs_arguments() -> None:
    policy = Convolutional(ATARI, framestack=4, flat_size=3136, hidden_size=8, channels_last=False)
    assert policy.hidden_size == 8


@pytest.mark.parametrize("given", [{"framestack": 3}, {"flat_size": 64}])
def test_convolutional_checks_what_is_given(given: dict[str, int]) -> None:
    with pytest.raises(BuildError, match=r"=\d+ was given, but the observation space makes it \d+"):
        Convolutional(ATARI, **given)


@pytest.mark.parametrize(
    ("policy", "env", "wanted"),
    [
        (Convolutional, REFERENCE, "image"),
        (Continuous, REFERENCE, "box"),
        (MultiDiscrete, REFERENCE, "multidiscrete"),
    ],
)
def test_a_wrong_space_names_policy_space_wanted_kind_and_another_policy(
    policy: Any, env: Spaces, wanted: str
) -> None:
    with pytest.raises(IncompatibleSpace) as caught:
        policy(env)
    for each in (policy.__name__, wanted, "Default"):
        assert repr(each) in str(caught.value)


def test_convolutional_serves_every_action_space() -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for action in ACTIONS.values():
        assert Convolutional(Spaces(space, action), hidden_size=8) is not None


def test_policies_are_built_from_envs_and_vector_envs() -> None:
    env = gymnasium.make("CartPole-v1")
    vector = gymnasium.make_vec("CartPole-v1", num_envs=2)
    try:
        assert parameters(Default(env)) == parameters(Default(vector)) == 1_027
    finally:
        env.close()
        vector.close()


def test_one_seed_gives_one_policy() -> None:
    first, second = [
        (torch.manual_seed(4), Default(Spaces(OBSERVATIONS["dict"], ACTIONS["box"])))[1]
        for _ in range(2)
    ]
    torch.testing.assert_close(first.state_dict(), second.state_dict(), atol=0, rtol=0)


def test_one_batch_can_be_over_fitted() -> None:
    torch.manual_seed(0)
    policy, x = Default(REFERENCE, hidden_size=32), torch.randn(8, 8)
    target = torch.arange(8) % 4
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(100):
        logits, values = policy(x)
        loss = torch.nn.functional.cross_entropy(logits, target) + (values - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy(x)[0].softmax(-1).gather(1, target[:, None]).min() > 0.9


def test_pufferlibs_names_are_there() -> None:
    assert models.__all__ == sorted(models.__all__)
    assert pytorch.layer_init is layer_init
    action, log_prob, entropy = pytorch.sample_logits(torch.zeros(3, 2))
    assert action.shape == log_prob.shape == entropy.shape == (3,)


def test_default_has_as_many_layers_as_asked_for() -> None:
    policy = Default(REFERENCE, hidden_size=16, num_layers=2)
    assert parameters(policy) == (8 * 16 + 16) + (16 * 16 + 16) + (16 * 4 + 4) + (16 + 1)
    with pytest.raises(BuildError, match="num_layers=0"):
        Default(REFERENCE, num_layers=0)
