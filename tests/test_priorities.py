"""Prioritised segments: how often each is drawn, and that weights make up for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.ppo import (
    annealed_beta,
    importance_weights,
    minibatches,
    probabilities,
)

ADVANTAGES = torch.tensor([[1.0, -1.0], [0.0, 0.0], [-3.0, 5.0], [4.0, 100.0]])
WEIGHTS = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0, 2.0])
def test_chances_go_with_a_power_of_the_summed_sizes(alpha):
    found = probabilities(ADVANTAGES, WEIGHTS, alpha=alpha)
    sums = np.array([2.0, 1e-30, 8.0, 4.0]) ** alpha
    np.testing.assert_allclose(found, sums / sums.sum(), rtol=1e-4, atol=1e-5)


def test_a_segment_without_advantages_can_be_drawn_and_one_of_ghosts_can_not():
    weights = WEIGHTS.clone()
    weights[2] = 0
    found = probabilities(ADVANTAGES, weights, alpha=0.5)
    assert found[1] > 0
    assert found[2] == 0


@pytest.mark.parametrize("weights", [WEIGHTS, torch.zeros(4, 2)])
def test_without_advantages_all_are_equal(weights):
    found = probabilities(torch.zeros(4, 2), weights, alpha=0.8)
    np.testing.assert_allclose(found, 0.25)


def test_full_weights_make_the_mean_that_of_all_segments():
    values = torch.tensor([5.0, -2.0, 7.0, 1.0])
    chances = probabilities(ADVANTAGES, torch.ones(4, 2), alpha=0.6)
    every = torch.arange(4)
    weighted = chances * importance_weights(chances, every, beta=1.0) * values
    torch.testing.assert_close(weighted.sum(), values.mean())


def test_full_weights_count_only_what_can_be_drawn():
    chances = torch.tensor([0.25, 0.75, 0.0])
    values = torch.tensor([4.0, 8.0, 1000.0])
    rows = torch.tensor([0, 1])
    weighted = chances[rows] * importance_weights(chances, rows, beta=1.0) * values[rows]
    torch.testing.assert_close(weighted.sum(), torch.tensor(6.0))


def test_no_weights_without_beta():
    rows = torch.tensor([0, 2, 2])
    found = importance_weights(torch.tensor([0.1, 0.3, 0.6]), rows, beta=0.0)
    assert torch.equal(found, torch.ones(3))


def test_beta_rises_linearly_to_one_and_stays():
    found = [annealed_beta(0.2, progress) for progress in (0.0, 0.5, 1.0, 3.0)]
    assert found == pytest.approx([0.2, 0.6, 1.0, 1.0])


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
    found = epoch(TrainConfig())
    assert sorted(torch.cat([each.rows for each in found]).tolist()) == list(range(12))
    assert [each.importance for each in found] == [None] * 4


def test_with_priorities_there_are_as_many_minibatches_and_small_segments_count_for_more():
    found = epoch(TrainConfig(prio_alpha=0.5, prio_beta0=0.5))
    assert [len(each.rows) for each in found] == [3] * 4
    counts = {int(r) % 4: float(w) for each in found for r, w in zip(*each, strict=True)}
    assert counts[0] > counts[3] > counts[2]


def test_what_segments_count_for_moves_with_the_run():
    early, late = (epoch(TrainConfig(prio_alpha=1.0), progress=each)[0] for each in (0.0, 1.0))
    assert torch.equal(early.rows, late.rows)
    torch.testing.assert_close(late.importance, early.importance.pow(5.0))  # from 0.2 to 1
