"""Gymnasium's CartPole on a device, after Barto, Sutton and Anderson (1983)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from puffer_policies.vector.tensor.base import Tensors, TorchVectorEnv

GRAVITY = 9.8
POLE_MASS, TOTAL_MASS = 0.1, 1.1
HALF_LENGTH = 0.5
FORCE = 10.0
SECONDS = 0.02
MAX_PLACE, MAX_ANGLE = 2.4, math.radians(12)

_HIGH = np.array([2 * MAX_PLACE, np.inf, 2 * MAX_ANGLE, np.inf], dtype=np.float32)


class TorchCartPole(TorchVectorEnv):
    """N carts with a pole each, in float32: gymnasium's CartPole-v1.

    A step pays 1. An episode ends where the cart leaves 2.4 either way or the pole 12 degrees, and
    is truncated after 500 steps. Observations are place, speed, angle and angular speed.
    """

    single_observation_space = spaces.Box(-_HIGH, _HIGH, dtype=np.float32)
    single_action_space = spaces.Discrete(2)
    num_draws: ClassVar[int] = 4
    episode_steps: ClassVar[int | None] = 500

    def begin(self, draws: Tensor) -> Tensors:
        """Return carts that are nearly at rest in the middle."""
        return {"state": draws * 0.1 - 0.05}

    def advance(
        self, game: Tensors, actions: Tensor, draws: Tensor
    ) -> tuple[Tensors, Tensor, Tensor]:
        """Push left (0) or right (1), by Euler's method."""
        x, speed, angle, angular_speed = game["state"].unbind(-1)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        force = actions * (2 * FORCE) - FORCE
        # Names and form of https://coneural.org/florian/papers/05_cart_pole.pdf, as in gymnasium.
        moment = POLE_MASS * HALF_LENGTH / TOTAL_MASS
        push = force / TOTAL_MASS + moment * angular_speed.square() * sine
        inertia = HALF_LENGTH * (4.0 / 3.0 - POLE_MASS / TOTAL_MASS * cosine.square())
        angular_acceleration = (GRAVITY * sine - cosine * push) / inertia
        acceleration = push - moment * angular_acceleration * cosine
        change = torch.stack((speed, acceleration, angular_speed, angular_acceleration), dim=-1)
        state = game["state"] + SECONDS * change  # (N, 4)
        rewards = torch.ones_like(x)
        return {"state": state}, rewards, self._has_fallen(state)

    def observe(self, game: Tensors) -> Any:
        """Return the state (N, 4)."""
        return game["state"]

    def _has_fallen(self, state: Tensor) -> Tensor:
        return (state[:, 0].abs() > MAX_PLACE) | (state[:, 2].abs() > MAX_ANGLE)
