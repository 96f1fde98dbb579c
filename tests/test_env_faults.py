"""Whatever an env does wrong is one clear error that names it: no hang, no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from plain_policies import Plain
from training_toys import Clock

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, EnvError, TrainingError
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.faults import closing
from puffer_policies.vector.gymnasium_envs import GymVecEnv

WAYS = [SyncVectorEnv, AsyncVectorEnv]
SCHEDULE = [(4, "t")]


class Broken(Exception):
    def __init__(self, left, right):
        super().__init__(f"{left}|{right}")


def local_error(text):
    class Local(Exception):
        pass

    return Local(text)


ERRORS = {
    "one line": lambda: KeyError("no such unit"),
    "more lines": lambda: RuntimeError("\n  first\nsecond"),
    "another gymnasium's": lambda: gymnasium.error.ResetNeeded("reset me"),
    "of two arguments": lambda: Broken("a", "b"),
    "that can't be pickled": lambda: local_error("far away"),
    "that ends Python": lambda: SystemExit(0),
}


class Raises(Clock):
    kind = "one line"

    def step(self, action):
        if self.time == 2:
            raise ERRORS[self.kind]()
        return super().step(action)


class RaisesInReset(Clock):
    def reset(self, *, seed=None, options=None):
        if self.episode == 0:
            raise RuntimeError("no licence left")
        return super().reset(seed=seed)


class OldStep(Clock):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class OldReset(Clock):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoSeed(Clock):
    def reset(self):
        return super().reset()


class Grows(Clock):
    def _shown(self):
        return np.zeros(2 + (self.time == 2), np.float32)


class Speaks(Clock):
    def _shown(self):
        return "two" if self.time == 2 else super()._shown()


class ManyRewards(Clock):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward, reward]), *rest


class Dies(Clock):
    def step(self, action):
        if self.time == 2:
            os._exit(3)
        return super().step(action)


class IsKilled(Clock):
    def step(self, action):
        if self.time == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def fault_of(way, env_class, mode=AutoresetMode.NEXT_STEP, *, after=0, timeout=0.0):
    """Step copy 1, which is at fault, into its error, and close the envs; some stand after it."""
    makers = [lambda: Clock(SCHEDULE), lambda: env_class(SCHEDULE)]
    makers += [lambda: Clock(SCHEDULE)] * after
    env = GymVecEnv(way(makers, autoreset_mode=mode), timeout=timeout)
    with pytest.raises(EnvError) as caught:
        _play(env)
    env.close()
    env.close()
    assert not multiprocessing.active_children()
    return str(caught.value)


def _play(env):
    env.reset(seed=0)
    for _ in range(8):
        env.step(np.zeros(env.num_envs, dtype=np.int64))


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_step_names_the_env_the_step_and_the_place(way):
    told = fault_of(way, Raises)
    assert "Env 1 of 2 failed in step 3: KeyError: 'no such unit'." in told
    assert f"{__file__}:" in told


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("more lines", "Env 1 of 2 failed in step 3: RuntimeError: first."),
        ("another gymnasium's", "Env 1 of 2 failed in step 3: ResetNeeded: reset me."),
    ],
)
def test_of_an_error_of_any_kind_the_first_line_is_told(way, kind, text, monkeypatch):
    monkeypatch.setattr(Raises, "kind", kind)
    assert text in fault_of(way, Raises)


@pytest.mark.parametrize("kind", ["of two arguments", "that can't be pickled"])
def test_an_error_that_can_not_leave_its_process_hangs_nothing(kind, monkeypatch, capfd):
    monkeypatch.setattr(Raises, "kind", kind)
    monkeypatch.setattr("puffer_policies.vector.faults.PATIENCE", 0.5)
    assert "an exception that can't be" in fault_of(AsyncVectorEnv, Raises)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_the_first_reset_is_told_as_such(way):
    class NeverStarts(Clock):
        def reset(self, *, seed=None, options=None):
            raise RuntimeError("no licence")

    assert "Env 1 of 2 failed in reset(): RuntimeError: no licence." in fault_of(way, NeverStarts)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_a_later_reset_is_told_in_every_autoreset_mode(way, mode):
    if mode is AutoresetMode.DISABLED and way is AsyncVectorEnv:
        mode = AutoresetMode.NEXT_STEP  # gymnasium's workers do not take masks
    told = fault_of(way, RaisesInReset, mode)
    assert "Env 1 of 2 failed in step " in told
    assert "no licence left" in told


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("env_class", "text", "expected"),
    [
        (OldStep, "not enough values to unpack", "step(action) must return (observation, reward,"),
        (OldReset, "items", "reset(*, seed=None, options=None) must return (observation, info)"),
        (NoSeed, "unexpected keyword argument", "reset(*, seed=None, options=None) must return"),
        (Grows, "shape", "Box(shape=(2,), dtype=float32)"),
        (Speaks, "", "Box(shape=(2,), dtype=float32)"),
        (ManyRewards, "setting an array element with a sequence", "must return (observation, "),
    ],
)
def test_what_is_returned_wrongly_is_told_with_what_was_expected(way, env_class, text, expected):
    told = fault_of(way, env_class)
    assert text in told
    assert expected in told
    assert "of 2" in told.split(" failed in ")[0]


def test_sys_exit_is_a_fault_of_the_env_that_calls_it(monkeypatch):
    monkeypatch.setattr(Raises, "kind", "that ends Python")
    assert "Env 1 of 2 failed in step 3: SystemExit: 0." in fault_of(SyncVectorEnv, Raises)
    # A worker leaves as it was told to.
    text = fault_of(AsyncVectorEnv, Raises)
    assert "Env 1 of 2 died in step 3: its process left with exit code 0." in text


@pytest.mark.parametrize("way", WAYS)
def test_an_env_that_hangs_is_named_after_the_timeout(way):
    class Hangs(Clock):
        def step(self, action):
            if self.time == 2:
                threading.Event().wait()
            return super().step(action)

    text = fault_of(way, Hangs, after=1, timeout=0.3)
    assert "Env 1 of 3 hangs in step 3: no answer within 0.3 s (vec.timeout)." in text
    place = f"It was at {__file__}:" if way is SyncVectorEnv else "the error also names the line"
    assert place in text


def test_workers_leave_the_signals_of_a_terminal_to_the_main_process():
    env = make_vecenv("CartPole-v1", 1, vectorization="async")
    env.reset(seed=0)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(worker.pid, number)
    env.step(np.zeros(1, dtype=np.int64))
    env.close()


def test_a_timeout_needs_the_main_thread():
    errors = []

    def make():
        try:
            make_vecenv("CartPole-v1", timeout=1.0)
        except ConfigError as error:
            errors.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


def test_an_interrupt_ends_the_workers_of_envs_and_says_where_they_were():
    class Hangs(Clock):
        def step(self, action):
            threading.Event().wait()

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGUSR2, interrupt)
    env = GymVecEnv(AsyncVectorEnv([lambda: Clock(SCHEDULE), lambda: Hangs(SCHEDULE)]))
    try:
        env.reset(seed=0)
        main = threading.main_thread().ident
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR2)).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            env.step(np.zeros(2, dtype=np.int64))
    finally:
        signal.signal(signal.SIGUSR2, before)
        env.close()
    assert caught.value.__notes__ == ["Env 1 of 2 was in step 1."]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("way", WAYS)
def test_an_env_that_fails_to_close_takes_no_result_away(way):
    class FailsInClose(Clock):
        def close(self):
            raise RuntimeError("no connection")

    env = GymVecEnv(way([lambda: Clock(SCHEDULE), lambda: FailsInClose(SCHEDULE)]))
    failures = []
    with pytest.warns(RuntimeWarning, match="Env 1 of 2"), closing(env, failures):
        env.reset(seed=0)
    assert "close()" in failures[0]
    assert not multiprocessing.active_children()


def test_of_an_error_and_a_failure_to_close_the_error_is_raised():
    class FailsInClose(Clock):
        def close(self):
            sys.exit(0)

    env = GymVecEnv(SyncVectorEnv([lambda: FailsInClose(SCHEDULE)]))
    with pytest.raises(ValueError, match="the error"), closing(env):
        raise ValueError("the error")


def test_an_env_that_hangs_in_close_is_named(monkeypatch):
    class HangsInClose(Clock):
        def close(self):
            threading.Event().wait()

    monkeypatch.setattr("puffer_policies.vector.faults.CLOSING", 0.3)
    for way in WAYS:
        env = GymVecEnv(way([lambda: Clock(SCHEDULE), lambda: HangsInClose(SCHEDULE)]))
        env.reset(seed=0)
        with pytest.raises(EnvError, match=r"Env 1 of 2 hangs in close\(\)"):
            env.close()
        assert not multiprocessing.active_children()


def test_a_copy_out_of_its_bounds_is_not_blamed_for_the_shape_of_another():
    class OutOfBounds(Clock):
        def _shown(self):
            return np.full(2, 1e9, np.float32)

    env = GymVecEnv(
        SyncVectorEnv([partial(each, SCHEDULE) for each in (OutOfBounds, Grows, Clock, Clock)])
    )
    with pytest.raises(EnvError, match="Env 1 of 4 failed in step 2"):
        _play(env)


@pytest.mark.parametrize("env_class", [Raises, OldStep, Grows, Speaks])
def test_the_copy_at_fault_is_named_wherever_it_stands(env_class):
    assert fault_of(SyncVectorEnv, env_class, after=1).startswith("Env 1 of 3 failed in ")


@pytest.mark.parametrize(
    ("env_class", "text"), [(Dies, "exit code 3"), (IsKilled, "ended by SIGKILL")]
)
def test_a_worker_that_dies_is_told_and_hangs_nothing(env_class, text):
    told = fault_of(AsyncVectorEnv, env_class)
    assert "Env 1 of 2 died in step 3" in told
    assert text in told


@pytest.mark.parametrize("way", WAYS)
def test_an_env_that_fails_in_close_too_does_not_hide_its_first_error(way):
    class FailsTwice(Raises):
        def close(self):
            raise RuntimeError("and again")

    assert "no such unit" in fault_of(way, FailsTwice)


@pytest.mark.parametrize("way", WAYS)
def test_wider_numbers_than_the_space_has_are_brought_to_its_dtype(way):
    class Wide(Clock):
        def _shown(self):
            return super()._shown().astype(np.float64 if self.time == 2 else np.float32)

    env = GymVecEnv(way([lambda: Wide(SCHEDULE)]))
    env.reset(seed=0)
    shown = [env.step(np.zeros(1, dtype=np.int64)).observations for _ in range(3)]
    env.close()
    assert [each.dtype for each in shown] == [np.float32] * 3


class NotANumber(Clock):
    where = "reward"

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.time == 2:
            reward = np.nan if self.where == "reward" else reward
            observation = observation * (np.nan if self.where == "observation" else 1)
        return observation, reward, *rest


@pytest.mark.parametrize("where", ["reward", "observation"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_number_ends_training_and_is_named(way, where, monkeypatch):
    monkeypatch.setattr(NotANumber, "where", where)
    makers = [lambda: Clock(SCHEDULE), lambda: NotANumber(SCHEDULE)]
    env = GymVecEnv(way(makers))
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(bptt_horizon=8, seed=3), env, Plain(env))
    with pytest.raises(TrainingError, match=rf"{where}.* = nan at step \d of env 1"):
        trainer.collect()
    trainer.close()


class Unmade(Clock):
    """Fails to be made: at once, in a worker process, or by spaces that differ between copies."""

    count = 0

    def __init__(self, why="", schedule=((4, "t"),)):
        super().__init__(schedule)
        Unmade.count += 1
        in_worker = multiprocessing.parent_process() is not None
        if why == "always" or (why == "in a worker" and in_worker):
            raise RuntimeError("no display\nfound")
        if why == "spaces":
            self.observation_space = spaces.Box(-1, 1, (2 + Unmade.count,), np.float32)
        if why == "actions":
            self.action_space = spaces.Discrete(2 + Unmade.count)


@pytest.fixture
def unmade():
    env_id = "UnmadeOfTheTests-v0"
    gymnasium.register(env_id, entry_point=Unmade, disable_env_checker=True)
    yield env_id
    del gymnasium.registry[env_id]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("always", "RuntimeError: no display"),
        ("in a worker", "EOFError|ConnectionResetError|BrokenPipeError"),
        ("spaces", "observation space"),
        ("actions", "action space"),
    ],
)
def test_envs_that_can_not_be_made_are_told_and_leave_no_process(
    unmade, why, text, vectorization, capfd
):
    if why == "in a worker" and vectorization == "sync":
        make_vecenv(unmade, 2, vectorization="sync", env_kwargs={"why": why}).close()
        return
    if why in ("spaces", "actions") and vectorization == "async":
        text = f"{text}|different"
    with pytest.raises(EnvError, match=f"Making 2 of '{unmade}' with .*: .*({text})"):
        make_vecenv(unmade, 2, vectorization=vectorization, env_kwargs={"why": why})
    assert not multiprocessing.active_children()
