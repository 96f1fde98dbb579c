"""Gymnasium's Pendulum on a device."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from puffer_policies.vector.tensor.base import Tensors, TorchVectorEnv

GRAVITY = 10.0
MAX_SPEED, MAX_TORQUE = 8.0, 2.0
SECONDS = 0.05

_HIGH = np.array([1.0, 1.0, MAX_SPEED], dtype=np.float32)


class TorchPendulum(TorchVectorEnv):
    """N pendulums to swing up and hold, in float32: gymnasium's Pendulum-v1.

    A step costs the square of the angle, a tenth of that of the speed and a thousandth of that of
    the torque. Only a time limit of 200 steps ends an episode. Observations are cosine and sine of
    the angle, 0 upright, and the angular speed.
    """

    single_observation_space = spaces.Box(-_HIGH, _HIGH, dtype=np.float32)
    single_action_space = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), dtype=np.float32)
    num_draws: ClassVar[int] = 2
    episode_steps: ClassVar[int | None] = 200

    def begin(self, draws: Tensor) -> Tensors:
        """Return pendulums at any angle and at little speed."""
        angle, speed = (2 * draws - 1).unbind(-1)
        return {"angle": angle * math.pi, "speed": speed}

    def advance(self, game: Tensors, actions: Tensor, draws: Tensor) -> tuple[Tensors, Tensor]:
        """Apply torques (N, 1), clipped to 2 either way."""
        angle, speed = game["angle"], game["speed"]
        torque = actions[:, 0].clamp(-MAX_TORQUE, MAX_TORQUE)
        # The angle grows with each turn; it is 0 upright and within pi either way in the costs.
        off = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        costs = off.square() + 0.1 * speed.square() + 0.001 * torque.square()
        acceleration = 1.5 * GRAVITY * torch.sin(angle) + 3.0 * torque
        speed = (speed + SECONDS * acceleration).clamp(-MAX_SPEED, MAX_SPEED)
        return {"angle": angle + SECONDS * speed, "speed": speed}, -costs

    def over(self, game: Tensors) -> Tensor:
        """Return (N,) bool: never."""
        return torch.zeros_like(game["angle"], dtype=torch.bool)

    def observe(self, game: Tensors) -> Any:
        """Return cosine, sine and speed (N, 3)."""
        angle = game["angle"]
        return torch.stack((torch.cos(angle), torch.sin(angle), game["speed"]), dim=-1)
