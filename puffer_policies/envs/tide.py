"""Hidden tide: a game whose returns depend on what only a critic may see.

The tide is far larger than what an action earns, and no action changes it. A critic that sees it
takes it out of the advantages exactly; to any other it is noise, in which the few right answers
drown. This is the case for privileged critics (Pinto et al. 2018, https://arxiv.org/abs/1710.06542)
with nothing else in it. The rules are our own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv
from puffer_policies.errors import EnvError

Array = NDArray[Any]

STEPS = 16
CUES = 8


class HiddenTide(Game):
    """In each of 16 steps, name the cue in view, while a tide adds to the reward or takes from it.

    An observation has ``observation``, (8,) float32, the cue one-hot, which is all that an actor
    needs; and ``privileged``, (1,) float32, the sum of the tide that is still to come, in units of
    its standard deviation in a step. The right answer pays 1/16, and every step pays its tide. The
    tides of a game are normal and sum to 0, so that the best return is 1, and guessing gives 1/8.

    Args:
        num_games: N.
        random: draws cues and tides.
        tide: the standard deviation of a step's tide, in right answers.
        shows_tide: whether ``privileged`` is what it is; else it is 0, so that no critic sees it.
    """

    action_space = spaces.Discrete(CUES)
    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(0.0, 1.0, (CUES,), np.float32),
            "privileged": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    state_arrays = ("cues", "tides", "steps")

    def __init__(
        self,
        num_games: int,
        random: np.random.Generator,
        *,
        tide: float = 32.0,
        shows_tide: bool = True,
    ) -> None:
        super().__init__(num_games, random)
        if not 0 <= tide < np.inf:
            raise EnvError(f"HiddenTide's tide is {tide!r}.", fix="Use 0 or a positive number.")
        self.tide, self.shows_tide = tide, shows_tide
        self.cues = np.empty(num_games, dtype=np.int64)
        self.tides = np.empty((num_games, STEPS))
        self.steps = np.empty(num_games, dtype=np.int64)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: all steps are done."""
        over: Array = self.steps >= STEPS
        return over

    def restart(self, rows: Array) -> None:
        """Draw the tides of these rows, and show their first cues."""
        tides = self.random.normal(size=(len(rows), STEPS))
        self.tides[rows] = tides - tides.mean(axis=1, keepdims=True)
        self.steps[rows] = 0
        self._show(rows)

    def step(self, actions: Array) -> Array:
        """Judge the answers (N,), pay the tide, and show the next cues."""
        rows = np.arange(self.num_games)
        # A finished row is stepped once more before it restarts: it must stay within the tides.
        tides = self.tides[rows, np.minimum(self.steps, STEPS - 1)]
        rewards: Array = ((actions == self.cues) + self.tide * tides) / STEPS
        self.steps += 1
        self._show(rows)
        return rewards

    def observe(self) -> dict[str, Array]:
        """Return ``observation``, (N, 8) float32, and ``privileged``, (N, 1) float32."""
        is_ahead = (np.arange(STEPS) >= self.steps[:, None]) & self.shows_tide
        ahead = (self.tides * is_ahead).sum(axis=1, keepdims=True)
        return {
            "observation": np.eye(CUES, dtype=np.float32)[self.cues],
            "privileged": ahead.astype(np.float32),
        }

    def _show(self, rows: Array) -> None:
        """Draw cues."""
        self.cues[rows] = self.random.integers(CUES, size=len(rows))


class HiddenTideVectorEnv(GameVectorEnv):
    """N games; see `HiddenTide`."""

    def __init__(self, num_envs: int = 1, tide: float = 32.0, shows_tide: bool = True) -> None:
        super().__init__(partial(HiddenTide, tide=tide, shows_tide=shows_tide), num_envs)


class HiddenTideEnv(GameEnv):
    """One game; see `HiddenTide`."""

    def __init__(self, tide: float = 32.0, shows_tide: bool = True) -> None:
        super().__init__(partial(HiddenTide, tide=tide, shows_tide=shows_tide))
