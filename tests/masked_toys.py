"""Envs that forbid actions, and say so in each of the ways that exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from puffer_policies.vector.gymnasium_envs import GymVecEnv

OPTIONS = 5


class Lamps(gymnasium.Env[Any, Any]):
    """A lamp that may be pressed is lit, in `length` steps; pressing a dark one ends it unpaid.

    Where an episode is over, no lamp is lit. `illegal` counts what was pressed in the dark.
    """

    action_space = spaces.Discrete(OPTIONS)
    observation_space = spaces.Box(0, 100, (1,), np.float32)
    illegal = 0

    def __init__(self, length: int = 4, cut: bool = False) -> None:
        self.length, self.cut, self.time = length, cut, 0
        self.lit = np.zeros(OPTIONS, dtype=np.int8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self._light()
        return self._shown(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        legal = bool(self.lit[int(action)])
        type(self).illegal += not legal
        self.time += 1
        over = self.time >= self.length
        self.lit[:] = 0
        if legal and not over:
            self._light()
        ended = not legal or (over and not self.cut)
        return self._shown(), float(legal), ended, over and self.cut, self._info()

    def get_state(self) -> dict[str, Any]:
        random = self.np_random.bit_generator.state
        return {"time": self.time, "lit": self.lit, "random": random}

    def set_state(self, state: dict[str, Any]) -> None:
        self.time, self.lit = state["time"], state["lit"]
        self.np_random.bit_generator.state = state["random"]

    def _light(self) -> None:
        self.lit[:] = self.np_random.random(OPTIONS) < 0.4
        self.lit[self.np_random.integers(OPTIONS)] = 1

    def _shown(self) -> Any:
        return np.array([self.time], np.float32)

    def _info(self) -> dict[str, Any]:
        return {}


class LampsInInfo(Lamps):
    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.lit.copy()}


class LampsByMethod(Lamps):
    def action_masks(self) -> np.ndarray:
        return self.lit.astype(bool)


class LampsInObservation(Lamps):
    observation_space = spaces.Dict(
        time=spaces.Box(0, 100, (1,), np.float32), action_mask=spaces.MultiBinary(OPTIONS)
    )

    def _shown(self) -> Any:
        return {"time": np.array([self.time], np.float32), "action_mask": self.lit.copy()}


LAMPS: Sequence[type[Lamps]] = (LampsInInfo, LampsByMethod, LampsInObservation)


def lamps(
    kind: type[gymnasium.Env[Any, Any]],
    mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    *,
    num_envs: int = 3,
    processes: bool = False,
    **kwargs: Any,
) -> GymVecEnv:
    makers = [lambda: kind(**kwargs)] * num_envs
    make = AsyncVectorEnv if processes else SyncVectorEnv
    return GymVecEnv(make(makers, autoreset_mode=mode))
