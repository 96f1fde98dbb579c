"""Environments and policies whose training data are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from puffer_policies.train.envs import GymVecEnv

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

    def _draw(self) -> np.ndarray:
        self.bit = int(self.np_random.integers(2))
        return np.array([self.bit], np.float32)


def guesses(num_envs: int = 4) -> GymVecEnv:
    return GymVecEnv(SyncVectorEnv([Guess] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP))


class Plain(nn.Module):
    """A policy in the form of the guide's first example: two methods and nothing else."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        (size,) = env.single_observation_space.shape
        self.net = nn.Sequential(nn.Linear(size, hidden_size), nn.Tanh())
        self.action_head = nn.Linear(hidden_size, int(env.single_action_space.n))
        self.value_head = nn.Linear(hidden_size, 1)

    def forward_eval(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        hidden = self.net(observations)
        return self.action_head(hidden), self.value_head(hidden)

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward_eval(observations, state)


class Split(Plain):
    """A policy in the form of the guide's second example, which an LSTM can wrap."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.hidden_size, self.is_continuous = hidden_size, False

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        hidden: Tensor = self.net(observations.float())
        return hidden

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_head(hidden), self.value_head(hidden)


class PufferLSTM(nn.Module):
    """An LSTM in PufferLib's form: (B, H) states in a step, (1, B, H) in training, no resets."""

    def __init__(self, env: Any, policy: Split) -> None:
        super().__init__()
        self.policy, self.hidden_size, self.is_continuous = policy, policy.hidden_size, False
        self.lstm = nn.LSTM(self.hidden_size, self.hidden_size)
        self.cell = nn.LSTMCell(self.hidden_size, self.hidden_size)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, kind, getattr(self.lstm, f"{kind}_l0"))

    def forward_eval(self, observations: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        hidden = self.policy.encode_observations(observations, state)
        assert state["lstm_h"].shape == hidden.shape
        state["lstm_h"], state["lstm_c"] = self.cell(hidden, (state["lstm_h"], state["lstm_c"]))
        return self.policy.decode_actions(state["lstm_h"])

    def forward(self, observations: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        batch, time = observations.shape[:2]
        assert state["lstm_h"].shape == (1, batch, self.hidden_size)
        hidden = self.policy.encode_observations(observations.flatten(0, 1), state)
        hidden = hidden.reshape(batch, time, -1).transpose(0, 1)
        hidden, _ = self.lstm(hidden, (state["lstm_h"], state["lstm_c"]))
        logits, values = self.policy.decode_actions(hidden.transpose(0, 1).flatten(0, 1))
        return logits, values.reshape(batch, time)


def one_thread_seed(seed: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
