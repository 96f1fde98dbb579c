"""A squashed Gaussian is torch's transformed one, stays in its Box, and works around any policy."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.models import Default
from puffer_policies.nn.distributions import SquashedNormal, distribution
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.squashed import SquashedGaussianWrapper

VECTOR = spaces.Box(-1.0, 1.0, (3,))
LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([0.5, 3.0])
BOX = spaces.Box(LOW.numpy(), HIGH.numpy())


def squashed(loc: float = 0.3, scale: float = 0.8, rows: int = 4) -> SquashedNormal:
    shape = (rows, 2)
    return SquashedNormal(torch.full(shape, loc), torch.full(shape, scale), LOW, HIGH)


def reference(normal: SquashedNormal) -> TransformedDistribution:
    base = Normal(normal.loc.double(), normal.scale.double())
    scaled = AffineTransform(((LOW + HIGH) / 2).double(), ((HIGH - LOW) / 2).double())
    return TransformedDistribution(base, [TanhTransform(), scaled])


@pytest.mark.parametrize("loc", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_density_is_that_of_torchs_transforms(loc: float, scale: float) -> None:
    normal = squashed(loc, scale, rows=100)
    dist = distribution(normal)
    actions = dist.sample()
    expected = reference(normal).log_prob(actions.double()).sum(-1).float()
    torch.testing.assert_close(dist.log_prob(actions), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("scale", "tolerance"), [(0.1, 0.01), (1.0, 0.02), (3.0, 0.1)])
def test_the_entropy_is_the_mean_of_minus_the_log_density(scale: float, tolerance: float) -> None:
    normal = squashed(0.5, scale, rows=1)
    ideal = reference(normal)
    torch.manual_seed(0)
    numbers = ideal.base_dist.sample((100_000,)).clamp(-15, 15)  # tanh is below 1 in float64
    actions = numbers
    for transform in ideal.transforms:
        actions = transform(actions)
    expected = -ideal.log_prob(actions).sum(-1).mean()
    found = distribution(normal).entropy().double()
    torch.testing.assert_close(found[0], expected, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("loc", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("scale", [0.01, 7.0])
def test_everything_is_finite_with_its_gradient_at_the_bounds(loc: float, scale: float) -> None:
    loc_, scale_ = (torch.full((4, 2), each, requires_grad=True) for each in (loc, scale))
    dist = distribution(SquashedNormal(loc_, scale_, LOW, HIGH))
    for action in (dist.sample(), dist.mode(), LOW.expand(4, 2), HIGH.expand(4, 2)):
        assert ((action >= LOW) & (action <= HIGH)).all()
        assert dist.log_prob(action).isfinite().all()
    (dist.log_prob(dist.sample()).sum() + dist.entropy().sum()).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in (loc_, scale_))


def test_the_mode_is_the_squashed_mean() -> None:
    normal = squashed(loc=0.7)
    expected = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * torch.tensor(0.7).tanh()
    torch.testing.assert_close(distribution(normal).mode(), expected.expand(4, 2))


def test_pufferlibs_sampling_sees_the_same_distribution() -> None:
    normal = squashed()
    action = normal.sample().view(4, -1)  # the lines of pufferlib.pytorch.sample_logits
    log_prob = normal.log_prob(action.view(4, -1)).sum(1)
    entropy = normal.entropy().view(4, -1).sum(1)
    assert isinstance(normal, Normal)
    torch.testing.assert_close(log_prob, distribution(normal).log_prob(action))
    torch.testing.assert_close(entropy, distribution(normal).entropy())


def test_what_has_no_closed_form_is_not_the_normals() -> None:
    normal = squashed()
    for name in ("mean", "stddev", "variance"):
        with pytest.raises(NotImplementedError):
            getattr(normal, name)
    torch.testing.assert_close(normal.icdf(torch.tensor(0.5)), normal.mode)
    torch.testing.assert_close(normal.cdf(normal.mode), torch.full((4, 2), 0.5))


@pytest.mark.parametrize(
    "name",
    [
        "SquashedGaussianWrapper(Default)",
        "SquashedGaussianWrapper(LSTMWrapper(Default))",
        "LSTMWrapper(SquashedGaussianWrapper(Default))",
        "SquashedGaussianWrapper(Continuous(state_dependent_std=True))",
    ],
)
def test_by_name_around_every_policy_steps_and_sequences_agree(name: str) -> None:
    policy = get_policy(name, Spaces(VECTOR, BOX))
    observations, state = torch.randn(4, 3, 3), {}
    whole, _ = policy(observations, {})
    steps = [policy.forward_eval(observations[:, t], state)[0] for t in range(3)]
    loc = torch.stack([each.loc for each in steps], 1).flatten(0, 1)
    assert all(isinstance(each, SquashedNormal) for each in [whole, *steps])
    torch.testing.assert_close(whole.loc, loc, atol=1e-5, rtol=1e-5)


def test_a_step_compiles_without_a_break() -> None:
    policy = get_policy("SquashedGaussianWrapper(Default)", Spaces(VECTOR, BOX))
    torch._dynamo.reset()
    explained = torch._dynamo.explain(policy.forward_eval)(torch.randn(4, 3), {})
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize(
    ("action", "reason"),
    [(spaces.Discrete(3), "choices"), (spaces.Box(0.0, float("inf"), (2,)), "no finite bounds")],
)
def test_actions_that_can_not_be_squashed_are_refused(action: spaces.Space, reason: str) -> None:
    with pytest.raises(IncompatibleSpace, match=reason):
        get_policy("SquashedGaussianWrapper(Default)", Spaces(VECTOR, action))


def test_squashing_twice_is_refused_by_name_and_by_logits() -> None:
    env = Spaces(VECTOR, BOX)
    with pytest.raises(BuildError, match="forbids 'squashed'"):
        get_policy("SquashedGaussianWrapper(SquashedGaussianWrapper(Default))", env)
    twice = SquashedGaussianWrapper(env, SquashedGaussianWrapper(env, Default(env)))
    with pytest.raises(ContractError, match="'SquashedNormal'"):
        twice.forward_eval(torch.randn(4, 3))
