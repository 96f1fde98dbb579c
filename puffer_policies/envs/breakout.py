"""Breakout on feature vectors as gymnasium envs: N games at once in NumPy, and a single game.

An episode ends when the lives are out or all bricks are gone, and is truncated at a time limit. A
brick is worth 1, so 50 is the best return. Random play earns less than 1; following the ball, 48.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.envs.breakout_field import NUM_FEATURES, Field
from puffer_policies.errors import EnvError

ENV_ID = "puffer_policies/Breakout-v0"
MAX_EPISODE_STEPS = 2000

Array = NDArray[Any]
Observation = NDArray[np.float32]


def register_envs() -> None:
    """Make `ENV_ID` known to gymnasium. May be called again: the second time does nothing."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID,
            entry_point="puffer_policies.envs.breakout:BreakoutEnv",
            vector_entry_point="puffer_policies.envs.breakout:BreakoutVectorEnv",
            max_episode_steps=MAX_EPISODE_STEPS,
        )


def observation_space() -> gymnasium.Space[Observation]:
    """Return the space of `Field.observe`'s rows."""
    return spaces.Box(-1.0, 1.0, (NUM_FEATURES,), np.float32)


def action_space() -> spaces.Discrete:
    """Return the three actions: 0 stay, 1 left, 2 right."""
    return spaces.Discrete(3)


class BreakoutVectorEnv(VectorEnv[Observation, Array, Array]):
    """N games in one process. A finished row restarts in its next step, whose action it ignores.

    Observations are (N, 56) float32; rewards (N,) float64.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._field: Field | None = None
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start every game anew; a seed makes all that follows repeatable."""
        super().reset(seed=seed, options=options)
        self._field = Field(self.num_envs, self.np_random)
        self._steps[:] = 0
        self._ended[:] = False
        return self._field.observe(), {}

    def step(self, actions: Array) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        """Take (N,) actions; return observations, rewards, terminated, truncated and no infos."""
        field = _started(self._field)
        rewards = field.step(_checked(actions, (self.num_envs,)))
        self._steps += 1
        restarted = self._ended
        if restarted.any():
            field.restart(np.flatnonzero(restarted))
            rewards[restarted] = 0.0
            self._steps[restarted] = 0
        terminated = field.over
        truncated = (self._steps >= self.max_episode_steps) & ~terminated
        self._ended = terminated | truncated
        return field.observe(), rewards, terminated, truncated, {}

    def render(self) -> tuple[Array, ...] | None:
        """Return a picture (H, W, 3) uint8 of every game."""
        if self.render_mode is None:
            return None
        field = _started(self._field)
        return tuple(field.picture(row) for row in range(self.num_envs))


class BreakoutEnv(gymnasium.Env[Observation, Any]):
    """One game. It has no time limit of its own: `gymnasium.make` adds the registered one."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._field: Field | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a game; a seed makes all that follows repeatable."""
        super().reset(seed=seed, options=options)
        self._field = Field(1, self.np_random)
        return self._field.observe()[0], {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        field = _started(self._field)
        reward = field.step(_checked(np.asarray([action]), (1,)))
        return field.observe()[0], float(reward[0]), bool(field.over[0]), False, {}

    def render(self) -> Array | None:
        """Return a picture (H, W, 3) uint8 of the game."""
        return None if self.render_mode is None else _started(self._field).picture(0)


def _started(field: Field | None) -> Field:
    if field is None:
        raise EnvError("Breakout was stepped or drawn before its first reset().")
    return field


def _checked(actions: Array, shape: tuple[int, ...]) -> Array:
    actions = np.asarray(actions)
    if actions.shape != shape or actions.dtype.kind not in "iu":
        raise EnvError(
            f"Breakout wants integer actions of shape {shape}, "
            f"found {actions.dtype} of shape {actions.shape}."
        )
    if actions.min() < 0 or actions.max() > 2:
        raise EnvError(f"Breakout's actions are 0, 1 and 2, found {actions}.")
    return actions
