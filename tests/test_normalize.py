"""Normalized observations have sound statistics, which are part of the policy."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from gymnasium import spaces
from specimens import FOUR, OBSERVATIONS, VECTOR, map_tensors, observation_batch
from torch import Tensor

from puffer_policies import get_policy
from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
from puffer_policies.errors import BuildError, IncompatibleSpace, TrainingError
from puffer_policies.nn.moments import (
    Moments,
    RunningMoments,
    merge_moments,
    moments_of,
    of_all_processes,
)
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.normalize import NormalizeObservationWrapper

ENV = Spaces(VECTOR, FOUR)
NAME = "NormalizeObservationWrapper"
STACKS = [
    f"{NAME}(Default)",
    f"LSTMWrapper({NAME}(Default))",
    f"{NAME}(LSTMWrapper(Default))",
    f"ActionMaskWrapper({NAME}(LSTMWrapper(Default)))",
]


def normalizer(policy: Any) -> NormalizeObservationWrapper:
    return next(m for m in policy.modules() if isinstance(m, NormalizeObservationWrapper))


def test_statistics_are_those_of_numpy_over_everything_seen() -> None:
    policy = NormalizeObservationWrapper(ENV, get_policy("Default", ENV))
    batches = [torch.randn(n, 3, 8) * 5 + 100 for n in (7, 1, 40)]
    for batch in batches:
        policy.update_statistics(batch)
    seen = torch.cat(batches).double().reshape(-1, 8).numpy()
    (moments,) = policy.moments
    assert float(moments.count) == len(seen)
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, seen.var(0), rtol=1e-10)
    shown = policy.transform_observations(batches[2], {})
    expected = (batches[2].double().numpy() - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(shown, np.clip(expected, -10, 10), atol=1e-4)


def test_a_large_mean_loses_no_variance() -> None:
    running = RunningMoments(())
    far = torch.tensor([1e8 - 1, 1e8, 1e8 + 1], dtype=torch.float64)
    for _ in range(1000):
        running.merge(moments_of(far, ()))
    np.testing.assert_allclose(running.var, 2 / 3, rtol=1e-9)


def test_moments_merge_alike_in_any_grouping() -> None:
    parts = [moments_of(torch.randn(n, 2), (2,)) for n in (3, 50, 1, 9)]
    left = merge_moments(merge_moments(merge_moments(parts[0], parts[1]), parts[2]), parts[3])
    pairs = merge_moments(merge_moments(parts[3], parts[1]), merge_moments(parts[2], parts[0]))
    torch.testing.assert_close((left.count, left.mean), (pairs.count, pairs.mean))
    torch.testing.assert_close(left.m2, pairs.m2)


def test_large_samples_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = torch.randn(100, 3)
    whole = moments_of(sample, (3,))
    monkeypatch.setattr("puffer_policies.nn.moments.CHUNK", 21)
    pieces = moments_of(sample, (3,))
    torch.testing.assert_close((whole.mean, whole.m2), (pieces.mean, pieces.m2))


def test_before_any_statistics_observations_pass_and_are_clipped() -> None:
    policy = NormalizeObservationWrapper(ENV, get_policy("Default", ENV), clip=0.5)
    x = observation_batch(VECTOR, 6)
    torch.testing.assert_close(policy.transform_observations(x, {}), x.clamp(-0.5, 0.5))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_changes_no_statistic(stack: str, training: bool) -> None:
    policy = get_policy(stack, ENV).train(training)
    before = {name: each.clone() for name, each in policy.named_buffers()}
    state = {"action_mask": torch.ones(6, 5, 4, dtype=torch.bool)}
    policy(observation_batch(VECTOR, 6, 5), state)
    for name, each in policy.named_buffers():
        torch.testing.assert_close(each, before[name])


@pytest.mark.parametrize("stack", STACKS)
def test_the_stack_takes_statistics_wherever_the_wrapper_stands(stack: str) -> None:
    policy = get_policy(stack, ENV)
    x = observation_batch(VECTOR, 6, 5)
    policy.update_statistics(x)
    (moments,) = normalizer(policy).moments
    np.testing.assert_allclose(moments.mean, x.flatten(0, 1).double().mean(0), rtol=1e-12)


def test_the_order_in_the_stack_does_not_matter() -> None:
    inside, outside = get_policy(STACKS[1], ENV), get_policy(STACKS[2], ENV)
    x = observation_batch(VECTOR, 6, 5)
    outside.policy.policy.load_state_dict(inside.policy.policy.state_dict())
    outside.policy.core.load_state_dict(inside.core.state_dict())
    for policy in (inside, outside):
        policy.update_statistics(3 * x - 1)
    torch.testing.assert_close(inside(x, {})[1], outside(x, {})[1])


MIXED = Spaces(
    spaces.Dict(
        {
            "pop": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "pixels": OBSERVATIONS["image_hwc"],
            "a.b": spaces.Tuple((spaces.Discrete(3), spaces.Box(0.0, 9.0, (), np.float32))),
            "counts": OBSERVATIONS["integers"],
            "flags": spaces.MultiBinary(2),
        }
    ),
    FOUR,
)


def test_only_leaves_of_real_numbers_are_touched() -> None:
    policy = NormalizeObservationWrapper(MIXED, get_policy("Default", MIXED))
    x = observation_batch(MIXED.observation, 20)
    policy.update_statistics(x)
    shown = policy.transform_observations(x, {})
    assert len(policy.moments) == 2
    for key in ("pixels", "counts", "flags"):
        assert shown[key] is x[key]
    assert shown["a.b"][0] is x["a.b"][0]
    for leaf in (shown["pop"], shown["a.b"][1]):
        np.testing.assert_allclose(leaf.double().mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(leaf.double().std(0, correction=0), 1, atol=1e-5)
    values = policy(x, {})[1]
    assert values.isfinite().all()


@pytest.mark.parametrize("observation", ["image_chw", "discrete", "integers", "multibinary"])
def test_an_observation_without_such_a_leaf_is_refused(observation: str) -> None:
    with pytest.raises(IncompatibleSpace, match="nothing to normalize"):
        get_policy(f"{NAME}(Default)", Spaces(OBSERVATIONS[observation], FOUR))


def test_it_stands_beside_a_mask_in_the_observation() -> None:
    env = Spaces(spaces.Dict({"board": VECTOR, "mask": spaces.MultiBinary(4)}), FOUR)
    policy = get_policy(f"ActionMaskWrapper({NAME}(Default), key='mask')", env)
    x = observation_batch(env.observation, 30)
    x["mask"][:, 0] = 1
    policy.update_statistics(x)
    (moments,) = normalizer(policy).moments
    np.testing.assert_allclose(moments.mean, x["board"].double().mean(0))
    assert policy(x, {})[0][:, 0].isfinite().all()


def test_twice_is_refused_by_name_and_by_hand() -> None:
    with pytest.raises(BuildError, match=NAME):
        get_policy(f"{NAME}(LSTMWrapper({NAME}(Default)))", ENV)
    with pytest.raises(BuildError, match="already"):
        NormalizeObservationWrapper(ENV, get_policy(STACKS[1], ENV))


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"clip": -1.0}, {"epsilon": -1e-8}])
def test_senseless_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BuildError, match="clip"):
        NormalizeObservationWrapper(ENV, get_policy("Default", ENV), **wrong)


def test_a_number_that_is_not_finite_is_refused_and_nothing_changes() -> None:
    policy = get_policy(f"{NAME}(Default)", MIXED)
    x = observation_batch(MIXED.observation, 4)
    x["pop"][2, 1] = np.inf
    with pytest.raises(TrainingError, match="not finite"):
        policy.update_statistics(x)
    assert all(float(each.count) == 0 for each in policy.moments)


def test_another_shape_is_refused_though_it_would_broadcast() -> None:
    policy = get_policy(f"{NAME}(Default)", ENV)
    with pytest.raises(IncompatibleSpace, match=r"obs = \(8,\)"):
        policy.forward_eval(torch.zeros(5, 1), {})
    with pytest.raises(IncompatibleSpace, match="missing"):
        get_policy(f"{NAME}(Default)", MIXED).forward_eval({"pop": torch.zeros(1, 3)}, {})


@pytest.mark.parametrize("stack", STACKS[:3])
def test_a_checkpoint_holds_the_statistics(stack: str, tmp_path: Path) -> None:
    policy, x = get_policy(stack, ENV), observation_batch(VECTOR, 9)
    policy.update_statistics(7 * x + 3)
    path = save_checkpoint(tmp_path / "policy.safetensors", policy, env=ENV)
    again = load_policy(path, ENV)
    torch.testing.assert_close(again.forward_eval(x, {})[1], policy.forward_eval(x, {})[1])


def test_a_caller_may_reduce_moments_by_itself() -> None:
    policy = get_policy(f"{NAME}(Default)", ENV)
    mine, others = torch.randn(10, 8), torch.randn(30, 8) + 2

    def with_others(moments: Moments) -> Moments:
        return merge_moments(moments, moments_of(others, (8,)))

    policy.update_statistics(mine, reduce=with_others)
    both = torch.cat([mine, others]).double()
    np.testing.assert_allclose(policy.moments[0].mean, both.mean(0))
    np.testing.assert_allclose(policy.moments[0].var, both.var(0, correction=0))


def _one_of_two(rank: int, folder: Path, sample: Tensor) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    moments = of_all_processes(moments_of(sample[3 * rank : 3 + 7 * rank], (2,)))
    torch.save((moments.count, moments.mean, moments.m2), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no processes")
def test_two_processes_find_the_moments_of_all(tmp_path: Path) -> None:
    sample = torch.randn(10, 2, dtype=torch.float64) + 50
    # A server that has imported torch is forked: importing it in each process costs 2 s.
    multiprocessing.set_forkserver_preload(["puffer_policies.nn.moments"])
    torch.multiprocessing.start_processes(
        _one_of_two, (tmp_path, sample), nprocs=2, start_method="forkserver"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    count, mean, m2 = first
    assert float(count) == 10
    np.testing.assert_allclose(mean, sample.mean(0))
    np.testing.assert_allclose(m2, sample.var(0, correction=0) * 10)


def test_it_compiles_without_a_break_and_follows_the_statistics() -> None:
    policy, x = get_policy(f"{NAME}(Default)", MIXED), observation_batch(MIXED.observation, 4)
    step = torch.compile(policy.forward_eval, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(step(x, {})[1], policy.forward_eval(x, {})[1])
        policy.update_statistics(map_tensors(lambda leaf: leaf[:3], x))
