"""A1-A6 catch what they name, in every style, and find no fault with correct policies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from good import CONTINUOUS, DICT, DISCRETE, REALS, SEVERAL, VECTOR, GoodLSTM, GoodMLP
from good_actions import GoodOwnChoices, GoodSquashed, MaskedLSTM, MaskedMLP, insisting, typed
from gymnasium import spaces as gym
from mutant import assert_passes, outcomes, subject_of
from mutants_actions import DeafToMasks
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from puffer_policies.checks import promises
from puffer_policies.checks.model import Scope, Status
from puffer_policies.checks.probes.density import Slices, sampling_gap, total_mass
from puffer_policies.checks.promises import actions, numerics
from puffer_policies.nn.distributions import Gaussian, distribution
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces, action_layout

BOTH = (*actions.CHECKS, *numerics.CHECKS)


@pytest.mark.parametrize(("cls", "spaces"), [(GoodSquashed, CONTINUOUS), (GoodOwnChoices, SEVERAL)])
def test_registered_types_of_logits_pass(cls: type, spaces: Spaces) -> None:
    assert_passes(BOTH, subject_of(cls, spaces))


@pytest.mark.parametrize(
    ("cls", "spaces", "needs_mask"),
    [
        (insisting(MaskedMLP), DISCRETE, True),
        (insisting(MaskedLSTM), SEVERAL, True),
        (MaskedMLP, Spaces(VECTOR, gym.MultiBinary(3)), False),
        (MaskedLSTM, DICT, False),
    ],
    ids=str,
)
def test_policies_that_heed_masks_pass_and_are_judged(
    cls: type, spaces: Spaces, needs_mask: bool
) -> None:
    capabilities = Capabilities(needs_mask=needs_mask)
    results = outcomes(BOTH, subject_of(cls, spaces, capabilities=capabilities))
    assert results["A4"] == results["A5"] == (Status.PASSED, "")
    assert not [code for code, (status, _) in results.items() if status is Status.FAILED]


@pytest.mark.parametrize(
    ("spaces", "reason"),
    [
        (DISCRETE, 'it does not read state["action_mask"]'),
        (CONTINUOUS, "real numbers have no options to forbid"),
        (Spaces(VECTOR, gym.Discrete(1)), "there is only one action"),
    ],
)
def test_masks_are_skipped_with_the_reason(spaces: Spaces, reason: str) -> None:
    results = outcomes(actions.CHECKS, subject_of(GoodLSTM, spaces))
    assert results["A4"] == results["A5"] == (Status.SKIPPED, reason)


def test_a_declaration_is_enough_to_be_held_to_masks() -> None:
    subject = subject_of(DeafToMasks, declared={"action_mask": True})
    assert outcomes(actions.CHECKS, subject)["A4"][0] is Status.FAILED


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 1.5])
def test_mass_and_gap_of_torch_s_own_squashed_normal_are_nought(width: float) -> None:
    slices = Slices(_Squashed(width), action_layout(REALS))
    assert abs(total_mass(slices)) < 0.01
    assert sampling_gap(slices) < 0.05


def test_mass_of_a_squashed_normal_without_its_jacobian_is_that_of_theory() -> None:
    """E[1 - tanh(u)^2] for a standard normal u is 0.6057 for each dimension."""
    slices = Slices(_Squashed(1.0, jacobian=False), action_layout(REALS))
    assert total_mass(slices) == pytest.approx(2 * torch.tensor(0.6057).log().item(), abs=0.01)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (20,)])
def test_a_plain_normal_of_any_shape_integrates_to_one(shape: tuple[int, ...]) -> None:
    layout = action_layout(gym.Box(-3.0, 0.5, shape))
    loc = torch.linspace(-2, 2, 5).reshape(5, *[1] * len(shape)).expand(5, *shape)
    normal = Normal(loc, torch.full_like(loc, 0.7), validate_args=False)
    slices = Slices(Gaussian(normal), layout)
    assert abs(total_mass(slices)) < 0.01
    assert sampling_gap(slices) < 0.06


def test_dimensions_that_depend_on_each_other_are_skipped_in_words() -> None:
    subject = subject_of(typed("Ring", _RingNormal), CONTINUOUS)
    status, reason = outcomes(actions.CHECKS, subject)["A6"]
    assert status is Status.SKIPPED
    assert "depend on each other" in reason


def test_checks_of_actions_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    outcomes(actions.CHECKS, subject_of(GoodMLP, CONTINUOUS))
    assert torch.equal(torch.get_rng_state(), before)


class _Squashed:
    """torch's tanh-transformed normal of 5 rows and 2 dimensions, as a `Distribution`."""

    def __init__(self, width: float, *, jacobian: bool = True) -> None:
        loc = torch.linspace(-0.5, 0.5, 10).reshape(5, 2) if jacobian else torch.zeros(5, 2)
        self.normal = Normal(loc, torch.full((5, 2), width))
        transform = TanhTransform(cache_size=0)
        self.squashed = TransformedDistribution(self.normal, transform, validate_args=False)
        self.jacobian = jacobian

    def sample(self, generator: Any = None) -> Tensor:
        return self.squashed.sample()

    def mode(self) -> Tensor:
        return self.normal.loc.tanh()

    def log_prob(self, action: Tensor) -> Tensor:
        inner = action.clamp(-1 + 1e-6, 1 - 1e-6)
        if self.jacobian:
            return self.squashed.log_prob(inner).sum(-1)
        return self.normal.log_prob(inner.atanh()).sum(-1)

    def entropy(self) -> Tensor:
        return self.normal.entropy().sum(-1)


class _RingNormal(Normal):
    """A type whose density is no product: the sum of its numbers matters."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value)


@distribution.register(_RingNormal)
class _Ring(Gaussian):
    def log_prob(self, action: Tensor) -> Tensor:
        return super().log_prob(action) - 0.05 * action.flatten(1).prod(1).square()


@pytest.mark.parametrize(("base", "spaces"), [(MaskedMLP, SEVERAL), (MaskedLSTM, DISCRETE)])
def test_a_policy_that_needs_a_mask_is_given_one_by_every_check(base: type, spaces: Spaces) -> None:
    needing = Capabilities(needs_mask=True)
    # What compiles, exports and starts processes gives one to ActionMaskWrapper in test_builtins.
    checks = [check for check in promises.CHECKS if check.scope is not Scope.POLICY]
    assert_passes(checks, subject_of(insisting(base), spaces, capabilities=needing))
