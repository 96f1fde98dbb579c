"""What the checks know of the parts of an action: actions, bounds and logits of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from good import BOTH, FOUR, HYBRID, REALS, GoodMLP
from good_actions import MaskedMLP, OneTypeForAllParts, OwnProduct, SquashedAim, masked
from gymnasium import spaces as gym
from mutant import outcomes, subject_of
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckSkipped, Status
from puffer_policies.checks.probes.outputs import (
    draw,
    fixed_actions,
    log_probs,
    misfit,
    numbers,
)
from puffer_policies.checks.probes.parts import (
    bounds_of_columns,
    choices_of,
    names_of_columns,
    options_of,
    parts_of,
    tensors_of,
)
from puffer_policies.checks.promises import masks, passes, shapes
from puffer_policies.nn.distributions import Categorical, distribution
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested

LAYOUT = action_layout(HYBRID.action)


def logits_of(cls, spaces=HYBRID):
    subject = subject_of(cls, spaces)
    logits, values, _ = subject.step(subject.observations())
    return subject, logits, values


def test_columns_are_those_of_the_sorted_parts():
    assert options_of(LAYOUT) == [0, 0, 3, 2, 4, 0, 4]
    assert names_of_columns(LAYOUT)[1:4] == [
        "number 1 of part 'aim'",
        "number 0 of part 'arm.0'",
        "number 1 of part 'arm.0'",
    ]
    low, high = bounds_of_columns(LAYOUT)
    assert low.tolist() == [-1, -1, -np.inf, -np.inf, -np.inf, -2, -np.inf]
    assert high.tolist() == [1, 1, np.inf, np.inf, np.inf, 0.5, np.inf]
    assert (options_of(action_layout(FOUR)), options_of(action_layout(REALS))) == ([4], [0, 0])


@pytest.mark.parametrize("space", [HYBRID.action, BOTH.action, gym.Tuple((FOUR, FOUR))], ids=str)
def test_fixed_actions_are_members_in_the_dtype_of_the_policy(space):
    layout = action_layout(space)
    actions = fixed_actions(layout, 50).numpy()
    assert (actions.dtype, actions.shape[1:]) == (layout.policy_dtype, layout.policy_shape)
    members = layout.to_env(actions)
    for row in range(50):
        assert space.contains(map_nested(lambda leaf, row=row: np.asarray(leaf[row]), members))


@pytest.mark.parametrize("cls", [GoodMLP, SquashedAim, OneTypeForAllParts])
def test_many_actions_are_scored_as_one_by_one(cls):
    subject, logits, _ = logits_of(cls)
    dist = subject.distribution(logits)
    actions = draw(dist, 4)
    one_by_one = torch.stack([dist.log_prob(action) for action in actions])
    torch.testing.assert_close(log_probs(subject, logits, actions), one_by_one)


def test_parts_have_their_own_logits_unless_a_type_holds_them_all():
    _, logits, _ = logits_of(GoodMLP)
    parts = parts_of(LAYOUT, logits)
    assert [part.keys for part in parts] == [("aim",), ("arm", 0), ("arm", 1), ("tool",)]
    assert parts[2].logits_of(logits) is logits["arm"][1]
    assert [len(each) if isinstance(each, tuple) else 1 for each in choices_of(LAYOUT, logits)] == [
        3,
        1,
    ]
    _, logits, _ = logits_of(OneTypeForAllParts)
    [whole] = parts_of(LAYOUT, logits)
    assert whole.is_mixed
    assert choices_of(LAYOUT, logits) is None


def test_numbers_do_not_depend_on_the_order_of_keys():
    subject, logits, values = logits_of(GoodMLP)
    turned = dict(reversed(logits.items()))
    same = [numbers(subject, each, values, len(values)) for each in (logits, turned)]
    assert torch.equal(*same)


AIM = Normal(torch.zeros(1, 2), 1.0)


@pytest.mark.parametrize(
    ("change", "expected", "actual"),
    [
        ({"tool": torch.zeros(1, 3)}, "a Tensor with [4] numbers a row for part 'tool'", "[3]"),
        ({"tool": AIM}, "a Tensor with [4] numbers a row for part 'tool'", "a Normal with [2, 2]"),
        ({"arm": torch.zeros(1, 9)}, "a tuple with the parts [0, 1] for part 'arm'", "a Tensor"),
        ({"arm": (AIM, AIM)}, "a tuple with [3, 2, 4] numbers a row for part 'arm.0'", "Normal"),
        ({"leg": AIM}, "a dict with the parts ['aim', 'arm', 'tool']", "'leg'"),
    ],
)
def test_a_misfit_names_the_part(change, expected, actual):
    subject, _, _ = logits_of(GoodMLP)
    logits, _, _ = subject.step(subject.observations(1))
    assert misfit(LAYOUT, logits, 1) is None
    found = misfit(LAYOUT, {**logits, **change}, 1)
    assert found is not None
    assert found[0] == expected
    assert actual in found[1]
    assert tensors_of({**logits, **change}) is not None


def test_logits_with_other_parts_are_left_to_s8():
    with pytest.raises(CheckSkipped, match="S8"):
        parts_of(LAYOUT, {"aim": AIM})


class MaskedJoint(MaskedMLP, OneTypeForAllParts):
    """The masked parts in one type."""

    def apply_mask(self, logits, mask):
        return OwnProduct(masked(logits, mask))


class ForgetsTheArm(MaskedJoint):
    def apply_mask(self, logits, mask):
        return OwnProduct({**super().apply_mask(logits, mask), "arm": logits["arm"]})


def test_masks_of_a_type_that_holds_all_parts_are_judged():
    checks = [masks.masked_actions_never_happen, masks.mask_in_rollout_and_update]
    results = outcomes(checks, subject_of(MaskedJoint, HYBRID))
    assert [status for status, _ in results.values()] == [Status.PASSED, Status.PASSED]
    status, message = outcomes(checks, subject_of(ForgetsTheArm, HYBRID))["A4"]
    assert status is Status.FAILED
    assert "forbidden in part 'arm.0'" in message


class NoTool(GoodMLP):
    def logits(self, hidden):
        return {**super().logits(hidden), "tool": None}


class OwnTool(tuple[Tensor, ...]):
    """Logits of a choice as a type of its own."""

    __slots__ = ()


@distribution.register(OwnTool)
class WithoutShape:
    """The methods of a distribution, and not the shape of an action."""

    def __init__(self, logits):
        self.of = Categorical(logits[0])
        self.sample, self.mode, self.log_prob = self.of.sample, self.of.mode, self.of.log_prob
        self.entropy = self.of.entropy


class ShapelessTool(GoodMLP):
    def logits(self, hidden):
        logits = super().logits(hidden)
        return {**logits, "tool": OwnTool((logits["tool"],))}


class UnmergedArm(GoodMLP):
    """One part keeps the axis of time."""

    def forward(self, observations, state=None):
        logits, values = super().forward(observations, state)
        (choices, length), rows = logits["arm"], observations.shape[:2]
        if observations.ndim == 3:
            choices = tuple(each.reshape(*rows, -1) for each in choices)
        return {**logits, "arm": (choices, length)}, values


@pytest.mark.parametrize(
    ("cls", "check", "text"),
    [
        (NoTool, passes.runs, "None for part 'tool'"),
        (ShapelessTool, passes.runs, "an event_shape for part 'tool'"),
        (UnmergedArm, shapes.one_log_prob_a_row, "[5, 5, 5] rows in part 'arm.0'"),
    ],
)
def test_a_pass_whose_part_is_bad_names_it(cls, check, text):
    status, message = outcomes([check], subject_of(cls, HYBRID))[check.code]
    assert status is Status.FAILED
    assert text in message
