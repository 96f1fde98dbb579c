"""Environments and policies whose training data are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from puffer_policies.spaces import action_layout
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv

MODES = list(AutoresetMode)


class Clock(gymnasium.Env[np.ndarray, Any]):
    """Shows (episode, time), pays time + 1, and ends by a fixed schedule, whatever one does."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)

    def __init__(self, schedule: Sequence[tuple[int, str]]) -> None:
        self.schedule = schedule
        self.episode, self.time = -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode, self.time = (self.episode + 1) % len(self.schedule), 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        length, how = self.schedule[self.episode]
        self.time += 1
        over = self.time >= length
        return self._shown(), float(self.time), over and "t" in how, over and "c" in how, {}

    def get_state(self) -> dict[str, int]:
        return {"episode": self.episode, "time": self.time}

    def set_state(self, state: dict[str, int]) -> None:
        self.episode, self.time = state["episode"], state["time"]

    def _shown(self) -> np.ndarray:
        return np.array([self.episode, self.time], np.float32)


SCHEDULES = ([(3, "t"), (5, "c"), (1, "c"), (2, "t")], [(4, "c"), (1, "t"), (6, "tc")])
"""Per env: lengths, and how an episode ends: t terminated, c cut (truncated), tc both."""


def clocks(
    mode: AutoresetMode, schedules: Sequence[Sequence[tuple[int, str]]] = SCHEDULES
) -> GymVecEnv:
    makers = [lambda schedule=each: Clock(schedule) for each in schedules]
    return GymVecEnv(SyncVectorEnv(makers, autoreset_mode=mode))


class Guess(gymnasium.Env[np.ndarray, Any]):
    """Shows a bit and pays 1 for naming it; episodes of 4 steps."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(int(action) == self.bit)
        self.time += 1
        return self._draw(), reward, False, self.time >= 4, {}

    def get_state(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "bit": self.bit,
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.time, self.bit = state["time"], state["bit"]
        self.np_random.bit_generator.state = state["random"]

    def _draw(self) -> np.ndarray:
        self.bit = int(self.np_random.integers(2))
        return np.array([self.bit], np.float32)


def guesses(num_envs: int = 4) -> GymVecEnv:
    return GymVecEnv(SyncVectorEnv([Guess] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP))


def update(trainer: Trainer) -> dict[str, float]:
    """Make one update and return what it measured."""
    return trainer.learn(trainer.estimate(trainer.collect()))


def run(trainer: Trainer) -> dict[str, float]:
    """Make all updates and return what the last one measured."""
    logs: dict[str, float] = {}
    while not trainer.finished:
        logs = update(trainer)
    return logs


def weights(trainer: Trainer) -> torch.Tensor:
    """All parameters of the policy in one tensor."""
    return torch.cat([each.detach().flatten() for each in trainer.policy.parameters()])


def one_thread_seed(seed: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)


def legal_actions(envs: Any, draws: np.random.Generator, masks: Any = None) -> np.ndarray:
    """Return a policy's random actions (N, ...): by the masks (N, A), so that episodes last."""
    layout, rows, columns, first = action_layout(envs.single_action_space), envs.num_envs, [], 0
    for _, leaf, _ in layout.leaves():
        if leaf.is_continuous:
            reals = draws.uniform(leaf.low, leaf.high, (rows, *leaf.shape))
            columns.append(reals.reshape(rows, -1))
        for options in leaf.nvec:
            mask = 1 if masks is None else masks[:, first : first + options]
            columns.append((mask * draws.random((rows, options))).argmax(-1)[:, None])
            first += options
    actions = np.concatenate(columns, -1).reshape(rows, *layout.policy_shape)
    return actions.astype(layout.policy_dtype)
