"""The base of our own envs: rules for N games at once, and the gymnasium envs around them.

A new env is a `Game`, in NumPy, and two classes that pass it on. Stepping all copies in one array
operation is what makes them quick: a `SyncVectorEnv` calls Python for each copy in each step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.errors import EnvError
from puffer_policies.spaces import ActionLayout, action_layout
from puffer_policies.spaces.nested import map_nested

Array = NDArray[Any]


class Game(ABC):
    """N games side by side. The row of a finished game has no meaning until it is restarted.

    Args:
        num_games: N.
        random: where every draw comes from.
    """

    observation_space: gymnasium.Space[Any]
    """Of one game."""
    action_space: gymnasium.Space[Any]
    """Of one game."""
    state_arrays: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes, arrays all, that decide with `random` how the games go on."""

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        self.num_games = num_games
        self.random = random

    @property
    @abstractmethod
    def over(self) -> Array:
        """(N,) bool: the game has ended by its own rules."""

    @abstractmethod
    def restart(self, rows: Array) -> None:
        """Begin a new game in the rows with these indices."""

    @abstractmethod
    def step(self, actions: Any) -> Array:
        """Take actions of the space and return rewards (N,) float64, which the caller may change.

        Actions are (N, *shape), and those of a Dict a dict of such arrays.
        """

    @abstractmethod
    def observe(self) -> Any:
        """Return observations (N, *obs), new arrays, nested as the space is."""

    def infos(self) -> dict[str, Array]:
        """Return the infos that belong to the observations: arrays (N, ...)."""
        return {}

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Return a picture (H, W, 3) of one game."""
        raise NotImplementedError

    def get_state(self) -> dict[str, Array]:
        """Return copies of the arrays of `state_arrays`; the generator belongs to the env."""
        return {name: getattr(self, name).copy() for name in self.state_arrays}

    def set_state(self, state: dict[str, Array]) -> None:
        """Put back what `get_state` returned."""
        for name in self.state_arrays:
            setattr(self, name, state[name].copy())


MakeGame = Callable[[int, np.random.Generator], Game]


class GameVectorEnv(VectorEnv[Any, Any, Array]):
    """N games in one process. A finished row restarts in its next step, whose action it ignores.

    Args:
        make_game: makes the rules, for N games and a source of random numbers.
        num_envs: N.
        max_episode_steps: steps after which a game is truncated; None: never.
        render_mode: one of the class's ``metadata["render_modes"]``, or None.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        make_game: MakeGame,
        num_envs: int,
        *,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self._make_game = make_game
        # For its spaces alone: options of a game may change them.
        rules = make_game(1, np.random.default_rng(0))
        self.single_observation_space = rules.observation_space
        self.single_action_space = rules.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._layout = action_layout(self.single_action_space)
        self._game: Game | None = None
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._finished = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start every game anew; a seed makes all that follows repeatable."""
        super().reset(seed=seed, options=options)
        # Made anew, as a seed replaces the generator that the games draw from.
        self._game = self._make_game(self.num_envs, self.np_random)
        self._steps[:] = 0
        self._finished[:] = False
        return self._game.observe(), {**self._game.infos()}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Take actions; return observations, rewards, terminated, truncated and infos."""
        game = self._started()
        rewards = game.step(_checked(actions, self._layout, game))
        self._steps += 1
        restarted = self._finished
        if restarted.any():
            # After the step of all rows, so that the live ones need no indexing.
            game.restart(np.flatnonzero(restarted))
            rewards[restarted] = 0.0
            self._steps[restarted] = 0
        terminated = game.over
        # A game that ends by its rules in the last step that it has is not truncated.
        truncated = ~terminated & (self._steps >= (self.max_episode_steps or np.inf))
        self._finished = terminated | truncated
        return game.observe(), rewards, terminated, truncated, {**game.infos()}

    def get_state(self) -> dict[str, Any]:
        """Return all that decides how the games go on, as plain data; see `vector.state`."""
        return {
            **_state_of(self, self._game),
            "steps": self._steps.copy(),
            "finished": self._finished.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self._game = _restored(self, self._make_game, self.num_envs, state)
        self._steps, self._finished = state["steps"].copy(), state["finished"].copy()

    def render(self) -> tuple[Array, ...] | None:
        """Return a picture (H, W, 3) uint8 of every game."""
        if self.render_mode is None:
            return None
        game = self._started()
        return tuple(game.picture(row) for row in range(self.num_envs))

    def _started(self) -> Game:
        return _started(self._game)


class GameEnv(gymnasium.Env[Any, Any]):
    """One game. It has no time limit of its own: `gymnasium.make` adds the registered one.

    Args:
        make_game: makes the rules, for N games and a source of random numbers.
        render_mode: one of the class's ``metadata["render_modes"]``, or None.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - so does gymnasium declare it

    def __init__(self, make_game: MakeGame, *, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._make_game = make_game
        rules = make_game(1, np.random.default_rng(0))
        self.observation_space = rules.observation_space
        self.action_space = rules.action_space
        self._layout = action_layout(rules.action_space)
        self._game: Game | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a game; a seed makes all that follows repeatable."""
        super().reset(seed=seed, options=options)
        self._game = self._make_game(1, self.np_random)
        return _first_of(self._game.observe()), _first_of(self._game.infos())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        game = _started(self._game)
        actions = map_nested(lambda leaf: np.asarray([leaf]), action)
        reward = game.step(_checked(actions, self._layout, game))
        infos = _first_of(game.infos())
        return _first_of(game.observe()), float(reward[0]), bool(game.over[0]), False, infos

    def get_state(self) -> dict[str, Any]:
        """Return all that decides how the game goes on, as plain data; see `vector.state`."""
        return _state_of(self, self._game)

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self._game = _restored(self, self._make_game, 1, state)

    def render(self) -> Array | None:
        """Return a picture (H, W, 3) uint8 of the game."""
        return None if self.render_mode is None else _started(self._game).picture(0)


def _first_of(batch: Any) -> Any:
    return map_nested(lambda leaf: leaf[0], batch)


def _state_of(env: GameEnv | GameVectorEnv, game: Game | None) -> dict[str, Any]:
    return {
        "random": env.np_random.bit_generator.state,
        "game": None if game is None else game.get_state(),
    }


def _restored(
    env: GameEnv | GameVectorEnv, make_game: MakeGame, num_games: int, state: dict[str, Any]
) -> Game | None:
    """Return the games of a saved state, and put the env's generator, which they share, there."""
    game = None
    if state["game"] is not None:
        game = make_game(num_games, env.np_random)
        game.set_state(state["game"])
    env.np_random.bit_generator.state = state["random"]  # last: making games draws from it
    return game


def _started(game: Game | None) -> Game:
    if game is None:
        raise EnvError("The env was stepped or rendered before its first reset().")
    return game


def _checked(actions: Any, layout: ActionLayout, game: Game, part: str = "actions") -> Any:
    """Return the actions of all games as arrays, or refuse them."""
    name = type(game).__name__
    if layout.parts:
        keys = set(actions) if isinstance(actions, dict) else None
        if keys != set(layout.parts):
            raise EnvError(
                f"{name} takes {part} that are a dict of {', '.join(map(repr, layout.parts))}, "
                f"got {type(actions).__name__ if keys is None else sorted(map(str, keys))}."
            )
        return {
            key: _checked(actions[key], each, game, f"{part} {key!r}")
            for key, each in layout.parts.items()
        }
    actions = np.asarray(actions)
    shape = (game.num_games, *layout.shape)
    kinds, low, high = "iuf", layout.low, layout.high
    if layout.nvec:
        kinds, low = "iu", layout.start
        high = low + np.reshape(layout.nvec, layout.shape) - 1
    if actions.shape != shape or actions.dtype.kind not in kinds:
        raise EnvError(
            f"{name} takes {'integer' if layout.nvec else 'float'} {part} of shape {shape}, "
            f"got {actions.dtype} of shape {actions.shape}."
        )
    if not ((actions >= low) & (actions <= high)).all():  # NaN is outside, too
        raise EnvError(f"{name}'s {part} are {low} to {high}, got {actions}.")
    return actions
