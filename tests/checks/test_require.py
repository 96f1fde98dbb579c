"""require_shapes and require_conformance hold a built policy against the contract."""

from __future__ import annotations

import pytest
import torch
from good import CONTINUOUS, DISCRETE, FOUR, HYBRID, VECTOR, GoodLSTM, GoodMLP
from gymnasium import spaces as gym

from puffer_policies import Spaces, get_policy
from puffer_policies.checks import require_conformance, require_shapes
from puffer_policies.errors import ContractError


class FlatValues(GoodMLP):
    """Its values have lost an axis."""

    def decode_actions(self, hidden):
        logits, values = super().decode_actions(hidden)
        return logits, values.squeeze(-1)


class TooManyLogits(GoodMLP):
    """It has a logit more than there are actions."""

    def logits(self, hidden):
        logits = super().logits(hidden)
        return torch.cat([logits, logits[:, :1]], 1)


class Branching(GoodMLP):
    """What it does depends on values."""

    def features(self, observations):
        features = super().features(observations)
        return features if features.sum().item() > 0 else -features


@pytest.mark.parametrize(
    ("policy", "spaces"),
    [
        (GoodLSTM, DISCRETE),
        (GoodLSTM, CONTINUOUS),
        (GoodLSTM, HYBRID),
        ("LSTMWrapper(Default)", CONTINUOUS),
        ("ActionMaskWrapper(Default)", DISCRETE),
    ],
)
def test_a_correct_policy_has_the_shapes_of_the_contract(policy, spaces):
    assert require_shapes(get_policy(policy, spaces), spaces) is None


@pytest.mark.parametrize(
    ("policy", "offence"),
    [(FlatValues, r"values \(3,\), expected \(3, 1\)"), (TooManyLogits, r"logits \(3, 5\)")],
)
def test_wrong_shapes_are_refused(policy, offence):
    with pytest.raises(ContractError, match=offence):
        require_shapes(get_policy(policy, DISCRETE), DISCRETE)


class HandsExchanged(GoodMLP):
    """As many logits as options, shared out among the parts in another way."""

    def logits(self, hidden):
        logits = super().logits(hidden)
        return dict(zip(logits, reversed(logits.values()), strict=True))


def test_a_part_of_the_wrong_shape_is_refused_by_its_key():
    hands = Spaces(VECTOR, gym.Dict({"left": FOUR, "right": gym.Discrete(2)}))
    with pytest.raises(ContractError, match=r"expected .* \[4\] numbers a row for part 'left'"):
        require_shapes(get_policy(HandsExchanged, hands), hands)


def test_shapes_of_a_policy_that_branches_on_values_are_found_by_running_it():
    assert require_shapes(get_policy(Branching, DISCRETE), DISCRETE) is None


def test_the_policy_stays_as_it_was():
    policy = get_policy(GoodLSTM, DISCRETE)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    require_shapes(policy, DISCRETE)
    torch.testing.assert_close(before, policy.state_dict(), atol=0, rtol=0)


def test_conformance_runs_the_suite_and_lists_every_failure():
    assert require_conformance(get_policy(GoodMLP, DISCRETE), DISCRETE) is None
    with pytest.raises(
        ContractError, match=r"'local/FlatValues' breaks.*\n(.*\n)*.*S1 value-shape"
    ):
        require_conformance(get_policy(FlatValues, DISCRETE), DISCRETE)
