"""The clocks of `training_toys` behind other APIs: PettingZoo's, and PufferLib's native one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
