"""Envs that take and give tensors, in the forms of several libraries, whose rows follow a clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from training_toys import SCHEDULES


class TensorClocks:
    """The clocks of `training_toys` in tensors: (episode, time), which pays time + 1.

    Rows follow schedules, whatever one does, and restart as `mode` says.
    """

    single_observation_space: spaces.Space[Any] = spaces.Box(-1e6, 1e6, (2,), np.float32)
    single_action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, mode: AutoresetMode, schedules: Sequence[Any] = SCHEDULES) -> None:
        self.num_envs, self.device = len(schedules), torch.device("cpu")
        self.metadata = {"autoreset_mode": mode}
        self.mode = mode
        size = max(map(len, schedules))
        repeated = [[each[i % len(each)] for i in range(12 * size)] for each in schedules]
        self.cycle = torch.tensor([len(each) for each in schedules])
        self.length = torch.tensor([[length for length, _ in each] for each in repeated])
        self.kinds = {
            kind: torch.tensor([[kind in how for _, how in each] for each in repeated])
            for kind in "tc"
        }
        self.rows = torch.arange(self.num_envs)
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self.seeds.append(seed)
            self.episode = torch.zeros(self.num_envs, dtype=torch.int64)
            self.time = torch.zeros_like(self.episode)
            self.done = torch.zeros(self.num_envs, dtype=torch.bool)
        else:
            self._restart(mask)
        return self._shown(), self._infos()

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        self.actions = actions
        before = self.done
        self.time = self.time + 1
        rewards = self.time.float()
        if self.mode is AutoresetMode.NEXT_STEP:
            self._restart(before)
            rewards = rewards * ~before
        over = self.time >= self.length[self.rows, self.episode]
        terminated, truncated = (over & self.kinds[kind][self.rows, self.episode] for kind in "tc")
        self.done = terminated | truncated
        final = self._shown()
        if self.mode is AutoresetMode.SAME_STEP:
            self._restart(self.done)
        return self._shown(), rewards, terminated, truncated, self._infos(final)

    def close(self) -> None:
        self.closed = True

    def get_state(self) -> dict[str, Any]:
        return {name: getattr(self, name).numpy() for name in ("episode", "time", "done")}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, array in state.items():
            setattr(self, name, torch.tensor(array))

    def _restart(self, rows: Tensor) -> None:
        self.episode = torch.where(rows, (self.episode + 1) % self.cycle, self.episode)
        self.time = torch.where(rows, 0, self.time)

    def _shown(self) -> Any:
        return torch.stack((self.episode, self.time), dim=-1).float()

    def _infos(self, final: Any = None) -> dict[str, Any]:
        is_same = self.mode is AutoresetMode.SAME_STEP
        return {"final_obs": final} if is_same and final is not None else {}


class IsaacForm(gymnasium.Env):
    """As Isaac Lab's envs: not a `VectorEnv`, groups of observations, restarts at once, no finals.

    The bounds of its actions are infinite, its tensors are buffers, and its device is a text.
    """

    is_vector_env = True
    metadata = {"render_modes": [None, "human", "rgb_array"]}  # noqa: RUF012 - as gymnasium has it

    def __init__(self) -> None:
        self._clocks = TensorClocks(AutoresetMode.SAME_STEP)
        self.num_envs, self.device = self._clocks.num_envs, "cpu"
        box = TensorClocks.single_observation_space
        self.single_observation_space = spaces.Dict(
            {"policy": box, "critic": spaces.Box(-np.inf, np.inf, (3,))}
        )
        self.single_action_space = spaces.Box(-np.inf, np.inf, (2,))
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, self.num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(
            self.single_action_space, self.num_envs
        )
        self.reward_buf = torch.zeros(self.num_envs)
        self.extras: dict[str, Any] = {}

    def reset(self, seed=None, env_ids=None, options=None):
        first, _ = self._clocks.reset(seed=seed)
        return self._groups(first), self.extras

    def step(self, action):
        self.action = action
        following, rewards, terminated, truncated, _ = self._clocks.step(action)
        self.reward_buf.copy_(rewards)
        return self._groups(following), self.reward_buf, terminated, truncated, self.extras

    def _groups(self, observation):
        more = torch.cat((observation, observation[:, :1]), dim=-1)
        return {"policy": observation, "critic": more, "cameras": None}


class ManiSkillForm(VectorEnv):
    """As ManiSkillVectorEnv: final observations in infos of the steps in which an episode ended."""

    metadata: dict[str, Any] = {}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, *, auto_reset: bool = True) -> None:
        self._base = TensorClocks(AutoresetMode.SAME_STEP)
        self.auto_reset = auto_reset
        self.num_envs = self._base.num_envs
        self.single_observation_space = self._base.single_observation_space
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def device(self) -> torch.device:
        return self._base.device

    @property
    def unwrapped(self) -> Any:
        return self._base

    def reset(self, *, seed=None, options=None):
        return self._base.reset(seed=seed)[0], {}

    def step(self, actions):
        *answer, infos = self._base.step(actions)
        done = answer[2] | answer[3]
        ended = {"final_observation": infos["final_obs"], "_final_observation": done}
        return *answer, ended if done.any() else {"success": done}

    def close_extras(self, **kwargs):
        self._base.close()
