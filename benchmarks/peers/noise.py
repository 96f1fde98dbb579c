"""Envs that cost nothing and teach nothing, for cases that time the update alone.

Observations are drawn once, and one step in a hundred ends an episode. `Noise-v0` has CartPole's
spaces, `NoiseImage-v0` four frames of 84 x 84 pixels. Importing this file registers both.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

END = 0.01
"""The share of steps that end an episode."""

SPACES = {
    "Noise-v0": spaces.Box(-1.0, 1.0, (4,), np.float32),
    "NoiseImage-v0": spaces.Box(0, 255, (84, 84, 4), np.uint8),
}
ACTIONS = spaces.Discrete(2)


class Noise(gymnasium.Env[Any, Any]):
    """One copy."""

    action_space = ACTIONS

    def __init__(self, name: str) -> None:
        self.observation_space = SPACES[name]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._observation = self.observation_space.sample()
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        number = self.np_random.random()
        return self._observation, number, bool(number < END), False, {}


class NoiseVector(VectorEnv[Any, Any, Any]):
    """N copies in one object; a step that follows the end of an episode restarts it."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, name: str, num_envs: int = 1, **options: Any) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = SPACES[name], ACTIONS
        self.observation_space = batch_space(SPACES[name], num_envs)
        self.action_space = batch_space(ACTIONS, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._observations = self.observation_space.sample()
        self._ended = np.zeros(self.num_envs, bool)
        return self._observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        rewards = self.np_random.random(self.num_envs)
        rewards[self._ended] = 0.0
        self._ended = (rewards < END) & ~self._ended
        none = np.zeros(self.num_envs, bool)
        return self._observations, rewards, self._ended, none, {}


for _name in SPACES:
    gymnasium.register(
        _name,
        entry_point=Noise,
        vector_entry_point=NoiseVector,
        kwargs={"name": _name},
        # What is checked or wrapped costs more than the env.
        disable_env_checker=True,
        order_enforce=False,
    )
