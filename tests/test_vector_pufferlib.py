"""PufferLib's vector envs: what is taken over, and what is refused. See test_vector_adapters."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from agent_toys import Clocks, FakeNative
from pufferlib_toys import FakeSerial
from training_toys import SCHEDULES, Clock

from puffer_policies import pufferl
from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import EnvError
from puffer_policies.vector.factory import as_vecenv
from puffer_policies.vector.puffer_envs import PufferVecEnv

SHORT, LONG = [(2, "t")], [(5, "c")]


def serial():
    return FakeSerial([partial(Clock, each) for each in SCHEDULES])


def test_a_vector_env_of_pufferlib_is_taken_as_it_is():
    env = serial()
    ours = as_vecenv(env)
    assert isinstance(ours, PufferVecEnv)
    assert (ours.num_envs, ours.num_agents) == (2, 2)
    assert ours.driver_env is env.driver_env
    assert ours.single_action_space == Clock.action_space
    ours.close()
    assert env.closed


def test_pufferlibs_trainer_of_ours_takes_it():
    args = pufferl.load_config("CartPole-v1")
    args["train"] |= {"bptt_horizon": 8, "total_timesteps": 16}
    env = serial()
    trainer = pufferl.PuffeRL(args["train"], env, get_policy("Default", env.driver_env))
    trainer.evaluate()
    assert np.isfinite(trainer.train()["losses/total"])
    trainer.close()


def test_rows_that_are_masked_out_are_ghosts():
    env = as_vecenv(FakeSerial([lambda: Clocks({"short": SHORT, "long": LONG})]))
    env.reset(seed=0)
    ghosts, starts = [], []
    for _ in range(8):
        step = env.step(np.zeros(2, dtype=np.int64))
        ghosts.append(step.ghost.tolist())
        starts.append(step.starts.tolist())
    dead, both = [True, False], [True, True]
    assert ghosts == [[False] * 2] * 2 + [dead] * 3 + [both] + [[False] * 2] * 2
    assert starts == [[False] * 2] * 5 + [both] + [[False] * 2] * 2


def test_masked_rows_of_a_native_env_are_ghosts_too():
    env = FakeNative(SCHEDULES)
    ours = as_vecenv(env)
    ours.reset()
    env.masks[1] = False
    step = ours.step(np.zeros(2, dtype=np.int64))
    assert step.ghost.tolist() == [False, True]
    assert step.rewards.tolist() == [1, 0]


def test_a_seed_decides_what_is_shown():
    class Seeded(Clock):
        def reset(self, *, seed=None, options=None):
            shown, infos = super().reset(seed=seed)
            return shown + self.np_random.integers(1000), infos

    env = as_vecenv(FakeSerial([partial(Seeded, LONG)] * 2))
    first = np.copy(env.reset(seed=4))
    assert first[0, 0] != first[1, 0]
    assert (np.copy(env.reset(seed=5)) != first).any()
    assert np.isfinite(env.reset()).all()
    np.testing.assert_array_equal(env.reset(seed=4), first)


def test_a_batch_of_some_agents_is_refused():
    env = serial()
    env.agents_per_batch = 1
    with pytest.raises(EnvError, match=r"returns 1 of its 2 agents(.|\n)*batch_size=num_envs"):
        as_vecenv(env)


def test_agents_in_another_order_are_refused():
    env = serial()
    env.agent_ids = env.agent_ids[::-1]
    with pytest.raises(EnvError, match="another order"):
        as_vecenv(env).reset(seed=0)


def test_an_error_names_the_step():
    class Fails(Clock):
        def step(self, action):
            raise KeyError("no such unit")

    env = as_vecenv(FakeSerial([partial(Fails, LONG)]))
    env.reset(seed=0)
    with pytest.raises(EnvError, match="failed in step 1: KeyError: 'no such unit'"):
        env.step(np.zeros(1, dtype=np.int64))
