"""Returns and lengths of episodes, tracked while they are played."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from puffer_policies.vector.protocol import Step


class EpisodeTracker:
    """Sums the raw rewards and the steps of each env's episode; ghosts do not count.

    `returns` and `lengths` hold the last `window` finished episodes, or all with None.
    """

    def __init__(self, num_envs: int, *, window: int | None = 100) -> None:
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.num_finished = 0

    def update(self, step: Step) -> np.ndarray:
        """Add a step and return the rows (K,) whose episodes it finished."""
        # A ghost only restarts the env. Some envs pay something in it, which belongs to no episode.
        valid = ~step.ghost
        self._returns += step.rewards * valid
        self._lengths += valid
        rows: np.ndarray = step.done.nonzero()[0]
        if rows.size:
            self.returns.extend(self._returns[rows].tolist())
            self.lengths.extend(self._lengths[rows].tolist())
            self.num_finished += int(rows.size)
            self._returns[rows] = 0.0
            self._lengths[rows] = 0
        return rows

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
        """Return sums from which `summary_of` makes means; those of several processes add up."""
        return [len(self.returns), sum(self.returns), sum(self.lengths), self.num_finished]

    def summary(self) -> dict[str, float]:
        """Return the means over the last episodes; empty before the first has finished."""
        return summary_of(self.totals())


def summary_of(totals: list[float]) -> dict[str, float]:
    """Return the means of `EpisodeTracker.totals`; empty if no episode has finished."""
    episodes, returns, lengths, num_finished = totals
    if not episodes:
        return {}
    return {
        "environment/episode_return": returns / episodes,
        "environment/episode_length": lengths / episodes,
        "environment/episodes": float(num_finished),
    }
