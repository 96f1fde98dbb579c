"""The state of an env as plain data: another env goes on exactly from where the first one was."""

from __future__ import annotations

import json
import threading
from collections import deque

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TransformReward
from training_toys import Clock, legal_actions

from puffer_policies.errors import EnvError
from puffer_policies.runs.snapshot_data import pack, unpack
from puffer_policies.spaces.nested import leaves
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.state import get_state, require_plain, set_state

pytestmark = pytest.mark.trainer
OURS = "puffer_policies/"
TAXI = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"


def through_a_file(state):
    tensors = {}
    tree = json.loads(json.dumps(pack(state, "envs", tensors)))
    return unpack(tree, tensors)


def arrays_of(vecenv, actions):
    step = vecenv.step(actions.copy())
    masks = vecenv.action_masks
    arrays = [*leaves(step.observations), step.rewards, step.terminated, step.truncated, step.ghost]
    return [np.array(each) for each in (*arrays, np.zeros(0) if masks is None else masks)]


def play(vecenv, steps, seed=0):
    draws = np.random.default_rng(seed)
    return [
        arrays_of(vecenv, legal_actions(vecenv, draws, vecenv.action_masks)) for _ in range(steps)
    ]


def require_same_future(one, other, *, steps=120):
    for first, second in zip(play(one, steps), play(other, steps), strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


ENVS = [
    *((name, "native") for name in ("CartPole-v1", f"{OURS}CartPoleNoVel-v0")),
    *((f"{OURS}{name}-v0", "native") for name in ("Breakout", "RepeatPrevious", "MaskedRecall")),
    *((f"{OURS}{name}-v0", "native") for name in ("RepeatFirst", "Chain", "Countdown")),
    *((f"{OURS}Archery-v0", mode) for mode in ("native", "sync")),
    *((f"{OURS}{name}-v0", "native") for name in ("NearestFriend", "HiddenTide")),
    *((f"{OURS}{name}-v0", "sync") for name in ("Breakout", "RepeatPrevious", "MaskedRecall")),
    *((f"{OURS}{name}-v0", "sync") for name in ("CartPoleNoVel", "PendulumNoVel")),
    (f"{OURS}MountainCarContinuousNoVel-v0", "sync"),
    *((name, "sync") for name in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0")),
    *((name, "sync") for name in ("MountainCarContinuous-v0", "FrozenLake-v1", "Blackjack-v1")),
    *((name, "sync") for name in (TAXI, "CliffWalking-v1")),
]
SHORT = {"Acrobot-v1": 37, "MountainCar-v0": 37, "MountainCarContinuous-v0": 37}
"""Time limits: without one, no episode would end within the test."""


@pytest.mark.parametrize(("name", "vectorization"), ENVS)
def test_a_fresh_env_goes_on_exactly_where_another_was(name, vectorization):
    kwargs = {"max_episode_steps": SHORT[name]} if name in SHORT else {}
    one, fresh = (
        make_vecenv(name, 3, vectorization=vectorization, env_kwargs=kwargs) for _ in range(2)
    )
    one.reset(seed=1)
    fresh.reset(seed=2)
    play(one, 70, seed=5)
    play(fresh, 3, seed=6)
    set_state(fresh, through_a_file(get_state(one)))
    require_same_future(one, fresh)
    one.close()
    fresh.close()


class Stacked(gymnasium.Wrapper):
    """Shows the last three observations: a wrapper speaks for itself, and not for its env."""

    def __init__(self, env):
        super().__init__(env)
        box = env.observation_space
        self.frames = deque([np.zeros(box.shape)] * 3, maxlen=3)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3, *box.shape), np.float64)

    def get_state(self):
        return {"frames": list(self.frames)}

    def set_state(self, state):
        self.frames.extend(state["frames"])

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.frames.append(observation)
        return np.stack(self.frames), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        self.frames.append(observation)
        return np.stack(self.frames), *rest


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_wrappers_in_any_order_and_mode_go_on_too(mode):
    def make():
        env = Stacked(gymnasium.make("Pendulum-v1", max_episode_steps=17))
        return FlattenObservation(RecordEpisodeStatistics(env))

    one, fresh = (GymVecEnv(SyncVectorEnv([make] * 2, autoreset_mode=mode)) for _ in range(2))
    one.reset(seed=1)
    fresh.reset(seed=2)
    play(one, 40)
    set_state(fresh, through_a_file(get_state(one)))
    require_same_future(one, fresh)
    a, b = (each.env.envs[0].get_wrapper_attr("return_queue") for each in (one, fresh))
    assert a == b
    assert len(b) >= 8
    assert b.maxlen == 100


def test_a_state_is_a_copy():
    env = gymnasium.make("Blackjack-v1", sab=True)
    env.reset(seed=0)
    before = get_state(env)
    text = repr(before)
    env.step(1)
    assert repr(before) == text
    set_state(env, before)
    env.step(1)
    assert repr(before) == text


class Offering(Clock):
    """Offers as its state whatever it is told to."""

    state = None

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = {}[state]


NOT_PLAIN = [
    ({"world": threading.Lock()}, r"get_state\(\)\['world'\] is a _thread\.lock"),
    ([1, (threading.Event(),)], r"get_state\(\)\[1\]\[0\] is a threading\.Event"),
    ({"array": np.array([object()])}, r"\['array'\] is a array of object"),
    ({"sub": type("Numbers", (list,), {})()}, r"\['sub'\] is a .*Numbers"),
    ({"text": np.array(["a"])}, "array of <U1"),
    ({1: 2}, r"get_state\(\) is a builtins\.dict"),
    ({"members": {1, 2}}, "builtins.set"),
]


@pytest.mark.parametrize(("state", "text"), NOT_PLAIN)
def test_what_is_not_plain_data_is_refused_with_its_place(state, text, monkeypatch):
    monkeypatch.setattr(Offering, "state", state)
    with pytest.raises(EnvError, match=f"{text}.* cannot be saved as plain data"):
        get_state(Offering([(4, "t")]))


PLAIN = {
    "atoms": [None, True, 7, 2**70, -0.0, float("inf"), "text"],
    "numbers": [np.float32(0.1), np.int8(-3), np.bool_(True)],
    "arrays": (np.arange(6, dtype=np.uint32).reshape(2, 3), np.zeros((0, 2)), np.array(1.5)),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "nested": {"a.b": [np.ones(1)], "a": {"b": [np.zeros(1)]}, "": {}},
}


def test_plain_data_come_back_from_a_file_as_they_were():
    require_plain(PLAIN, "state")
    state = through_a_file(PLAIN)
    assert repr(state) == repr(PLAIN)
    assert [type(each) for each in state["numbers"]] == [np.float32, np.int8, np.bool_]
    assert state["arrays"][0].dtype == np.uint32
    state["arrays"][0][:] = 0  # is writeable


@pytest.mark.parametrize("kind", ["array", "number"])
def test_a_file_makes_no_addresses(kind):
    tensors = {}
    tree = pack(np.zeros(1) if kind == "array" else np.float64(0), "x", tensors)
    tree[kind][-2] = "|O"
    with pytest.raises(ValueError, match="dtype"):
        unpack(tree, tensors)


def calling():
    return TransformReward(gymnasium.make("CartPole-v1"), abs)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (calling, r"TransformReward has no get_state\(\) and set_state\(\)"),
        (type("Plain", (gymnasium.Env,), {}), "Plain has no get_state"),
        (lambda: make_vecenv("CartPole-v1", 1, vectorization="async"), "AsyncVectorEnv has no"),
        (type("Half", (gymnasium.Env,), {"set_state": print}), "Half has no get_state"),
    ],
)
def test_an_env_that_does_not_offer_its_state_is_named(make, text):
    env = make()
    with pytest.raises(EnvError, match=text):
        get_state(env)
    env.close()


def test_a_subclass_of_a_known_env_is_not_taken_for_it():
    subclass = type("Windy", (gymnasium.make("CartPole-v1").unwrapped.__class__,), {})
    with pytest.raises(EnvError, match="Windy has no get_state"):
        get_state(subclass())


def test_the_state_of_another_env_is_refused():
    one, other = gymnasium.make("CartPole-v1"), gymnasium.make("Pendulum-v1")
    one.reset(seed=0), other.reset(seed=0)
    with pytest.raises(EnvError, match=r"belongs to .*TimeLimit in .*CartPoleEnv; this env is "):
        set_state(other, get_state(one))


@pytest.mark.parametrize("state", [7, [["training_toys.Clock", {}]], [["a"]], None])
def test_a_state_that_makes_no_sense_is_an_error_of_ours(state):
    with pytest.raises(EnvError, match=r"The saved state of training_toys\.Clock can't be used"):
        set_state(Clock([(4, "t")]), state)


def test_methods_that_raise_are_errors_that_name_the_env(monkeypatch):
    env = Offering([(4, "t")])
    with pytest.raises(EnvError, match=r"state of .*Offering can't be used: KeyError"):
        set_state(env, get_state(env))
    monkeypatch.setattr(Offering, "get_state", lambda self: 1 / 0)
    with pytest.raises(EnvError, match=r"get_state\(\) of .*Offering failed: ZeroDivisionError"):
        get_state(env)
