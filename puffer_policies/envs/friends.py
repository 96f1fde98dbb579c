"""Nearest friend: a game whose observation is a set of entities, in any order and of any number.

A policy that treats all entities alike, such as `DeepSets`, learns what one entity means from every
row at once. One that reads the rows side by side has to learn it for each row anew. The rules are
our own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv
from puffer_policies.spaces.entities import ENTITIES, MASK

Array = NDArray[Any]

STEPS = 16
FEWEST, MOST = 3, 10


class NearestFriend(Game):
    """In each of 16 steps, name the quarter in which the nearest of all friends stands.

    An observation has ``entities``, (10, 3) float32: for each entity its place (2), seen from the
    middle, and 1 for a friend, -1 for a foe; and a ``mask``, (10,) int8, which is 1 where there is
    an entity. Three to ten stand at random places, at least one of them a friend, in random rows;
    other rows are zeros. Every step shows new ones.

    Actions count the quarters against the clock, from 0, where both numbers of the place are
    positive. The right one pays 1/16. So the best return is 1, and guessing gives 0.25.

    Args:
        num_games: N.
        random: draws the entities.
    """

    observation_space = spaces.Dict(
        {ENTITIES: spaces.Box(-1.0, 1.0, (MOST, 3), np.float32), MASK: spaces.MultiBinary(MOST)}
    )
    action_space = spaces.Discrete(4)
    state_arrays = ("places", "present", "friends", "steps")

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        super().__init__(num_games, random)
        self.places = np.empty((num_games, MOST, 2), dtype=np.float32)
        self.present = np.empty((num_games, MOST), dtype=bool)
        self.friends = np.empty((num_games, MOST), dtype=bool)
        self.steps = np.empty(num_games, dtype=np.int64)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: all steps are done."""
        over: Array = self.steps >= STEPS
        return over

    @property
    def answers(self) -> Array:
        """(N,) int64: the quarters of the nearest friends."""
        distances = np.where(self.friends, np.linalg.norm(self.places, axis=2), np.inf)  # (N, E)
        nearest = distances.argmin(axis=1)
        left, low = self.places[np.arange(self.num_games), nearest].T < 0
        quarters: Array = np.where(low, 3 - left, left).astype(np.int64)
        return quarters

    def restart(self, rows: Array) -> None:
        """Show the first entities of these rows."""
        self.steps[rows] = 0
        self._scatter(rows)

    def step(self, actions: Array) -> Array:
        """Judge the quarters (N,), and show new entities."""
        right = actions == self.answers
        self.steps += 1
        self._scatter(np.arange(self.num_games))
        return np.where(right, 1 / STEPS, 0.0)

    def observe(self) -> dict[str, Array]:
        """Return ``entities``, (N, 10, 3) float32, and ``mask``, (N, 10) int8."""
        sides = np.where(self.friends, 1.0, -1.0)[..., None]
        entities = np.concatenate([self.places, sides], axis=2) * self.present[..., None]
        return {ENTITIES: entities.astype(np.float32), MASK: self.present.astype(np.int8)}

    def _scatter(self, rows: Array) -> None:
        """Draw how many entities there are, in which rows and at which places, and the friends."""
        count = len(rows)
        numbers = self.random.integers(FEWEST, MOST + 1, size=count)
        present = self.random.permuted(np.arange(MOST) < numbers[:, None], axis=1)
        friends = present & (self.random.uniform(size=(count, MOST)) < 0.5)
        # Any entity, each as likely as the others, so that there is a friend in any case.
        first = (present * self.random.uniform(size=(count, MOST))).argmax(axis=1)
        friends[np.arange(count), first] = True
        self.present[rows], self.friends[rows] = present, friends
        self.places[rows] = self.random.uniform(-1, 1, size=(count, MOST, 2))


class NearestFriendVectorEnv(GameVectorEnv):
    """N games; see `NearestFriend`."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(NearestFriend, num_envs)


class NearestFriendEnv(GameEnv):
    """One game; see `NearestFriend`."""

    def __init__(self) -> None:
        super().__init__(NearestFriend)
