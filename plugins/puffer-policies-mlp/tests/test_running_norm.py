"""Statistics are those of the data, stand still within an update, and travel with a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from puffer_policies import Spaces
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies_mlp.running_norm import CLIP, RunningNorm
from puffer_policies_mlp.simba import SimBa

ENV = Spaces(spaces.Box(-10.0, 10.0, (3,)), spaces.Discrete(2))


def data(rows: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + 2


def settled(norm: RunningNorm) -> RunningNorm:
    return norm.eval().train()


def test_batches_of_any_size_give_the_statistics_of_all_rows() -> None:
    norm, x = RunningNorm(3), data(1000)
    for part in x.split([1, 7, 500, 492]):
        norm(part)
    settled(norm)
    torch.testing.assert_close(norm.mean, x.mean(0))
    torch.testing.assert_close(norm.var, x.var(0, correction=0))
    assert int(norm.count) == 1000


def test_learning_from_the_same_rows_again_changes_nothing() -> None:
    norm, x = RunningNorm(3), data(64)
    for _ in range(4):
        norm(x)
    settled(norm)
    torch.testing.assert_close(norm.mean, x.mean(0))
    torch.testing.assert_close(norm.var, x.var(0, correction=0))


def test_training_data_has_mean_0_and_spread_1() -> None:
    norm, x = RunningNorm(3), data(500)
    norm(x)
    normal = norm.eval()(x)
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(3), atol=5e-3, rtol=0)


def test_a_feature_that_was_constant_is_clipped_at_its_first_change() -> None:
    norm = RunningNorm(1)
    norm(torch.ones(100, 1))
    norm.eval()
    assert norm(torch.tensor([[1.0], [9.0], [-9.0]])).tolist() == [[0.0], [CLIP], [-CLIP]]


def test_a_nan_stays_visible() -> None:
    assert RunningNorm(1).eval()(torch.tensor([[torch.nan]])).isnan().all()


def test_a_pass_in_eval_mode_changes_nothing() -> None:
    norm = RunningNorm(3).eval()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    norm(data(5))
    with torch.no_grad():
        norm(data(5))
    torch.testing.assert_close(dict(norm.state_dict()), before, atol=0, rtol=0)


def test_a_rollout_changes_nothing() -> None:
    norm = RunningNorm(3)
    norm(data(9))
    with torch.inference_mode():
        norm(data(1))
        before = {key: value.clone() for key, value in norm.state_dict().items()}
        for seed in range(4):
            norm(data(5, seed=seed))
    torch.testing.assert_close(dict(norm.state_dict()), before, atol=0, rtol=0)


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_ratio_is_1_until_the_optimizer_steps_in_every_update(recurrent: bool) -> None:
    torch.manual_seed(0)
    policy: Any = SimBa(ENV, hidden_size=16)
    policy = LSTMWrapper(ENV, policy) if recurrent else policy
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
    for update in range(3):
        x = data(4 * 6, seed=update).reshape(4, 6, 3)
        with torch.no_grad():
            state = policy.initial_state(4) if recurrent else None
            steps = [policy.forward_eval(x[:, t], state)[0] for t in range(6)]
        acted = torch.stack(steps, 1)  # (B, T, n)
        for rows in ([0, 1], [2, 3], [3, 0]):  # minibatches, all before the first step
            learned = policy(x[rows])[0].reshape(2, 6, 2)
            torch.testing.assert_close(learned, acted[rows], atol=1e-6, rtol=1e-5)
        optimizer.zero_grad()
        learned.square().sum().backward()
        optimizer.step()


def test_statistics_are_used_from_the_next_rollout_on() -> None:
    norm, x = RunningNorm(3), data(50)
    torch.testing.assert_close(norm(x), x.clamp(-CLIP, CLIP), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(norm(x), x.clamp(-CLIP, CLIP), atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(norm(x).mean(0), torch.zeros(3), atol=1e-2, rtol=0)


def test_a_rollout_in_eval_mode_uses_them_too() -> None:
    norm, x = RunningNorm(3), data(50)
    norm(x)
    torch.testing.assert_close(norm.eval()(x).mean(0), torch.zeros(3), atol=1e-2, rtol=0)


def test_a_checkpoint_goes_on_as_if_it_had_not_been_stopped() -> None:
    first, second = SimBa(ENV, hidden_size=8), SimBa(ENV, hidden_size=8)
    first(data(50))
    second.load_state_dict(first.state_dict())
    for policy in (first, second):
        policy(data(20, seed=1))
        policy.eval()
    torch.testing.assert_close(first(data(5))[0], second(data(5))[0], atol=0, rtol=0)


def test_statistics_get_no_gradient_and_block_none() -> None:
    norm, x = RunningNorm(3), data(5).requires_grad_()
    norm(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    assert list(norm.parameters()) == []
