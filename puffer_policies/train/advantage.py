"""Generalised advantage estimation, and the running scale of rewards. NumPy, time first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.nn.moments import Moments, merge_moments, moments_of, of_all_processes


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    *,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Return advantages (T, N) float32 (Schulman et al. 2016, https://arxiv.org/abs/1506.02438).

    `next_values[t]` is the value of the observation that step t led to: the *final* one where an
    episode was truncated there. Only a termination drops it; every end cuts the trace.
    """
    not_terminated = gamma * ~terminated
    decay = (gamma * gae_lambda) * ~done
    return carried_back(rewards + not_terminated * next_values - values, decay)


def carried_back(errors: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """Return float32 (T, N) sums that run backward, ``S[t] = errors[t] + decay[t] * S[t+1]``.

    `errors` is used up.
    """
    sums = errors
    for t in range(len(errors) - 2, -1, -1):
        sums[t] += decay[t] * sums[t + 1]
    return sums.astype(np.float32, copy=False)


def discounted_returns(
    rewards: np.ndarray, done: np.ndarray, *, start: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each row has gathered up to every step, (T, N), and what it carries on, (N,).

    This sum runs forward, ``G[t] = gamma * G[t-1] + r[t]``, from `start` and anew after each end.
    """
    gathered, carried = np.empty(rewards.shape), start
    for t in range(len(rewards)):
        carried = gamma * carried + rewards[t]
        gathered[t] = carried
        carried = carried * ~done[t]
    return gathered, carried


@dataclass(slots=True)
class RewardScale:
    """Divides rewards by the running standard deviation of discounted returns; no shift.

    Values of order one keep the value loss from eating the clipped gradient of a shared trunk. The
    rule is OpenAI baselines' VecNormalize (https://github.com/openai/baselines), per rollout.
    """

    gathered: np.ndarray
    """(N,) float64: discounted return of each row so far."""
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def update(
        self, rewards: np.ndarray, *, done: np.ndarray, valid: np.ndarray, gamma: float
    ) -> float:
        """Take in a rollout, (T, N) each, of every process, and return the factor for rewards."""
        returns, self.gathered = discounted_returns(rewards, done, start=self.gathered, gamma=gamma)
        seen = of_all_processes(moments_of(torch.from_numpy(returns[valid]), ()))
        before = Moments(*(_number(each) for each in (self.count, self.mean, self.squares)))
        both = merge_moments(before, seen)
        self.count, self.mean, self.squares = (
            float(each) for each in (both.count, both.mean, both.m2)
        )
        return self.factor

    @property
    def factor(self) -> float:
        """What rewards are multiplied by; 1 while all returns are equal."""
        variance = self.squares / self.count if self.count else 0.0
        return float(variance**-0.5) if variance > 1e-8 else 1.0

    def restart(self) -> None:
        """Start new returns in all rows; the statistics stay."""
        self.gathered = np.zeros_like(self.gathered)

    def state_dict(self) -> dict[str, Any]:
        """Return the returns under way, an (N,) float64 array, and the statistics, as floats."""
        return {
            "running_returns": self.gathered.copy(),
            "count": self.count,
            "mean": self.mean,
            "squares": self.squares,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned for as many rows."""
        self.gathered = np.array(state["running_returns"], dtype=np.float64)
        self.count, self.mean, self.squares = (
            float(state[name]) for name in ("count", "mean", "squares")
        )


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """Return how much of the returns' variance the values explain: 1 all, 0 none, below 0 worse."""
    variance = float(returns.var()) if returns.size else 0.0
    return 1.0 - float((returns - values).var()) / variance if variance > 0 else float("nan")
