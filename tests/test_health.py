"""An inspection measures what each alarm is about, on policies made to have it."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces as gym_spaces
from torch import nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.train.batch import Segments, Transitions
from puffer_policies.train.health import entropy_share, inspect
from puffer_policies.train.loss import Prediction
from puffer_policies.zoo.mlp import Default

pytestmark = pytest.mark.trainer

M, L, WIDTH = 16, 4, 3
DISCRETE, BOX = gym_spaces.Discrete(3), gym_spaces.Box(-1.0, 1.0, (2,))
OBSERVED = gym_spaces.Box(-5.0, 5.0, (WIDTH,))


def policy_for(space=DISCRETE):
    torch.manual_seed(0)
    return Default(Spaces(OBSERVED, space), hidden_size=8)


def batch_of(policy, *, scale=1.0, actions=None):
    """A rollout of `policy`: old log-probabilities and values are its own."""
    observations = torch.randn(M, L, WIDTH)
    with torch.no_grad():
        logits, values = policy(observations)
        choice = distribution(logits)
        actions = choice.sample() if actions is None else actions
        log_probs = choice.log_prob(actions)
    advantages = torch.randn(M * L)
    numbers = Transitions(
        log_probs,
        advantages,
        values.flatten() + scale * advantages,
        values.flatten(),
        torch.ones(M * L),
    )
    return Segments(
        observations=observations,
        starts=torch.zeros(M, L, dtype=torch.bool),
        extras={},
        states={},
        actions=actions.reshape(M, L, *actions.shape[1:]),
        numbers=torch.stack([each.reshape(M, L) for each in numbers]),
    )


def reading(policy, batch, *, space=DISCRETE, epoch=0, **options):
    logits, values = policy(batch.observations)
    current = distribution(logits)
    actions = batch.actions.flatten(0, 1)
    new = Prediction(current.log_prob(actions), current.entropy(), values.flatten())
    config = TrainConfig(**options)
    return inspect(
        policy, batch, (current, new), config=config, layout=action_layout(space), epoch=epoch
    )


def test_the_policy_that_played_has_ratio_one():
    policy = policy_for()
    assert reading(policy, batch_of(policy)).ratio_error < 1e-5


def test_a_policy_other_than_the_one_that_played_is_detected():
    policy = policy_for()
    batch = batch_of(policy)
    with torch.no_grad():
        policy.actor.linear.weight.mul_(100)
    assert reading(policy, batch).ratio_error > 0.01


def test_a_parameter_that_nothing_uses_is_named_in_the_first_update_only():
    policy = policy_for()
    policy.spare = nn.Linear(2, 2)
    batch = batch_of(policy)
    assert reading(policy, batch).idle_parameters == ("spare.weight", "spare.bias")
    assert reading(policy, batch, epoch=1).idle_parameters == ()


def test_units_that_never_change_are_counted():
    policy = policy_for()
    with torch.no_grad():
        policy.encoder.layers[0].weight[:6] = 0.0
    assert reading(policy, batch_of(policy)).dead_units == pytest.approx(6 / 8)


def test_units_are_not_blamed_where_nothing_happens():
    policy = policy_for()
    batch = batch_of(policy)
    batch.observations.fill_(1.0)
    assert reading(policy, batch).dead_units is None


def test_large_returns_take_the_gradient():
    policy = policy_for()
    small = reading(policy, batch_of(policy, scale=0.01))
    large = reading(policy, batch_of(policy, scale=1000.0))
    assert small.value_share < 0.5 < 0.99 < large.value_share
    assert large.gradient_clipped


def test_the_parameters_keep_their_gradients():
    policy = policy_for()
    reading(policy, batch_of(policy))
    assert all(each.grad is None for each in policy.parameters())


def test_values_without_gradient_have_no_share():
    policy = policy_for()
    policy.decode_actions = lambda hidden: (policy.actor(hidden), policy.critic(hidden).detach())
    assert reading(policy, batch_of(policy)).value_share == 0.0


def test_sparse_gradients_are_read():
    policy = policy_for(BOX)
    policy.encoder = nn.Sequential(Rounded(), nn.Embedding(11, 8, sparse=True))
    assert 0.0 < reading(policy, batch_of(policy), space=BOX).value_share < 1.0


class Rounded(nn.Module):
    """(N, 3) -> the first of each row as an index, (N,)."""

    def forward(self, rows):
        return rows[:, 0].round().long().clamp(-5, 5) + 5


def test_actions_outside_of_the_box_are_counted():
    policy = policy_for(BOX)
    actions = torch.tensor([[0.5, 3.0]]).repeat(M * L, 1)
    result = reading(policy, batch_of(policy, actions=actions), space=BOX)
    assert result.clipped_actions == pytest.approx(0.5)
    assert result.logit_spread is None


def test_the_spread_of_logits_leaves_forbidden_options_out():
    policy = policy_for()
    with torch.no_grad():
        policy.actor.linear.weight.zero_()
        policy.actor.linear.bias.copy_(torch.tensor([0.0, 60.0, -1e9]))
    assert reading(policy, batch_of(policy)).logit_spread == pytest.approx(1e9)
    with torch.no_grad():
        policy.actor.linear.bias[2] = -torch.inf
    batch = batch_of(policy)
    assert reading(policy, batch).logit_spread == pytest.approx(60.0)


def test_entropy_is_compared_with_the_largest():
    several = action_layout(gym_spaces.MultiDiscrete([2, 4]))
    assert entropy_share(float(torch.tensor(8.0).log()), several) == pytest.approx(1.0)
    assert entropy_share(1.0, action_layout(BOX)) is None
