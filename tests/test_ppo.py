"""The loss against the formulas of the paper."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.batch import Transitions
from puffer_policies.train.ppo import Prediction, piece_loss, ppo_loss, prepared

CONFIG = TrainConfig(norm_adv=False, ent_coef=0.1, vf_coef=0.5)


def sample(n=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    columns = [torch.randn(n, generator=draw) for _ in range(4)]
    return Transitions(*columns, weights=torch.ones(n))


def prediction(old, shift=0.0, values=None):
    log_probs = (old.log_probs + shift).requires_grad_()
    entropy = torch.full_like(old.log_probs, 0.7).requires_grad_()
    values = (old.values if values is None else values).clone().requires_grad_()
    return Prediction(log_probs, entropy, values)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    old = sample()
    new = prediction(old)
    ppo_loss(old, new, CONFIG).total.backward()
    torch.testing.assert_close(new.log_probs.grad, -old.advantages / 6)
    torch.testing.assert_close(new.entropy.grad, torch.full((6,), -0.1 / 6))
    torch.testing.assert_close(new.values.grad, 0.5 * (old.values - old.returns) / 6)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_beyond_the_clip_only_moves_back_have_a_gradient(shift):
    old = sample()
    new = prediction(old, shift)
    ppo_loss(old, new, CONFIG).total.backward()
    moving_back = old.advantages * shift < 0
    assert ((new.log_probs.grad != 0) == moving_back).all()


def test_the_clip_can_be_annealed():
    old = sample()
    narrow = ppo_loss(old, prediction(old, 0.15), CONFIG, clip_coef=0.1)
    wide = ppo_loss(old, prediction(old, 0.15), CONFIG, clip_coef=0.2)
    assert (narrow.part("clip_fraction"), wide.part("clip_fraction")) == (1.0, 0.0)


def test_a_clipped_value_loss_never_is_smaller():
    old, values = sample(), torch.randn(6, generator=torch.Generator().manual_seed(9))
    clipped = dataclasses.replace(CONFIG, clip_vloss=True, vf_clip_coef=0.1)
    new = prediction(old, values=values)
    free, bound = (ppo_loss(old, new, each).part("value") for each in (CONFIG, clipped))
    near = old.values + (values - old.values).clamp(-0.1, 0.1)
    far = torch.maximum((values - old.returns) ** 2, (near - old.returns) ** 2)
    torch.testing.assert_close(bound, 0.5 * far.mean())
    assert bound >= free


@pytest.mark.parametrize("norm_adv", [True, False])
def test_a_ghost_changes_nothing(norm_adv):
    config = dataclasses.replace(CONFIG, norm_adv=norm_adv, clip_vloss=True)
    old = sample(4)
    with_ghost = Transitions(*(torch.cat([x, torch.full((2,), 5.0)]) for x in old))
    with_ghost = with_ghost._replace(weights=torch.tensor([1.0, 1, 1, 1, 0, 0]))
    plain = ppo_loss(old, prediction(old, 0.1), config)
    ghostly = ppo_loss(with_ghost, prediction(with_ghost, 0.1), config)
    torch.testing.assert_close(plain.parts, ghostly.parts)


def test_a_ghost_has_no_gradient():
    old = sample()._replace(weights=torch.tensor([1.0, 1, 1, 1, 1, 0]))
    new = prediction(old, 0.05)
    ppo_loss(old, new, CONFIG).total.backward()
    assert [each.grad[-1].item() for each in new] == [0, 0, 0]


def test_normalised_advantages_do_not_depend_on_scale_and_shift():
    old, config = sample(), dataclasses.replace(CONFIG, norm_adv=True)
    other = old._replace(advantages=old.advantages * 50 + 7)
    one = ppo_loss(old, prediction(old, 0.1), config).part("policy")
    torch.testing.assert_close(one, ppo_loss(other, prediction(old, 0.1), config).part("policy"))


def test_a_minibatch_of_ghosts_alone_is_finite():
    old = sample()._replace(weights=torch.zeros(6))
    assert ppo_loss(old, prediction(old), dataclasses.replace(CONFIG, norm_adv=True)).total == 0


def test_the_divergence_is_zero_for_an_unchanged_policy_and_positive_else():
    old = sample()
    assert ppo_loss(old, prediction(old), CONFIG).part("approx_kl") == 0
    assert ppo_loss(old, prediction(old, 0.1), CONFIG).part("approx_kl") > 0


@pytest.mark.parametrize("norm_adv", [True, False])
def test_pieces_of_a_prepared_minibatch_add_up_to_it(norm_adv):
    config = dataclasses.replace(CONFIG, norm_adv=norm_adv, clip_vloss=True)
    old = sample(7)._replace(weights=torch.tensor([1.0, 0, 1, 2, 0.5, 1, 0]))
    whole, pieces = prediction(old, 0.1), prediction(old, 0.1)
    expected = ppo_loss(old, whole, config)
    expected.total.backward()
    ready, parts = prepared(old, config), []
    for place in (slice(0, 3), slice(3, 4), slice(4, 7)):
        some = Transitions(*(each[place] for each in ready))
        loss = piece_loss(some, Prediction(*(each[place] for each in pieces)), config)
        loss.total.backward()
        parts.append(loss.parts)
    torch.testing.assert_close(torch.stack(parts).sum(0), expected.parts)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_counts_twice_is_there_twice():
    config = dataclasses.replace(CONFIG, norm_adv=True)
    old, importance = sample(3), torch.tensor([1.0, 2.0, 1.0])
    rows = torch.tensor([0, 1, 1, 2])
    twice = Transitions(*(each[rows] for each in old))
    weighed = piece_loss(prepared(old, config, importance=importance), prediction(old), config)
    torch.testing.assert_close(weighed.parts, ppo_loss(twice, prediction(twice), config).parts)
