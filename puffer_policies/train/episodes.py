"""Returns and lengths of episodes, tracked while they are played."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from puffer_policies.train.arrays import namespace, zeros
from puffer_policies.train.returns import discounted_returns
from puffer_policies.vector.protocol import Array, Step


class EpisodeTracker:
    """Sums the raw rewards and the steps of each env's episode; ghosts do not count.

    `returns` and `lengths` hold the last `window` finished episodes, or all with None. With a
    `device`, the sums of the episodes under way are tensors there, and only `update_rollout` works.
    """

    def __init__(
        self, num_envs: int, *, window: int | None = 100, device: torch.device | None = None
    ) -> None:
        self._returns = zeros(num_envs, np.float64, device)
        self._lengths = zeros(num_envs, np.int64, device)
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
            self._add(self._returns[rows].tolist(), self._lengths[rows].tolist())
            self._returns[rows] = 0.0
            self._lengths[rows] = 0
        finished: np.ndarray = rows
        return finished

    def update_rollout(self, rewards: Array, *, done: Array, ghost: Array) -> None:
        """Add the steps of a whole rollout, (T, N) each, and read back what they finished.

        It says the same as `update` of each step, without a wait for the device in any of them.
        """
        library, valid = namespace(rewards), ~ghost
        # Returns and lengths run through time together, (T, 2, N): a step is a launch or two.
        sums, running = discounted_returns(
            library.stack([rewards * valid, valid], 1),
            done[:, None],
            start=library.stack([self._returns, self._lengths]),
            gamma=1.0,
        )
        returns, lengths = sums.swapaxes(1, 2)[done].T.tolist()  # (T, N, 2) -> (2, K)
        self._add(returns, [int(each) for each in lengths])
        self._returns[:], self._lengths[:] = running

    def _add(self, returns: list[float], lengths: list[int]) -> None:
        self.returns.extend(returns)
        self.lengths.extend(lengths)
        self.num_finished += len(returns)

    def restart(self) -> None:
        """Forget the episodes under way."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes under way, (N,), and the finished ones, as lists."""
        return {
            "running_returns": copy.deepcopy(self._returns),
            "running_lengths": copy.deepcopy(self._lengths),
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
