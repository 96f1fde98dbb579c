"""Advantages against the sums that define them, and the running scale of rewards."""

from __future__ import annotations

import numpy as np
import pytest

from puffer_policies.train.returns import RewardScale, discounted_returns, gae

GAMMA, LAMBDA = 0.9, 0.8


def random_rollout(rng, steps=12, envs=5):
    terminated = rng.random((steps, envs)) < 0.15
    done = terminated | (rng.random((steps, envs)) < 0.15)
    return {
        "rewards": rng.normal(size=(steps, envs)).astype(np.float32),
        "values": rng.normal(size=(steps, envs)).astype(np.float32),
        "next_values": rng.normal(size=(steps, envs)).astype(np.float32),
        "terminated": terminated,
        "done": done,
    }


def by_definition(data, t, env):
    """The infinite sum of the paper, cut at the end of the episode or of the rollout."""
    total, weight = 0.0, 1.0
    for k in range(t, len(data["rewards"])):
        ahead = 0.0 if data["terminated"][k, env] else GAMMA * data["next_values"][k, env]
        total += weight * (data["rewards"][k, env] + ahead - data["values"][k, env])
        if data["done"][k, env]:
            break
        weight *= GAMMA * LAMBDA
    return total


def test_advantages_are_the_sums_of_the_paper():
    data = random_rollout(np.random.default_rng(0))
    found = gae(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    expected = [[by_definition(data, t, env) for env in range(5)] for t in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("terminated", "tail"), [(True, 0.0), (False, 10.0 * GAMMA**3)])
def test_only_a_truncated_episode_counts_what_would_have_come(terminated, tail):
    ends = np.array([[False], [False], [True]])
    advantages = gae(
        np.ones((3, 1), np.float32),
        np.zeros((3, 1), np.float32),
        np.array([[0.0], [0.0], [10.0]], np.float32),
        terminated=ends & terminated,
        done=ends,
        gamma=GAMMA,
        gae_lambda=1.0,
    )
    assert advantages[0, 0] == pytest.approx(1 + GAMMA + GAMMA**2 + tail)


def test_inputs_stay_as_they_are():
    data = random_rollout(np.random.default_rng(1))
    before = {key: value.copy() for key, value in data.items()}
    gae(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    assert all(np.array_equal(before[key], data[key]) for key in data)


def test_discounted_returns_run_across_rollouts_and_start_anew_after_an_end():
    rewards, done = np.ones((4, 1)), np.array([[False], [True], [False], [False]])
    returns, carried = discounted_returns(rewards, done, start=np.array([2.0]), gamma=0.5)
    np.testing.assert_allclose(returns[:, 0], [2.0, 2.0, 1.0, 1.5])
    np.testing.assert_allclose(carried, [1.5])


def test_the_scale_is_the_deviation_over_all_rollouts():
    rng = np.random.default_rng(2)
    rewards = rng.normal(3.0, 7.0, size=(60, 4))
    done = rng.random((60, 4)) < 0.1
    valid = rng.random((60, 4)) < 0.9
    scale = RewardScale(np.zeros(4))
    for part in (slice(0, 20), slice(20, 60)):
        scale.update(rewards[part], done=done[part], valid=valid[part], gamma=GAMMA)
    returns, _ = discounted_returns(rewards, done, start=np.zeros(4), gamma=GAMMA)
    assert scale.factor == pytest.approx(1 / returns[valid].std())


def test_equal_returns_are_not_blown_up():
    scale = RewardScale(np.zeros(2))
    rewards, everything = np.zeros((5, 2)), np.ones((5, 2), bool)
    assert scale.update(rewards, done=everything, valid=everything, gamma=GAMMA) == 1.0
    assert scale.update(rewards, done=everything, valid=~everything, gamma=GAMMA) == 1.0
