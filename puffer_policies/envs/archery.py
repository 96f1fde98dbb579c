"""Archery: a game whose action has three parts, a choice, an aim and an arrow at hand.

Only a policy that serves all parts of a Dict action, each by what it observes, and that reads the
mask of one of them, gets near the best return. The rules are our own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv
from puffer_policies.errors import EnvError, did_you_mean

Array = NDArray[Any]

SHOTS = 8
ARROWS, IN_QUIVER = 4, 2
DRAWS = 3
REACH = 0.8
"""Targets stand within so much of the middle, on both axes."""
PARTS = ("aim", "arrow", "draw")


class Archery(Game):
    """Eight shots at new targets: aim at the target, draw for its distance, take its best arrow.

    An observation is (9,) float32: the place of the target (2), and one-hot its distance (3) and
    its kind (4). The best arrow for kind ``k`` is the first of ``k, k + 1, k + 2, k + 3`` (modulo
    4) in the quiver, which holds two of the four in each step. An arrow that is not there ends the
    game without pay. A shot with the best arrow and the draw of the distance pays (1 - e) / 8,
    where ``e`` is how far the aim is from the target, but never less than 0. Any other shot pays
    nothing. So the best return is 1.

    The arrows in the quiver are in ``infos["action_mask"]``, (N, 7) int8: four for the arrows and
    three ones for the draws. No observation shows them.

    Args:
        num_games: N.
        random: draws targets and quivers.
        random_part: "aim", "arrow" or "draw": the game replaces this part of every action by a
            random one, an arrow by one in the quiver. So nobody can be better than by chance in it.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2 + DRAWS + ARROWS,), np.float32)
    action_space = spaces.Dict(
        {
            "aim": spaces.Box(-1.0, 1.0, (2,), np.float32),
            "arrow": spaces.Discrete(ARROWS),
            "draw": spaces.Discrete(DRAWS),
        }
    )
    state_arrays = ("place", "distance", "kind", "quiver", "shots", "lost")

    def __init__(self, num_games: int, random: np.random.Generator, random_part: str = "") -> None:
        super().__init__(num_games, random)
        if random_part not in ("", *PARTS):
            raise EnvError(
                f"Archery's random_part is {random_part!r}.",
                fix=did_you_mean(random_part, PARTS) or f"Use one of {', '.join(PARTS)}.",
            )
        self.random_part = random_part
        self.place = np.empty((num_games, 2))
        self.distance = np.empty(num_games, dtype=np.int64)
        self.kind = np.empty(num_games, dtype=np.int64)
        self.quiver = np.empty((num_games, ARROWS), dtype=bool)
        self.shots = np.empty(num_games, dtype=np.int64)
        self.lost = np.empty(num_games, dtype=bool)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: all shots are done, or an arrow was not in the quiver."""
        over: Array = self.lost | (self.shots >= SHOTS)
        return over

    @property
    def best_arrow(self) -> Array:
        """(N,) int64: the arrow in the quiver that suits the target."""
        ranking = (self.kind[:, None] + np.arange(ARROWS)) % ARROWS  # (N, ARROWS), best first
        place = np.take_along_axis(self.quiver, ranking, axis=1).argmax(axis=1)
        best: Array = (self.kind + place) % ARROWS
        return best

    def restart(self, rows: Array) -> None:
        """Set up the first targets of these rows."""
        self.shots[rows] = 0
        self.lost[rows] = False
        self._set_up(rows)

    def step(self, actions: dict[str, Array]) -> Array:
        """Shoot, and set up the next targets."""
        actions = {**actions, **self._replacement()}
        rows = np.arange(self.num_games)
        self.lost = ~self.quiver[rows, actions["arrow"]]
        right = (actions["arrow"] == self.best_arrow) & (actions["draw"] == self.distance)
        error = np.linalg.norm(actions["aim"] - self.place, axis=1)
        self.shots += 1
        self._set_up(rows)
        return np.where(right, np.maximum(1 - error, 0), 0.0) / SHOTS

    def observe(self) -> Array:
        """Return the targets, (N, 9) float32."""
        parts = (self.place, np.eye(DRAWS)[self.distance], np.eye(ARROWS)[self.kind])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def infos(self) -> dict[str, Array]:
        """Return the arrows in the quiver and the draws, which are all possible, (N, 7) int8."""
        draws = np.ones((self.num_games, DRAWS), dtype=np.int8)
        return {"action_mask": np.concatenate([self.quiver.astype(np.int8), draws], axis=1)}

    def _set_up(self, rows: Array) -> None:
        """Draw targets and quivers."""
        self.place[rows] = self.random.uniform(-REACH, REACH, size=(len(rows), 2))
        self.distance[rows] = self.random.integers(DRAWS, size=len(rows))
        self.kind[rows] = self.random.integers(ARROWS, size=len(rows))
        quivers = np.tile(np.arange(ARROWS) < IN_QUIVER, (len(rows), 1))
        self.quiver[rows] = self.random.permuted(quivers, axis=1)

    def _replacement(self) -> dict[str, Array]:
        """Return the random part of the actions, if there is one."""
        if self.random_part == "aim":
            return {"aim": self.random.uniform(-1, 1, size=(self.num_games, 2))}
        if self.random_part == "draw":
            return {"draw": self.random.integers(DRAWS, size=self.num_games)}
        if self.random_part == "arrow":
            # Only from the quiver: a game that ends by chance would say nothing of the policy.
            keys = self.random.uniform(size=self.quiver.shape)
            return {"arrow": (keys * self.quiver).argmax(axis=1)}
        return {}


class ArcheryVectorEnv(GameVectorEnv):
    """N games; see `Archery`."""

    def __init__(self, num_envs: int = 1, random_part: str = "") -> None:
        super().__init__(partial(Archery, random_part=random_part), num_envs)


class ArcheryEnv(GameEnv):
    """One game; see `Archery`."""

    def __init__(self, random_part: str = "") -> None:
        super().__init__(partial(Archery, random_part=random_part))
