"""The interface of N copies of an env: `VecEnv`, and the `Step` that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """The answer of N envs to one step. Arrays are valid until the next step."""

    observations: Any
    """(N, *obs), nested as the space is: the policy acts on them next."""
    rewards: np.ndarray
    """(N,) float, as the env gave them; 0 in ghosts."""
    terminated: np.ndarray
    """(N,) bool: the episode ended for a reason of its own."""
    truncated: np.ndarray
    """(N,) bool: the episode was cut, by a time limit say."""
    starts: np.ndarray
    """(N,) bool: `observations` is the first of an episode."""
    ghost: np.ndarray
    """(N,) bool: the action was ignored, the row only restarted."""
    final_observations: Any = None
    """(N, *obs), valid where an episode ended in this step; None if a ghost step will show them."""

    @property
    def done(self) -> np.ndarray:
        """(N,) bool: an episode ended in this step."""
        ends: np.ndarray = self.terminated | self.truncated
        return ends


class VecEnv(Protocol):
    """N copies of an env that restart by themselves. Rows are agents.

    It may offer its state, too, by ``get_state()`` and ``set_state()``: see `vector.state`.
    """

    num_envs: int
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.Space[Any]

    @property
    def num_agents(self) -> int:
        """Number of rows; PufferLib's name."""
        ...

    @property
    def driver_env(self) -> Any:
        """An object with the single-agent spaces, for building policies; PufferLib's name."""
        ...

    @property
    def action_masks(self) -> np.ndarray | None:
        """(N, A) bool for the last observations, true where an option is allowed; None: no masks.

        A is n for Discrete, else the sum of nvec; rows whose next action is ignored may all.
        """
        ...

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs).

        Copies draw from streams of their own, which those of another `seed` do not share.
        """
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions: (N,), (N, K) int64 or (N, *shape) float32."""
        ...

    def close(self) -> None:
        """Release what the envs hold."""
        ...
