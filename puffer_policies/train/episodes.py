"""Counting episodes while they are played."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from puffer_policies.vector.protocol import Step


class EpisodeTracker:
    """Sums raw rewards and steps of each env's episode. Ghost steps count for nothing."""

    def __init__(self, num_envs: int, *, window: int | None = 100) -> None:
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.num_finished = 0

    def update(self, step: Step) -> np.ndarray:
        """Take in a step and return the rows (K,) whose episodes ended."""
        played = ~step.ghost
        self._returns += step.rewards * played
        self._lengths += played
        (ended,) = step.done.nonzero()
        if ended.size:
            self._finish(ended)
        return ended

    def _finish(self, ended: np.ndarray) -> None:
        self.returns.extend(self._returns[ended].tolist())
        self.lengths.extend(self._lengths[ended].tolist())
        self.num_finished += int(ended.size)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    def restart(self) -> None:
        """Forget the episodes under way."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes under way, (N,) arrays, and the finished ones, as lists."""
        return {
            "running_returns": self._returns.copy(),
            "running_lengths": self._lengths.copy(),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "num_finished": self.num_finished,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned for as many envs."""
        self._returns[:] = state["running_returns"]
        self._lengths[:] = state["running_lengths"]
        self.returns = deque(state["returns"], maxlen=self.returns.maxlen)
        self.lengths = deque(state["lengths"], maxlen=self.lengths.maxlen)
        self.num_finished = int(state["num_finished"])

    def totals(self) -> list[float]:
        """Return what `summary` is made of; those of several trackers add up."""
        return [len(self.returns), sum(self.returns), sum(self.lengths), self.num_finished]

    def summary(self) -> dict[str, float]:
        """Return the means over the last episodes; empty before the first has ended."""
        return summary_of(self.totals())


def summary_of(totals: list[float]) -> dict[str, float]:
    """Return the means that `EpisodeTracker.totals` stand for; empty if no episode has ended."""
    episodes, returns, lengths, finished = totals
    if not episodes:
        return {}
    return {
        "environment/episode_return": returns / episodes,
        "environment/episode_length": lengths / episodes,
        "environment/episodes": float(finished),
    }
