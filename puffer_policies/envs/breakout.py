"""Breakout on feature vectors as gymnasium envs: N games at once in NumPy, and a single game.

An episode ends when the lives are out or all bricks are gone, and is truncated at a time limit. A
brick is worth 1, so 50 is the best return. Random play earns less than 1; following the ball, 48.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.envs.breakout_field import Field
from puffer_policies.envs.games import GameEnv, GameVectorEnv

MAX_EPISODE_STEPS = 2000


class BreakoutVectorEnv(GameVectorEnv):
    """N games. Observations are (N, 56) float32, actions 0 stay, 1 left, 2 right."""

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
        super().__init__(
            Field, num_envs, max_episode_steps=max_episode_steps, render_mode=render_mode
        )


class BreakoutEnv(GameEnv):
    """One game. It has no time limit of its own: `gymnasium.make` adds the registered one."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(Field, render_mode=render_mode)
