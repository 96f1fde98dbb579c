"""The clocks of `training_toys` behind other APIs: PettingZoo's, and a copy of PufferLib's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from training_toys import SCHEDULES, Clock

Schedule = Sequence[tuple[int, str]]


class Clocks:
    """A parallel env whose agents are clocks; those that are late enter at the time said."""

    metadata: dict[str, Any] = {"name": "clocks"}  # noqa: RUF012 - as PettingZoo has it
    render_mode = None

    def __init__(
        self, schedules: Mapping[str, Schedule], late: Mapping[str, int] | None = None
    ) -> None:
        self.clocks = {agent: Clock(schedule) for agent, schedule in schedules.items()}
        self.possible_agents, self.late = list(schedules), late or {}
        self.agents: list[str] = []
        self.seen: list[dict[str, int]] = []
        self.seeds: list[int | None] = []
        self.closed = False

    @property
    def unwrapped(self) -> Clocks:
        return self

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return Clock.observation_space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return Clock.action_space

    def reset(
        self, seed: int | None = None, options: Any = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        self.seeds.append(seed)
        self.time, self.agents = 0, []
        shown = self._enter()
        return shown, {agent: {} for agent in shown}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        self.seen.append(dict(actions))
        self.time += 1
        told = {agent: self.clocks[agent].step(actions[agent]) for agent in self.agents}
        shown, rewards, terminated, truncated, infos = (
            {agent: each[i] for agent, each in told.items()} for i in range(5)
        )
        self.agents = [a for a in self.agents if not (terminated[a] or truncated[a])]
        shown |= self._enter() if self.agents else {}
        return shown, rewards, terminated, truncated, infos

    def get_state(self) -> dict[str, Any]:
        clocks = {agent: clock.get_state() for agent, clock in self.clocks.items()}
        return {"time": self.time, "agents": self.agents, "clocks": clocks}

    def set_state(self, state: dict[str, Any]) -> None:
        self.time, self.agents = state["time"], state["agents"]
        for agent, clock in self.clocks.items():
            clock.set_state(state["clocks"][agent])

    def close(self) -> None:
        self.closed = True

    def _enter(self) -> dict[str, np.ndarray]:
        new = [agent for agent in self.possible_agents if self.late.get(agent, 0) == self.time]
        self.agents += new
        return {agent: self.clocks[agent].reset()[0] for agent in new}


def together(schedules: Sequence[Schedule] = SCHEDULES) -> Clocks:
    return Clocks({f"agent_{i}": each for i, each in enumerate(schedules)})


class FakeSerial:
    """What PufferLib 3.0's ``Serial`` does with emulated envs, in place and with its checks."""

    def __init__(self, makers: Sequence[Callable[[], Any]]) -> None:
        self.envs = [FakeEmulated(maker()) for maker in makers]
        self.driver_env = self.envs[0]
        self.emulated = {"observation_dtype": np.float32}
        self.single_observation_space = Clock.observation_space
        self.single_action_space = Clock.action_space
        self.num_agents = sum(each.num_agents for each in self.envs)
        self.agents_per_batch = self.num_envs = self.num_agents
        self.action_space = spaces.MultiDiscrete([2] * self.num_agents)
        self.agent_ids = np.arange(self.num_agents)
        self.observations = np.zeros((self.num_agents, 2), np.float32)
        self.rewards = np.zeros(self.num_agents, np.float32)
        self.terminals, self.truncations, self.masks = (
            np.zeros(self.num_agents, bool) for _ in range(3)
        )
        self.flag, self.closed = "reset", False

    def async_reset(self, seed: int | None = None) -> None:
        self.flag, row = "recv", 0
        for i, env in enumerate(self.envs):
            self._write(row, env.restart(None if seed is None else seed + i), starting=True)
            row += env.num_agents

    def send(self, actions: np.ndarray) -> None:
        assert self.flag == "send"
        assert actions.flags.contiguous
        assert self.action_space.contains(actions)
        self.flag, row = "recv", 0
        for env in self.envs:
            if env.done:
                self._write(row, env.restart(None), starting=True)
            else:
                self._write(row, env.play(actions[row : row + env.num_agents]), starting=False)
            row += env.num_agents

    def _write(self, row: int, told: list[Any], *, starting: bool) -> None:
        for i, each in enumerate(told, start=row):
            shown, reward, terminated, truncated = each or (0, 0, True, False)
            self.observations[i], self.rewards[i] = shown, reward
            self.terminals[i] = terminated and not starting
            self.truncations[i] = truncated
            self.masks[i] = starting or each is not None

    def recv(self) -> tuple[Any, ...]:
        assert self.flag == "recv"
        self.flag = "send"
        buffers = (self.observations, self.rewards, self.terminals, self.truncations)
        return *buffers, [], self.agent_ids, self.masks

    def close(self) -> None:
        self.closed = True


class FakeEmulated:
    """A clock or clocks as PufferLib's emulation tells of them: None for an absent agent."""

    def __init__(self, env: Any) -> None:
        self.env, self.done = env, True
        self.agents = getattr(env, "possible_agents", None)
        self.num_agents = len(self.agents) if self.agents else 1
        self.single_observation_space = Clock.observation_space
        self.single_action_space = Clock.action_space

    def restart(self, seed: int | None) -> list[Any]:
        self.done = False
        shown, _ = self.env.reset(seed=seed)
        if not self.agents:
            return [(shown, 0, False, False)]
        return [(shown[a], 0, False, False) if a in shown else None for a in self.agents]

    def play(self, actions: np.ndarray) -> list[Any]:
        if not self.agents:
            *told, _ = self.env.step(int(actions[0]))
            self.done = told[2] or told[3]
            return [tuple(told)]
        playing = dict(zip(self.agents, actions, strict=True))
        shown, rewards, ends, cuts, _ = self.env.step(
            {a: act for a, act in playing.items() if a in self.env.agents}
        )
        self.done = not self.env.agents
        return [
            (shown[a], rewards.get(a, 0), ends.get(a, False), cuts.get(a, False))
            if a in shown
            else None
            for a in self.agents
        ]


class FakeNative:
    """Clocks as a native `PufferEnv`: ended rows start anew at once, their last is not shown."""

    emulated = False

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.clocks = [Clock(each) for each in schedules]
        self.num_agents = len(self.clocks)
        self.single_observation_space = Clock.observation_space
        self.single_action_space = Clock.action_space
        self.agent_ids = np.arange(self.num_agents)
        self.masks = np.ones(self.num_agents, bool)

    @property
    def driver_env(self) -> FakeNative:
        return self

    def async_reset(self, seed: int | None = None) -> None:
        self.observations = np.stack([each.reset()[0] for each in self.clocks])
        self.rewards = np.zeros(self.num_agents, np.float32)
        self.terminals, self.truncations = np.zeros((2, self.num_agents), bool)

    def send(self, actions: np.ndarray) -> None:
        for i, clock in enumerate(self.clocks):
            shown, reward, ended, cut, _ = clock.step(actions[i])
            self.observations[i] = clock.reset()[0] if ended or cut else shown
            self.rewards[i], self.terminals[i], self.truncations[i] = reward, ended, cut

    def recv(self) -> tuple[Any, ...]:
        buffers = (self.observations, self.rewards, self.terminals, self.truncations)
        return *buffers, [], self.agent_ids, self.masks

    def close(self) -> None:
        pass
