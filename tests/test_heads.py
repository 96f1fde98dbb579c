"""Heads parametrize every action space, start near uniform and stay finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import ACTIONS, FOUR, tensors_of

from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.heads import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    GaussianHead,
    StateGaussianHead,
    ValueHead,
    make_head,
)
from puffer_policies.spaces import Spaces, action_layout


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_sampled_actions_are_members_of_the_space(name: str) -> None:
    space = ACTIONS[name]
    layout = action_layout(space)
    logits = make_head(space, 16)(torch.randn(1000, 16))
    members = layout.to_env(distribution(logits).sample().numpy())
    assert members.shape == (1000, *space.shape)
    assert all(space.contains(np.asarray(member)) for member in members)


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_logits_have_the_contracted_kind_and_number(name: str) -> None:
    space = ACTIONS[name]
    layout = action_layout(space)
    logits = make_head(space, 16)(torch.randn(5, 16))
    if layout.is_continuous:
        assert isinstance(logits, torch.distributions.Normal)
        assert logits.loc.shape == logits.scale.shape == (5, *space.shape)
    elif layout.kind == "discrete":
        assert logits.shape == (5, *layout.nvec)
    else:
        assert isinstance(logits, tuple)
        assert tuple(each.shape[1] for each in logits) == layout.nvec


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_log_prob_and_entropy_have_one_number_a_row(name: str) -> None:
    dist = distribution(make_head(ACTIONS[name], 16)(torch.randn(5, 16)))
    assert dist.log_prob(dist.sample()).shape == dist.entropy().shape == (5,)


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_the_first_policy_is_nearly_uniform(name: str) -> None:
    layout = action_layout(ACTIONS[name])
    logits = make_head(ACTIONS[name], 64)(torch.randn(20, 64))
    if layout.is_continuous:
        assert logits.loc.abs().max() < 0.1
        assert torch.equal(logits.scale, torch.ones_like(logits.scale))
    else:
        most = sum(math.log(n) for n in layout.nvec)
        assert distribution(logits).entropy().min() > 0.99 * most


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_the_standard_deviation_is_bounded_in_log_space(value: float) -> None:
    head = make_head(ACTIONS["box"], 8)
    assert isinstance(head, GaussianHead)
    torch.nn.init.constant_(head.log_std, value)
    scale = head(torch.zeros(1, 8)).scale.detach()
    bound = LOG_STD_MIN if value < 0 else LOG_STD_MAX
    torch.testing.assert_close(scale, torch.full_like(scale, math.exp(bound)))


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_parameter_of_a_head_gets_a_gradient(name: str) -> None:
    head = make_head(ACTIONS[name], 8)
    dist = distribution(head(torch.randn(6, 8)))
    (dist.log_prob(dist.sample()).sum() + dist.entropy().sum()).backward()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_rows_do_not_mix(name: str) -> None:
    head = make_head(ACTIONS[name], 8)
    hidden = torch.randn(5, 8)
    for whole, row in zip(tensors_of(head(hidden)), tensors_of(head(hidden[2:3])), strict=True):
        torch.testing.assert_close(whole[2:3], row)


def test_gains_are_those_of_pufferlib() -> None:
    for head, gain in ((make_head(FOUR, 32).linear, 0.01), (ValueHead(32), 1.0)):
        values = torch.linalg.svdvals(head.weight.detach())
        torch.testing.assert_close(values, torch.full_like(values, gain))
        assert not head.bias.any()


def test_a_space_without_a_head_says_so() -> None:
    with pytest.raises(IncompatibleSpace, match=r"no head serves"):
        make_head(spaces.Text(4), 8)


def test_integers_without_bound_are_refused() -> None:
    space = spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64)
    with pytest.raises(IncompatibleSpace, match="integers"):
        make_head(space, 8)


BOXES = [name for name in sorted(ACTIONS) if action_layout(ACTIONS[name]).is_continuous]


@pytest.mark.parametrize("name", BOXES)
def test_a_deviation_can_depend_on_the_hidden_features(name: str) -> None:
    head = StateGaussianHead(action_layout(ACTIONS[name]), 16)
    hidden = torch.randn(5, 16)
    first = head(hidden)
    assert first.loc.shape == first.scale.shape == (5, *ACTIONS[name].shape)
    torch.testing.assert_close(first.scale, torch.ones_like(first.scale), atol=0.2, rtol=0.0)
    torch.nn.init.normal_(head.linear.weight, std=0.25)  # most within the bounds
    assert (head(hidden).scale.reshape(5, -1).std(0) > 0).all()


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_a_deviation_of_the_hidden_features_is_bounded_in_log_space(value: float) -> None:
    head = StateGaussianHead(action_layout(ACTIONS["box"]), 8)
    torch.nn.init.constant_(head.linear.bias, value)
    scale = head(torch.zeros(1, 8)).scale.detach()
    bound = LOG_STD_MIN if value < 0 else LOG_STD_MAX
    torch.testing.assert_close(scale, torch.full_like(scale, math.exp(bound)))


def test_a_policy_is_asked_for_it_by_an_argument() -> None:
    env = Spaces(spaces.Box(-1.0, 1.0, (3,)), ACTIONS["box"])
    policy = get_policy("LSTMWrapper(Continuous(hidden_size=8, state_dependent_std=True))", env)
    logits, values = policy(torch.randn(4, 5, 3))
    loss = distribution(logits).entropy().sum() + values.sum()
    loss.backward()
    assert isinstance(policy.unwrapped.actor, StateGaussianHead)
    assert policy.unwrapped.actor.linear.weight.grad.chunk(2)[1].any()
    assert isinstance(get_policy("Continuous", env).actor, GaussianHead)
