"""PPO's loss against the formulas of the paper, and how often each segment is in a minibatch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.batch import Transitions
from puffer_policies.train.loss import Prediction, piece_loss, ppo_loss, prepared
from puffer_policies.train.ppo import (
    annealed_beta,
    importance_weights,
    minibatches,
    probabilities,
)

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
    assert [each.grad[-1].item() for each in new[:3]] == [0, 0, 0]


def test_normalized_advantages_do_not_depend_on_scale_and_shift():
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
        loss = piece_loss(some, Prediction(*(each[place] for each in pieces[:3])), config)
        loss.total.backward()
        parts.append(loss.parts)
    torch.testing.assert_close(torch.stack(parts).sum(0), expected.parts)
    for one, other in zip(whole[:3], pieces[:3], strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_weight_of_two_counts_as_two_copies():
    config = dataclasses.replace(CONFIG, norm_adv=True)
    old, importance = sample(3), torch.tensor([1.0, 2.0, 1.0])
    rows = torch.tensor([0, 1, 1, 2])
    twice = Transitions(*(each[rows] for each in old))
    weighed = piece_loss(prepared(old, config, importance=importance), prediction(old), config)
    torch.testing.assert_close(weighed.parts, ppo_loss(twice, prediction(twice), config).parts)


# Minibatches --------------------------------------------------------------------------------

ADVANTAGES = torch.tensor([[1.0, -1.0], [0.0, 0.0], [-3.0, 5.0], [4.0, 100.0]])
WEIGHTS = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0, 2.0])
def test_chances_go_with_a_power_of_the_summed_sizes(alpha):
    actual = probabilities(ADVANTAGES, WEIGHTS, alpha=alpha)
    sums = np.array([2.0, 1e-30, 8.0, 4.0]) ** alpha
    np.testing.assert_allclose(actual, sums / sums.sum(), rtol=1e-4, atol=1e-5)


def test_a_segment_without_advantages_can_be_chosen_and_one_of_ghosts_can_not():
    weights = WEIGHTS.clone()
    weights[2] = 0
    actual = probabilities(ADVANTAGES, weights, alpha=0.5)
    assert actual[1] > 0
    assert actual[2] == 0


@pytest.mark.parametrize("weights", [WEIGHTS, torch.zeros(4, 2)])
def test_without_advantages_all_are_equal(weights):
    actual = probabilities(torch.zeros(4, 2), weights, alpha=0.8)
    np.testing.assert_allclose(actual, 0.25)


def test_full_weights_make_the_mean_that_of_all_segments():
    values = torch.tensor([5.0, -2.0, 7.0, 1.0])
    chances = probabilities(ADVANTAGES, torch.ones(4, 2), alpha=0.6)
    every = torch.arange(4)
    weighted = chances * importance_weights(chances, every, beta=1.0) * values
    torch.testing.assert_close(weighted.sum(), values.mean())


def test_full_weights_count_only_possible_segments():
    chances = torch.tensor([0.25, 0.75, 0.0])
    values = torch.tensor([4.0, 8.0, 1000.0])
    rows = torch.tensor([0, 1])
    weighted = chances[rows] * importance_weights(chances, rows, beta=1.0) * values[rows]
    torch.testing.assert_close(weighted.sum(), torch.tensor(6.0))


def test_no_weights_without_beta():
    rows = torch.tensor([0, 2, 2])
    actual = importance_weights(torch.tensor([0.1, 0.3, 0.6]), rows, beta=0.0)
    assert torch.equal(actual, torch.ones(3))


def test_beta_rises_linearly_to_one_and_stays():
    actual = [annealed_beta(0.2, progress) for progress in (0.0, 0.5, 1.0, 3.0)]
    assert actual == pytest.approx([0.2, 0.6, 1.0, 1.0])


def epoch(config, *, copies=3, size=3, progress=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = ADVANTAGES.repeat(copies, 1), WEIGHTS.repeat(copies, 1)
    return list(minibatches(config, *rows, size=size, progress=progress, generator=generator))


def test_segments_are_chosen_as_often_as_their_probabilities_say():
    (minibatch,) = epoch(TrainConfig(prio_alpha=0.6), copies=10_000, size=40_000)
    frequencies = (minibatch.rows % 4).bincount(minlength=4) / 40_000
    expected = probabilities(ADVANTAGES, WEIGHTS, alpha=0.6)
    np.testing.assert_allclose(frequencies, expected, atol=0.01)


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_one_seed_chooses_one_sequence(alpha):
    first, second, other = (epoch(TrainConfig(prio_alpha=alpha), seed=each) for each in (3, 3, 4))
    assert [each.rows.tolist() for each in first] == [each.rows.tolist() for each in second]
    assert [each.rows.tolist() for each in first] != [each.rows.tolist() for each in other]


def test_without_priorities_every_segment_comes_once_and_counts_the_same():
    actual = epoch(TrainConfig())
    assert sorted(torch.cat([each.rows for each in actual]).tolist()) == list(range(12))
    assert [each.importance for each in actual] == [None] * 4


def test_with_priorities_there_are_as_many_minibatches_and_small_segments_count_for_more():
    actual = epoch(TrainConfig(prio_alpha=0.5, prio_beta0=0.5))
    assert [len(each.rows) for each in actual] == [3] * 4
    counts = {int(r) % 4: float(w) for each in actual for r, w in zip(*each[:2], strict=True)}
    assert counts[0] > counts[3] > counts[2]


def test_what_segments_count_for_moves_with_the_run():
    early, late = (epoch(TrainConfig(prio_alpha=1.0), progress=each)[0] for each in (0.0, 1.0))
    assert torch.equal(early.rows, late.rows)
    torch.testing.assert_close(late.importance, early.importance.pow(5.0))  # from 0.2 to 1
