"""Two games whose values are known in closed form, to judge what a critic learns.

Episodes of the chain are only ever truncated, so a critic learns its values only if the trainer
looks past the cut. Episodes of the countdown only ever terminate, so a critic learns its values
only if the trainer does not look past the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv

Array = NDArray[Any]


class Chain(Game):
    """Eight states in a row: 1 goes on, 0 back to the first. Going on in the last state pays 1."""

    STATES = 8
    observation_space = spaces.Discrete(STATES)
    action_space = spaces.Discrete(2)
    state_arrays = ("state",)

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        super().__init__(num_games, random)
        self.state = np.zeros(num_games, dtype=np.int64)

    @classmethod
    def values(cls, gamma: float) -> Array:
        """Return the value (8,) of each state under the best policy, without a time limit."""
        # The last state pays 1 in every step: a geometric series, discounted by the way to it.
        steps_to_last: Array = np.arange(cls.STATES)[::-1]
        worth: Array = gamma**steps_to_last / (1 - gamma)
        return worth

    @property
    def over(self) -> Array:
        """(N,) bool: never; the time limit is the env's."""
        return np.zeros(self.num_games, dtype=bool)

    def restart(self, rows: Array) -> None:
        """Go back to the first state."""
        self.state[rows] = 0

    def step(self, actions: Array) -> Array:
        """Move."""
        at_goal = (self.state == self.STATES - 1) & (actions == 1)
        self.state = np.where(actions == 1, np.minimum(self.state + 1, self.STATES - 1), 0)
        return np.asarray(at_goal, dtype=np.float64)

    def observe(self) -> Array:
        """Return the states (N,) int64."""
        return self.state.copy()


class ChainVectorEnv(GameVectorEnv):
    """N chains; see `Chain`."""

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None) -> None:
        super().__init__(Chain, num_envs, max_episode_steps=max_episode_steps)


class ChainEnv(GameEnv):
    """One chain; see `Chain`."""

    def __init__(self) -> None:
        super().__init__(Chain)


class Countdown(Game):
    """Shows how many steps follow this one, 7 to 0, and pays 1 for each, whatever one does."""

    STEPS = 8
    observation_space = spaces.Discrete(STEPS)
    action_space = spaces.Discrete(2)
    state_arrays = ("remaining",)

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        super().__init__(num_games, random)
        self.remaining = np.full(num_games, self.STEPS - 1, dtype=np.int64)

    @classmethod
    def values(cls, gamma: float) -> Array:
        """Return the value (8,) of each observation, under every policy."""
        worth: Array = np.cumsum(gamma ** np.arange(cls.STEPS))
        return worth

    @property
    def over(self) -> Array:
        """(N,) bool: no step is left."""
        over: Array = self.remaining < 0
        return over

    def restart(self, rows: Array) -> None:
        """Count from the beginning."""
        self.remaining[rows] = self.STEPS - 1

    def step(self, actions: Array) -> Array:
        """Count one down."""
        # Not below -1, as a finished row is stepped once more before it restarts.
        self.remaining = np.maximum(self.remaining - 1, -1)
        return np.ones(self.num_games)

    def observe(self) -> Array:
        """Return how many steps follow, (N,) int64; 0 also where the game is over."""
        return np.maximum(self.remaining, 0)


class CountdownVectorEnv(GameVectorEnv):
    """N countdowns; see `Countdown`."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(Countdown, num_envs)


class CountdownEnv(GameEnv):
    """One countdown; see `Countdown`."""

    def __init__(self) -> None:
        super().__init__(Countdown)
