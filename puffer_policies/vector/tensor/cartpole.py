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

    def __init__(
        self,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(
            num_envs, device=device, max_episode_steps=max_episode_steps, compiled=compiled
        )
        limits = [MAX_PLACE, math.inf, MAX_ANGLE, math.inf]
        self._limits = torch.tensor(limits, device=self.device)
        self._pay = torch.ones(num_envs, device=self.device)

    def begin(self, draws: Tensor) -> Tensors:
        """Return carts that are nearly at rest in the middle."""
        return {"state": draws * 0.1 - 0.05}

    def advance(self, game: Tensors, actions: Tensor, draws: Tensor) -> tuple[Tensors, Tensor]:
        """Push left (0) or right (1), by Euler's method."""
        state = game["state"]
        _, speed, angle, angular_speed = state.unbind(-1)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        # Names and form of https://coneural.org/florian/papers/05_cart_pole.pdf, as in gymnasium.
        moment = POLE_MASS * HALF_LENGTH / TOTAL_MASS
        force = actions * (2 * FORCE / TOTAL_MASS) - FORCE / TOTAL_MASS
        push = torch.addcmul(force, angular_speed.square(), sine, value=moment)
        inertia = HALF_LENGTH * 4.0 / 3.0 - HALF_LENGTH * POLE_MASS / TOTAL_MASS * cosine.square()
        angular_acceleration = (GRAVITY * sine - cosine * push) / inertia
        acceleration = torch.addcmul(push, angular_acceleration, cosine, value=-moment)
        change = torch.stack((speed, acceleration, angular_speed, angular_acceleration), dim=-1)
        return {"state": torch.add(state, change, alpha=SECONDS)}, self._pay

    def over(self, game: Tensors) -> Tensor:
        """Return (N,) bool: the cart has left, or the pole has fallen."""
        return (game["state"].abs() > self._limits).any(-1)

    def observe(self, game: Tensors) -> Any:
        """Return the state (N, 4)."""
        return game["state"]
