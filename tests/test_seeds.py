"""Seeds: every copy, process and purpose has a stream of its own, and neighbors share none."""

from __future__ import annotations

import itertools
import random
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from agent_toys import Clocks, FakeNative
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from pufferlib_toys import FakeSerial
from training_toys import SCHEDULES, Clock, Guess

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.runs.setup import prepare_process
from puffer_policies.train.distributed import World
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv, make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.parallel_envs import ParallelVecEnv
from puffer_policies.vector.seeds import Stream, base_seed, spawn_seeds

NEIGHBORS = range(1, 9)


def test_seeds_of_neighbors_and_of_other_uses_differ():
    keys = [(), (Stream.ENVS,), (Stream.ENVS, 0), (Stream.ENVS, 1), (Stream.ACTIONS, 1)]
    seeds = [spawn_seeds(seed, 64, *key) for seed, key in itertools.product(NEIGHBORS, keys)]
    flat = list(itertools.chain.from_iterable(seeds))
    assert len(set(flat)) == len(flat)
    assert max(flat) < 2**31 <= 2 * max(flat)
    assert spawn_seeds(3, 5) == spawn_seeds(3, 64)[:5]
    assert base_seed(2**32 - 1) < 2**30


@pytest.mark.parametrize("seed", [-1, 1.5, "1"])
def test_what_is_not_a_seed_is_refused_in_words(seed):
    with pytest.raises(ConfigError, match=r"The seed is [^\n]*\nUse a whole number from 0 on"):
        make_vecenv("CartPole-v1").reset(seed=seed)


class Recorder:
    """Notes the seeds that envs are reset with."""

    def __init__(self):
        self.seeds = []

    def gymnasium(self):
        seeds = self.seeds

        class Env(Guess):
            def reset(self, *, seed=None, options=None):
                seeds.append(seed)
                return super().reset(seed=seed)

        return Env()

    def parallel(self):
        env = Clocks({"one": SCHEDULES[0]})
        env.seeds = self.seeds
        return env

    def one_call(self, env):
        """`env` with every seed noted that it is reset with as a whole."""
        reset = env.async_reset
        env.async_reset = lambda seed: (self.seeds.append(seed), reset(seed))
        return env


class Wrapped(VectorWrapper):
    """Passes everything on."""


ADAPTERS = {
    "sync": lambda r: GymVecEnv(SyncVectorEnv([r.gymnasium] * 8)),
    "wrapped": lambda r: GymVecEnv(Wrapped(SyncVectorEnv([r.gymnasium] * 8))),
    "function": lambda r: as_vecenv(r.gymnasium, 8),
    "parallel": lambda r: ParallelVecEnv([r.parallel() for _ in range(8)]),
    "pufferlib": lambda r: as_vecenv(
        FakeSerial([partial(Clock, SCHEDULES[0]), r.gymnasium, r.gymnasium])
    ),
    "pufferlib_native": lambda r: as_vecenv(r.one_call(FakeNative(SCHEDULES))),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_neighboring_seeds_share_no_env(kind):
    runs = []
    for seed in NEIGHBORS:
        recorder = Recorder()
        env = ADAPTERS[kind](recorder)
        recorder.seeds.clear()  # gymnasium resets envs while it makes them
        env.reset(seed=seed)
        runs.append([each for each in recorder.seeds if each is not None])
        env.close()
    seeds = list(itertools.chain.from_iterable(runs))
    assert len(seeds) >= len(runs)
    assert len(set(seeds)) == len(seeds)
    assert all(type(each) is int and 0 <= each < 2**31 for each in seeds)


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_one_seed_gives_the_same_envs_again_and_another_one_none_of_them(vectorization):
    env = make_vecenv("CartPole-v1", 8, vectorization=vectorization)
    first, again, other = (env.reset(seed=each).copy() for each in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not {tuple(row) for row in first} & {tuple(row) for row in other}
    env.close()


class Seeds:
    """A `VecEnv` around another one that notes its seeds."""

    def __init__(self, env):
        self._env, self.seeds = env, []

    def __getattr__(self, name):
        return getattr(self._env, name)

    def reset(self, *, seed=None):
        self.seeds.append(seed)
        return self._env.reset(seed=seed)


def test_runs_processes_and_restarts_share_neither_envs_nor_actions():
    envs, actions = [], []
    for seed, rank in itertools.product((1, 2, 3), (0, 1)):
        env = Seeds(make_vecenv("CartPole-v1", 2))
        config = TrainConfig(seed=seed, bptt_horizon=4)
        trainer = Trainer(config, env, get_policy("Default", env))
        trainer.world = World(rank=rank, size=1)
        for trainer.epoch in range(3):
            trainer.reseed()
            trainer.restart_episodes()
            actions.append(trainer.generator.initial_seed())
        envs += env.seeds[1:]
        trainer.close()
    assert len({*envs, *actions}) == len(envs) + len(actions) == 36


def test_the_global_generators_of_processes_differ():
    def draws(seed, rank):
        prepare_process(TrainConfig(seed=seed), World(rank=rank, size=2))
        return random.random(), np.random.random(), float(torch.rand(()))

    numbers = [draws(seed, rank) for seed in (1, 2) for rank in (0, 1)]
    assert draws(1, 0) == numbers[0]
    assert len(set(itertools.chain.from_iterable(numbers))) == 12


def test_gymnasium_still_numbers_copies_from_a_single_seed():
    """Why copies get a list: once gymnasium spawns their seeds itself, ours can go."""
    recorder = Recorder()
    env = gymnasium.vector.SyncVectorEnv([recorder.gymnasium] * 3)
    env.reset(seed=5)
    assert recorder.seeds[-3:] == [5, 6, 7]
    env.close()
