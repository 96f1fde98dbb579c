"""Advantages of GAE and V-trace against their definitions, and the running scale of rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.returns import (
    Clips,
    RewardScale,
    discounted_returns,
    explained_variance,
    gae,
    return_variation,
    sums_by_doubling,
    updated_next_values,
    vtrace,
)

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
    actual = gae(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    expected = [[by_definition(data, t, env) for env in range(5)] for t in range(12)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert actual.dtype == np.float32


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


def test_gae_leaves_its_inputs():
    data = random_rollout(np.random.default_rng(1))
    before = {key: value.copy() for key, value in data.items()}
    gae(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    assert all(np.array_equal(before[key], data[key]) for key in data)


def test_discounted_returns_run_across_rollouts_and_restart_after_an_end():
    rewards, done = np.ones((4, 1)), np.array([[False], [True], [False], [False]])
    returns, carried = discounted_returns(rewards, done, start=np.array([2.0]), gamma=0.5)
    np.testing.assert_allclose(returns[:, 0], [2.0, 2.0, 1.0, 1.5])
    np.testing.assert_allclose(carried, [1.5])


def tensors_of(data):
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in data.items()}


def test_tensors_give_the_numbers_of_arrays():
    rng = np.random.default_rng(4)
    data = random_rollout(rng, steps=33)
    options = {"gamma": GAMMA, "gae_lambda": LAMBDA}
    advantages = gae(**tensors_of(data), **options)
    np.testing.assert_array_equal(advantages, gae(**data, **options))
    assert advantages.dtype == torch.float32
    data["ratios"] = np.exp(rng.normal(size=(33, 5))).astype(np.float32)
    options["clips"] = Clips(1.2, 0.9)
    np.testing.assert_array_equal(vtrace(**tensors_of(data), **options), vtrace(**data, **options))
    args = {key: data[key] for key in ("values", "next_values", "done")}
    updated = updated_next_values(**tensors_of(args))
    np.testing.assert_array_equal(updated, updated_next_values(**args))
    args = {"rewards": data["rewards"], "done": data["done"], "start": rng.normal(size=5)}
    pairs = zip(
        discounted_returns(**tensors_of(args), gamma=GAMMA),
        discounted_returns(**args, gamma=GAMMA),
        strict=True,
    )
    for tensor, array in pairs:
        np.testing.assert_array_equal(tensor, array)
        assert tensor.dtype == torch.float64
    returns, values = data["rewards"].ravel(), data["values"].ravel()
    on_device = explained_variance(*map(torch.from_numpy, (values, returns)))
    assert on_device == pytest.approx(explained_variance(values, returns), rel=1e-5)
    on_device = return_variation(torch.from_numpy(returns))
    assert on_device == pytest.approx(return_variation(returns))


def test_tensors_of_a_device_stay_there():
    data = {**random_rollout(np.random.default_rng(5)), "ratios": np.ones((12, 5), np.float32)}
    data = {key: each.to("meta") for key, each in tensors_of(data).items()}
    options = {"gamma": GAMMA, "gae_lambda": LAMBDA}
    trace = vtrace(**data, **options, clips=Clips())
    start = torch.zeros(5, dtype=torch.float64, device="meta")
    returns, _ = discounted_returns(data["rewards"], data["done"], start=start, gamma=GAMMA)
    del data["ratios"]
    for each in (trace, gae(**data, **options), returns):
        assert (each.device.type, each.shape) == ("meta", (12, 5))


@pytest.mark.parametrize("steps", [1, 2, 3, 16, 17, 64])
def test_sums_by_doubling_are_those_of_the_loop(steps):
    rng = np.random.default_rng(steps)
    terms = torch.from_numpy(rng.normal(size=(steps, 2, 7)))
    decay = torch.from_numpy((GAMMA * (rng.random((steps - 1, 1, 7)) < 0.8)).astype(np.float32))
    expected = terms.clone()
    for t in range(steps - 2, -1, -1):
        expected[t] += decay[t].double() * expected[t + 1]
    torch.testing.assert_close(sums_by_doubling(terms, decay), expected, rtol=1e-13, atol=1e-13)


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


# V-trace ------------------------------------------------------------------------------------


def off_policy(seed, steps=12, envs=5):
    rng = np.random.default_rng(seed)
    data = random_rollout(rng, steps, envs)
    return {**data, "ratios": np.exp(rng.normal(scale=0.7, size=(steps, envs))).astype(np.float32)}


def vtrace_by_definition(data, t, env, *, clips, gae_lambda):
    """Equation 1 of the paper, c with its lambda, cut at the end of the episode."""
    total, trace = 0.0, 1.0
    for k in range(t, len(data["rewards"])):
        ratio = float(data["ratios"][k, env])
        ahead = 0.0 if data["terminated"][k, env] else GAMMA * float(data["next_values"][k, env])
        error = float(data["rewards"][k, env]) + ahead - float(data["values"][k, env])
        total += trace * min(clips.rho, ratio) * error
        if data["done"][k, env]:
            break
        trace *= GAMMA * gae_lambda * min(clips.c, ratio)
    return total


@pytest.mark.parametrize("clips", [Clips(), Clips(2.0, 0.7), Clips(0.5, 3.0), Clips(1e9, 1e9)])
@pytest.mark.parametrize("gae_lambda", [1.0, LAMBDA])
def test_targets_are_the_sums_of_the_paper(clips, gae_lambda):
    data = off_policy(0)
    actual = vtrace(**data, gamma=GAMMA, gae_lambda=gae_lambda, clips=clips)
    expected = [
        [vtrace_by_definition(data, t, env, clips=clips, gae_lambda=gae_lambda) for env in range(5)]
        for t in range(12)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.dtype == np.float32


def test_targets_follow_the_recursion_of_remark_1():
    """Written out for one episode that goes on: v_s from v_{s+1}, lambda 1."""
    data = off_policy(3, envs=1)
    data["terminated"][:] = data["done"][:] = False
    data["next_values"][:-1] = data["values"][1:]
    targets = data["values"] + vtrace(**data, gamma=GAMMA, gae_lambda=1.0, clips=Clips(1.5, 0.8))
    for s in range(11):
        rho, c = (np.minimum(clip, data["ratios"][s]) for clip in (1.5, 0.8))
        here, after = data["values"][s], data["values"][s + 1]
        error = rho * (data["rewards"][s] + GAMMA * after - here)
        expected = here + error + GAMMA * c * (targets[s + 1] - after)
        np.testing.assert_allclose(targets[s], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clips", [Clips(), Clips(7.0, 2.0)])
def test_while_the_policy_is_the_same_it_is_gae(clips):
    data = off_policy(1)
    ratios = np.ones_like(data.pop("ratios"))
    expected = gae(**data, gamma=GAMMA, gae_lambda=LAMBDA)
    actual = vtrace(**data, ratios=ratios, gamma=GAMMA, gae_lambda=LAMBDA, clips=clips)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_vtrace_leaves_its_inputs():
    data = off_policy(2)
    before = {key: value.copy() for key, value in data.items()}
    vtrace(**data, gamma=GAMMA, gae_lambda=LAMBDA, clips=Clips())
    assert all(np.array_equal(before[key], data[key]) for key in data)


def test_newer_values_are_believed_except_across_ends():
    values = np.array([[1.0], [2.0], [3.0]], np.float32)
    old = np.array([[10.0], [20.0], [30.0]], np.float32)
    done = np.array([[False], [True], [False]])
    np.testing.assert_array_equal(updated_next_values(values, old, done)[:, 0], [2.0, 20.0, 30.0])
    np.testing.assert_array_equal(old[:, 0], [10.0, 20.0, 30.0])


def test_one_clip_is_enough_to_ask_for_it():
    assert Clips.of(TrainConfig()) is None
    assert Clips.of(TrainConfig(vtrace_c_clip=0.5)) == Clips(1.0, 0.5)
    assert Clips.of(TrainConfig(vtrace_rho_clip=2)) == Clips(2.0, 1.0)
    assert Clips.of(TrainConfig(vtrace_rho_clip=0, vtrace_c_clip=0)) == Clips(0.0, 0.0)
