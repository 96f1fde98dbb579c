"""A vector env's masks are those of the observations it showed last, however its envs give them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from masked_toys import LAMPS, OPTIONS, Lamps, LampsByMethod, LampsInInfo, lamps
from training_toys import MODES, guesses

from puffer_policies.errors import EnvError
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.parallel_envs import ParallelVecEnv

pytestmark = pytest.mark.trainer


def lit(vecenv: GymVecEnv) -> np.ndarray:
    """What the envs themselves allow now, (N, A)."""
    return np.stack([env.unwrapped.lit for env in vecenv.env.unwrapped.envs]).astype(bool)


def wandering(masks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mostly an allowed action of each row, sometimes any."""
    allowed = np.stack([generator.permutation(np.flatnonzero(row))[0] for row in masks])
    anything = generator.integers(OPTIONS, size=len(masks))
    return np.where(generator.random(len(masks)) < 0.2, anything, allowed)


def play(vecenv: GymVecEnv, *, steps: int) -> None:
    for _ in range(steps):
        vecenv.step(vecenv.action_masks.argmax(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LAMPS)
@pytest.mark.parametrize("cut", [True, False])
def test_masks_are_those_of_what_was_shown_last(kind: Any, mode: AutoresetMode, cut: bool) -> None:
    vecenv, generator = lamps(kind, mode, cut=cut), np.random.default_rng(0)
    vecenv.reset(seed=1)
    idle = np.zeros(3, dtype=bool)
    for _ in range(60):
        masks, expected = vecenv.action_masks, lit(vecenv)
        assert masks is not None
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks[~idle], expected[~idle])
        assert masks[idle].all()
        step = vecenv.step(wandering(masks, generator))
        idle = step.done if mode is AutoresetMode.NEXT_STEP else np.zeros(3, dtype=bool)
    vecenv.close()


@pytest.mark.parametrize("kind", LAMPS)
def test_masks_come_out_of_other_processes(kind: Any) -> None:
    here, there = lamps(kind), lamps(kind, processes=True)
    try:
        for vecenv in (here, there):
            vecenv.reset(seed=3)
        for _ in range(6):
            np.testing.assert_array_equal(here.action_masks, there.action_masks)
            actions = here.action_masks.argmax(1)
            here.step(actions)
            there.step(actions)
    finally:
        there.close()
        here.close()


def test_envs_without_masks_have_none() -> None:
    vecenv = guesses()
    vecenv.reset(seed=0)
    assert vecenv.action_masks is None
    vecenv.step(np.zeros(4, dtype=np.int64))
    assert vecenv.action_masks is None


def test_taxis_masks_are_read() -> None:
    newest = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
    vecenv = make_vecenv(newest, 4)
    vecenv.reset(seed=0)
    for _ in range(5):
        masks = vecenv.action_masks
        tables = [env.unwrapped for env in vecenv.env.unwrapped.envs]
        expected = [taxi.action_mask(int(taxi.s)) for taxi in tables]
        np.testing.assert_array_equal(masks, np.stack(expected).astype(bool))
        vecenv.step(masks.argmax(1))
    vecenv.close()


def test_a_native_vector_envs_masks_are_read() -> None:
    vecenv = make_vecenv("puffer_policies/MaskedRecall-v0", 5)
    vecenv.reset(seed=0)
    ends = 0
    for _ in range(30):
        masks = vecenv.action_masks
        assert masks.shape == (5, 4)
        step = vecenv.step(masks.argmax(1))
        assert (step.terminated <= (step.observations == 5) | (step.observations < 5)).all()
        ends += int(step.done.sum())
    assert ends > 5
    vecenv.close()


class Several(LampsInInfo):
    """Two choices, masked as gymnasium's MultiDiscrete is sampled: by a tuple of masks."""

    action_space = spaces.MultiDiscrete([3, 2])

    def step(self, action: Any) -> Any:
        return super().step(0)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": (np.array([0, 1, 1], np.int8), np.array([1, 0], np.int8))}


def test_masks_of_several_choices_stand_side_by_side() -> None:
    vecenv = lamps(Several, AutoresetMode.SAME_STEP)
    vecenv.reset(seed=0)
    vecenv.step(np.zeros((3, 2), dtype=np.int64))
    np.testing.assert_array_equal(vecenv.action_masks, [[False, True, True, True, False]] * 3)


class Dark(LampsByMethod):
    def _light(self) -> None:
        self.lit[:] = self.time == 0


class Short(LampsInInfo):
    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.lit[:3].copy()}


class Forgetful(LampsInInfo):
    def _info(self) -> dict[str, Any]:
        return super()._info() if self.time == 0 else {}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Dark, "Env 0 of 3 gave an action mask that allows nothing"),
        (Short, "Env 0 of 3 gave an action mask of 3 options; its actions have 5"),
        (Forgetful, "Env 0 of 3 gave no action mask"),
    ],
)
def test_a_mask_that_makes_no_sense_is_named_with_its_env(kind: Any, problem: str) -> None:
    vecenv = lamps(kind)
    vecenv.reset(seed=0)
    with pytest.raises(EnvError, match=problem):
        play(vecenv, steps=2)


class Broken(LampsByMethod):
    def action_masks(self) -> np.ndarray:
        raise RuntimeError("no lamps")


@pytest.mark.parametrize("processes", [False, True])
def test_a_method_that_fails_is_an_error_of_the_env(processes: bool) -> None:
    vecenv = lamps(Broken, processes=processes)
    vecenv.reset(seed=0)
    with pytest.raises(EnvError, match="no lamps"):
        _ = vecenv.action_masks
    vecenv.close()


def test_nobody_who_does_not_ask_pays_for_a_wrong_mask() -> None:
    vecenv = lamps(Short)
    vecenv.reset(seed=0)
    assert isinstance(vecenv.step(np.zeros(3, dtype=np.int64)).rewards, np.ndarray)


class Continuous(Lamps):
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.ones(2, np.int8)}


def test_continuous_actions_have_no_masks() -> None:
    vecenv = lamps(Continuous)
    vecenv.reset(seed=0)
    assert vecenv.action_masks is None


def test_a_key_of_another_shape_is_an_observation_like_others() -> None:
    class Other(gymnasium.Env[Any, Any]):
        action_space = spaces.Discrete(2)
        observation_space = spaces.Dict(action_mask=spaces.MultiBinary(7))

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return {"action_mask": np.zeros(7, np.int8)}, {}

    vecenv = lamps(Other)
    vecenv.reset(seed=0)
    assert vecenv.action_masks is None


class Pair:
    """A parallel env as PettingZoo's: agent a ends after 2 steps, b after 4; one option a step."""

    possible_agents = ("a", "b")

    def __init__(self, where: str) -> None:
        self.where = where

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        time = spaces.Box(0, 9, (1,), np.float32)
        if self.where == "info":
            return time
        return spaces.Dict(time=time, action_mask=spaces.MultiBinary(3))

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.time, self.agents = 0, ["a", "b"]
        return self._shown(), self._infos()

    def step(self, actions: Any) -> tuple[Any, ...]:
        self.time += 1
        shown, infos, agents = self._shown(), self._infos(), self.agents
        ends = {agent: self.time == {"a": 2, "b": 4}[agent] for agent in agents}
        self.agents = [agent for agent in agents if not ends[agent]]
        return shown, dict.fromkeys(agents, 0.0), ends, dict.fromkeys(agents, False), infos

    def close(self) -> None: ...

    def _mask(self, agent: str) -> np.ndarray:
        return np.eye(3, dtype=np.int8)[(self.time + (agent == "b")) % 3]

    def _shown(self) -> Any:
        time = np.array([self.time], np.float32)
        if self.where == "info":
            return dict.fromkeys(self.agents, time)
        return {each: {"time": time, "action_mask": self._mask(each)} for each in self.agents}

    def _infos(self) -> Any:
        told = self.where == "info"
        return {each: {"action_mask": self._mask(each)} if told else {} for each in self.agents}


@pytest.mark.parametrize("where", ["info", "observation"])
def test_agents_masks_are_read_and_padding_may_do_all(where: str) -> None:
    vecenv = ParallelVecEnv([Pair(where), Pair(where)])
    vecenv.reset(seed=0)
    found = []
    for _ in range(6):
        found.append(vecenv.action_masks[:2].astype(int).tolist())
        np.testing.assert_array_equal(vecenv.action_masks[:2], vecenv.action_masks[2:])
        vecenv.step(np.zeros(4, dtype=np.int64))
    first, second, third = np.eye(3, dtype=int).tolist()
    padding = [1, 1, 1]
    begun = [[first, second], [second, third]]
    assert found == [*begun, [padding, first], [padding, second], *begun]
