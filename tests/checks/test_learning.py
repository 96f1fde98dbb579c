"""T1-T4 catch policies that don't learn, and correct ones of every kind do, in seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from good import (
    CONTINUOUS,
    DICT,
    DISCRETE,
    FOUR,
    HYBRID,
    SEVERAL,
    VECTOR,
    GoodLSTM,
    GoodMLP,
)
from good_actions import GoodSquashed
from gymnasium import spaces as gym
from mutant import assert_passes, outcomes, subject_of
from torch import nn

from puffer_policies.checks.model import Status
from puffer_policies.checks.probes.bandits import (
    Problem,
    columns_of,
    cues,
    distinct,
    right_actions,
)
from puffer_policies.checks.promises.learning import CHECKS, entropy_falls
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.mlp import Continuous, Default

MULTIBINARY = Spaces(gym.Discrete(2), gym.MultiBinary(3))
SCALAR = Spaces(VECTOR, gym.Box(-2.0, 0.5, ()))


# Training sees the kind of action and whether there is memory; each kind is tried with one of both.
@pytest.mark.parametrize(
    ("cls", "spaces"),
    [
        (GoodLSTM, DISCRETE),
        (GoodMLP, SEVERAL),
        (GoodLSTM, CONTINUOUS),
        (GoodMLP, DICT),
        (GoodMLP, MULTIBINARY),
        (GoodLSTM, HYBRID),
        (GoodLSTM, SCALAR),
    ],
    ids=str,
)
def test_correct_policies_learn(cls: type, spaces: Spaces) -> None:
    assert_passes(CHECKS, subject_of(cls, spaces), trainability=True)


def test_squashed_actions_learn() -> None:
    assert_passes(CHECKS, subject_of(GoodSquashed, CONTINUOUS), trainability=True)


def remembering(spaces: Spaces) -> nn.Module:
    return LSTMWrapper(spaces, Default(spaces, hidden_size=32))


@pytest.mark.parametrize(
    ("make", "spaces"), [(Continuous, CONTINUOUS), (remembering, DISCRETE), (remembering, HYBRID)]
)
def test_built_ins_learn_alone_and_with_memory(make: Any, spaces: Spaces) -> None:
    assert_passes(CHECKS, subject_of(make, spaces), trainability=True)


def test_memory_is_not_asked_of_a_policy_without() -> None:
    outcome = outcomes(CHECKS, subject_of(GoodMLP), trainability=True)["T4"]
    assert outcome == (Status.SKIPPED, "the policy has no memory")


def test_a_space_of_one_observation_has_no_context() -> None:
    subject = subject_of(GoodMLP, Spaces(gym.Discrete(1), gym.Discrete(2)))
    assert outcomes(CHECKS, subject, trainability=True)["T3"][0] is Status.SKIPPED
    assert not distinct(cues(subject, 2))


def test_a_choice_of_one_option_has_no_entropy_to_lose() -> None:
    actions = gym.Dict({"pass": gym.Discrete(1), "tool": FOUR})
    for action, status in ((actions, Status.PASSED), (gym.Discrete(1), Status.SKIPPED)):
        subject = subject_of(GoodMLP, Spaces(VECTOR, action))
        assert outcomes([entropy_falls], subject, trainability=True)["T2"][0] is status


@pytest.mark.parametrize(
    "spaces", [DISCRETE, SEVERAL, CONTINUOUS, MULTIBINARY, SCALAR, HYBRID], ids=str
)
def test_no_constant_action_earns_what_is_asked(spaces: Spaces) -> None:
    columns = columns_of(action_layout(spaces.action))
    targets = right_actions(columns, 2)
    problem = Problem(torch.zeros(2, 1, 4), targets, columns)
    actions = torch.zeros(1, 2, max(columns.places) + 1)
    actions[..., columns.places] = targets.float()
    assert problem.reward(actions).tolist() == [[1.0, 1.0]]
    assert set(problem.rewards_of_parts(actions).values()) == {1.0}
    assert max(problem.constant_rewards().values()) <= 0.75


def test_training_leaves_policy_and_generator_alone() -> None:
    subject = subject_of(GoodMLP)
    before = {key: value.clone() for key, value in subject.policy.state_dict().items()}
    generator = torch.get_rng_state()
    for check in CHECKS:
        if not check.applies(subject):
            check.run(subject)
    assert all(torch.equal(value, before[k]) for k, value in subject.policy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
