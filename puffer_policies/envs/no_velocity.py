"""Gymnasium's classic control with velocities hidden: policies must remember to know them.

Physics, rewards, seeds and time limits are gymnasium's. Elsewhere: rl-zoo3's ``CartPoleNoVel-v1``,
which shows zeros in place of velocities (https://github.com/DLR-RM/rl-baselines3-zoo), and popgym's
``PositionOnlyCartPole`` (arXiv:2303.01859), which leaves them out, as here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Array = NDArray[Any]


class _Blind(gymnasium.Env[Any, Any]):
    """A mixin for an env of vectors: its observations keep the elements `visible` alone."""

    visible: ClassVar[list[int]]

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)  # type: ignore[call-arg]
        self.observation_space = _part(self.observation_space, self.visible)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode as the env does."""
        observation, info = super().reset(seed=seed, options=options)
        return observation[self.visible], info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Take one action as the env does."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation[self.visible], reward, terminated, truncated, info


class CartPoleNoVel(_Blind, CartPoleEnv):
    """Cart position and pole angle: (2,) float32."""

    visible: ClassVar[list[int]] = [0, 2]


class PendulumNoVel(_Blind, PendulumEnv):
    """Cosine and sine of the angle: (2,) float32."""

    visible: ClassVar[list[int]] = [0, 1]


class MountainCarContinuousNoVel(_Blind, Continuous_MountainCarEnv):
    """The car's position: (1,) float32."""

    visible: ClassVar[list[int]] = [0]


class _BlindVector(VectorEnv[Any, Any, Any]):
    """A mixin for a vector env of vectors: its observations keep the elements `visible` alone."""

    visible: ClassVar[list[int]]

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int = 500, render_mode: str | None = None
    ) -> None:
        super().__init__(num_envs, max_episode_steps, render_mode)  # type: ignore[call-arg]
        self.single_observation_space = _part(self.single_observation_space, self.visible)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start every row as the env does."""
        observations, infos = super().reset(seed=seed, options=options)
        return observations[:, self.visible], infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take (N,) actions as the env does."""
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations[:, self.visible], rewards, terminated, truncated, infos


class CartPoleNoVelVector(_BlindVector, CartPoleVectorEnv):
    """Cart positions and pole angles: (N, 2) float32, stepped by gymnasium's own vector env."""

    visible: ClassVar[list[int]] = [0, 2]


def _part(space: Any, visible: list[int]) -> spaces.Box:
    return spaces.Box(space.low[visible], space.high[visible], dtype=space.dtype)
