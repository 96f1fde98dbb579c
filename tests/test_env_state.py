"""The state of an env, captured as plain data and put into a fresh one."""

from __future__ import annotations

import enum
import json
import random
import threading
from collections import OrderedDict, deque

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from puffer_policies.errors import EnvError
from puffer_policies.nested import leaves
from puffer_policies.vector.capture import Snapshot, capture
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.restore import restore

pytestmark = pytest.mark.trainer
BREAKOUT = "puffer_policies/Breakout-v0"


def through_json(snapshot):
    return Snapshot(json.loads(json.dumps(snapshot.nodes)), snapshot.memory)


def shown(vecenv, actions):
    step = vecenv.step(actions.copy())
    arrays = [*leaves(step.observations), step.rewards, step.terminated, step.truncated]
    return [np.array(each) for each in arrays]


def require_same_future(one, other, *, steps=300):
    space = one.single_action_space
    space.seed(0)
    for _ in range(steps):
        actions = np.stack([space.sample() for _ in range(one.num_envs)])
        for a, b in zip(shown(one, actions), shown(other, actions), strict=True):
            np.testing.assert_array_equal(a, b)


ENVS = [
    ("CartPole-v1", "native"),
    ("CartPole-v1", "sync"),
    ("Acrobot-v1", "sync"),
    ("Pendulum-v1", "sync"),
    ("MountainCar-v0", "sync"),
    ("MountainCarContinuous-v0", "sync"),
    (BREAKOUT, "native"),
    (BREAKOUT, "sync"),
    ("FrozenLake-v1", "sync"),
    ("Blackjack-v1", "sync"),
]


@pytest.mark.parametrize(("name", "vectorization"), ENVS)
def test_a_fresh_env_goes_on_exactly_where_another_was(name, vectorization):
    one, fresh = (make_vecenv(name, 3, vectorization=vectorization) for _ in range(2))
    one.reset(seed=1)
    fresh.reset(seed=2)
    for _ in range(230):
        one.step(np.stack([one.single_action_space.sample() for _ in range(3)]))
    restore(fresh, through_json(capture(one)))
    require_same_future(one, fresh)
    one.close()
    fresh.close()


class Stacked(gymnasium.Wrapper):
    """Shows the last three observations, and is as intricate as wrappers come."""

    __slots__ = ("slot",)

    class Mood(enum.Enum):
        calm = 0
        wild = 1

    def __init__(self, env):
        super().__init__(env)
        box = env.observation_space
        self.frames = deque(maxlen=3)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3, *box.shape), np.float64)
        self.memory = np.zeros((3, *box.shape))
        self.newest = self.memory[-1]  # a view
        self.mood = self.Mood.calm
        self.random, self.legacy = random.Random(0), np.random.RandomState(0)
        self.by_mood = OrderedDict({self.Mood.calm: {1, 2}, self.Mood.wild: frozenset({"a"})})
        self.slot = np.float32(0)
        self.itself = [self]
        self.noise = self._noisy(0.0)
        self.draw = np.random.default_rng(3).random
        self.where = self.unwrapped.reset

    def _noisy(self, level):
        def noise():
            nonlocal level
            level += self.random.random() + self.legacy.normal()
            return level

        return noise

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.frames.clear()
        self.mood = self.Mood.wild if self.mood is self.Mood.calm else self.Mood.calm
        return self._show(observation), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return self._show(observation), *rest

    def _show(self, observation):
        self.frames.append(observation)
        self.memory[:-1] = self.memory[1:]
        self.newest[:] = observation + self.noise() + self.draw() + (self.mood is self.Mood.wild)
        self.slot = np.float32(self.newest[0])
        return self.memory.copy()


def stacked():
    makers = [lambda: Stacked(gymnasium.make("Pendulum-v1", max_episode_steps=17))] * 2
    return GymVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))


def test_views_slots_closures_enums_and_circles_go_on_too():
    one, fresh = stacked(), stacked()
    one.reset(seed=1)
    fresh.reset(seed=2)
    for _ in range(40):
        one.step(np.zeros((2, 1), np.float32))
    restore(fresh, through_json(capture(one)))
    wrapper = fresh.env.envs[0]
    assert np.shares_memory(wrapper.newest, wrapper.memory)
    assert wrapper.itself == [wrapper]
    require_same_future(one, fresh)
    # What was put back can be captured again, and is the same.
    assert capture(fresh).nodes[0] == capture(one).nodes[0]


class Holder:
    def __init__(self, **held):
        vars(self).update(held)


REFUSED = [
    (Holder(world=threading.Lock()), r"env\.world is a _thread\.lock"),
    (Holder(parts=[1, (threading.Event(),)]), r"env\.parts\[1\]\[0\] is a threading\.Event"),
    (Holder(sub=type("Numbers", (list,), {})()), r"env\.sub is a .*Numbers"),
    (Holder(array=np.array([object()])), r"env\.array is an array of object"),
    (Holder(push=[].append), r"env\.push is a builtin"),
    (Holder(shared=np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 3)())), "the memory of"),
    (Holder(keys={Holder(): 1}), r"env\.keys is a .*Holder"),
    (Holder(play=(each for each in "ab")), r"env\.play is a .*generator"),
]


@pytest.mark.parametrize(("held", "text"), REFUSED)
def test_what_is_no_plain_data_is_refused_with_its_path(held, text):
    with pytest.raises(EnvError, match=text):
        capture(held)


def test_a_process_can_t_be_captured():
    vecenv = make_vecenv("CartPole-v1", 2, vectorization="async")
    try:
        with pytest.raises(EnvError, match="no plain data"):
            capture(vecenv)
    finally:
        vecenv.close()


OTHERS = [
    (Holder(a=Holder()), Holder(a=None), r"env\.a was a .*Holder; the fresh env has .*NoneType"),
    (Holder(a=Holder()), Holder(), r"env\.a was a .*Holder; the fresh env has nothing"),
    (Holder(a=len), Holder(a=abs), r"env\.a was builtins\.len"),
    (Holder(a=lambda: 0), Holder(a=len), r"env\.a was .*lambda"),
    (Holder(a=AutoresetMode.SAME_STEP), Holder(a=1), r"env\.a was a .*AutoresetMode"),
]


@pytest.mark.parametrize(("then", "now", "text"), OTHERS)
def test_another_env_is_left_as_it_was(then, now, text):
    then.first, now.first = 1, 2
    with pytest.raises(EnvError, match=text):
        restore(now, capture(then))
    assert now.first == 2


def test_two_objects_are_not_put_into_one():
    one = Holder()
    with pytest.raises(EnvError, match="nothing of its own"):
        restore(Holder(a=one, b=one), capture(Holder(a=Holder(), b=Holder())))


@pytest.mark.parametrize("node", ["array", "view", "scalar"])
def test_a_file_makes_no_addresses(node):
    whole = np.arange(4.0)
    held = {"array": [whole], "view": [whole, whole[1:]], "scalar": [np.float64(0)]}[node]
    snapshot = capture(Holder(held=held))
    for each in snapshot.nodes:
        if each["kind"] == node:
            each["dtype"] = "|O"
    with pytest.raises(EnvError, match="can't be read"):
        restore(Holder(held=held), snapshot)


def test_a_damaged_state_is_an_error_of_ours():
    snapshot = capture(Holder(a=[1]))
    snapshot.nodes[1]["kind"] = "bomb"
    with pytest.raises(EnvError, match="can't be read"):
        restore(Holder(a=[1]), snapshot)
    nest: list = []
    for _ in range(5000):
        nest = [nest]
    with pytest.raises(EnvError, match="deeply"):
        capture(nest)
