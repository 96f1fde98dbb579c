"""Vector envs behind our protocol: ends, restarts and ghosts, in every autoreset mode."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from training_toys import MODES, Clock, clocks

from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.vector.factory import as_vecenv, make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv

STAY = np.zeros(1, dtype=np.int64)


def steps_of(mode, schedule, count):
    env = clocks(mode, [schedule])
    first = np.copy(env.reset(seed=0))
    return first, [env.step(STAY) for _ in range(count)]


@pytest.mark.parametrize("mode", MODES)
def test_the_first_observation_of_an_episode_is_marked_and_no_other(mode):
    _, steps = steps_of(mode, [(2, "t"), (3, "c")], 12)
    times = [(step.observations[0, 1], bool(step.starts[0])) for step in steps]
    assert [time == 0 for time, _ in times] == [start for _, start in times]


@pytest.mark.parametrize("mode", MODES)
def test_terminated_and_truncated_are_told_apart(mode):
    _, steps = steps_of(mode, [(2, "t"), (3, "c")], 12)
    ends = [(bool(s.terminated[0]), bool(s.truncated[0])) for s in steps if s.done[0]]
    assert ends[:3] == [(True, False), (False, True), (True, False)]


def test_only_next_step_has_ghosts_and_they_pay_nothing():
    for mode in MODES:
        _, steps = steps_of(mode, [(2, "t")], 9)
        ghosts = [step for step in steps if step.ghost[0]]
        assert len(ghosts) == (3 if mode is AutoresetMode.NEXT_STEP else 0)
        assert all(step.rewards[0] == 0 and step.starts[0] for step in ghosts)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_the_final_observation_is_given_beside_the_first_of_the_next_episode(mode):
    _, steps = steps_of(mode, [(2, "c"), (3, "c")], 2)
    assert steps[0].final_observations is None
    np.testing.assert_array_equal(steps[1].final_observations, [[0, 2]])
    np.testing.assert_array_equal(steps[1].observations, [[1, 0]])


class Nested(Clock):
    observation_space = spaces.Dict(
        b=spaces.Box(-9, 9, (2,), np.float32), a=spaces.Tuple([spaces.Discrete(9)])
    )

    def _shown(self):
        return {"a": (self.time,), "b": super()._shown()}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_final_observations_keep_the_structure_of_the_space(mode):
    makers = [lambda: Nested([(2, "c")]), lambda: Nested([(5, "c")])]
    env = GymVecEnv(SyncVectorEnv(makers, autoreset_mode=mode))
    env.reset(seed=0)
    env.step(np.zeros(2, dtype=np.int64))
    final = env.step(np.zeros(2, dtype=np.int64)).final_observations
    assert final["a"][0][0] == 2
    np.testing.assert_array_equal(final["b"][0], [0, 2])


class ClearedByReset(SyncVectorEnv):
    """Returns its own arrays, and a restart clears their rows, as in batched simulators."""

    def step(self, actions):
        observations, *outcome, infos = super().step(actions)
        self.outcome = outcome
        return observations, *outcome, infos

    def reset(self, *, seed=None, options=None):
        if options is not None:
            for each in self.outcome:
                each[options["reset_mask"]] = 0
        return super().reset(seed=seed, options=options)


def test_a_restart_of_ours_changes_nothing_of_the_step_before_it():
    make = [lambda: Clock([(2, "t"), (3, "c")])]
    one, other = (
        GymVecEnv(each(make, autoreset_mode=AutoresetMode.DISABLED))
        for each in (SyncVectorEnv, ClearedByReset)
    )
    assert np.array_equal(one.reset(seed=0), other.reset(seed=0))
    for _ in range(8):
        a, b = one.step(STAY), other.step(STAY)
        for name in ("observations", "rewards", "terminated", "truncated", "starts"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_actions_reach_the_env_as_members_of_its_space():
    seen = []

    class Shifted(Clock):
        action_space = spaces.Discrete(3, start=5)

        def step(self, action):
            seen.append(int(action))
            return super().step(action)

    env = GymVecEnv(SyncVectorEnv([lambda: Shifted([(3, "t")])]))
    env.reset()
    env.step(np.array([2]))
    assert seen == [7]


def test_a_native_vector_env_is_preferred():
    assert not isinstance(make_vecenv("CartPole-v1", 3).env, SyncVectorEnv)
    assert isinstance(make_vecenv("CartPole-v1", 3, vectorization="sync").env, SyncVectorEnv)
    assert isinstance(make_vecenv("Pendulum-v1", 3).env, SyncVectorEnv)


def test_arguments_reach_the_env():
    env = make_vecenv("Pendulum-v1", 1, env_kwargs={"g": 3.0})
    assert env.env.envs[0].unwrapped.g == 3.0


def test_an_unknown_env_suggests_a_near_id():
    with pytest.raises(EnvError, match="CartPole"):
        make_vecenv("CartPoel-v1")


def test_wrong_arguments_of_an_env_are_told():
    with pytest.raises(EnvError, match=r"Pendulum-v1.*gravity"):
        make_vecenv("Pendulum-v1", env_kwargs={"gravity": 1})


def test_wrong_ways_to_run_envs_are_refused():
    with pytest.raises(ConfigError, match="vectorization"):
        make_vecenv("CartPole-v1", vectorization="threads")
    with pytest.raises(ConfigError, match="num_envs"):
        make_vecenv("CartPole-v1", 0)


def test_an_env_that_hides_its_way_to_restart_is_refused():
    env = SyncVectorEnv([lambda: Clock([(1, "t")])])
    env.metadata = {}
    with pytest.raises(EnvError, match="autoreset_mode"):
        GymVecEnv(env)


def test_what_is_a_vector_env_already_is_taken_as_one():
    env = gymnasium.make_vec("CartPole-v1", 2)
    ours = as_vecenv(env)
    assert ours.num_agents == 2
    assert as_vecenv(ours) is ours
    assert as_vecenv("CartPole-v1").driver_env.single_action_space.n == 2
    with pytest.raises(EnvError, match="not a vector environment"):
        as_vecenv(object())
