"""Breakout keeps gymnasium's rules and its own."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from puffer_policies.envs.breakout import (
    LIVES,
    MAX_EPISODE_STEPS,
    BreakoutEnv,
    BreakoutVectorEnv,
    Field,
)
from puffer_policies.envs.factory import register_envs
from puffer_policies.errors import EnvError

ENV_ID = "puffer_policies/Breakout-v0"


@pytest.fixture(autouse=True)
def registered():
    register_envs()


def follow(observations):
    """Move the paddle to where the ball is."""
    distance = observations[:, 1] - observations[:, 0]
    return np.where(np.abs(distance) < 0.06, 0, np.where(distance < 0, 1, 2))


def mean_return(act, *, num_envs=64, steps=2500):
    env = BreakoutVectorEnv(num_envs)
    observations, _ = env.reset(seed=0)
    running, finished = np.zeros(num_envs), []
    for _ in range(steps):
        observations, rewards, terminated, truncated, _ = env.step(act(observations))
        running += rewards
        done = terminated | truncated
        finished += running[done].tolist()
        running[done] = 0
    return np.mean(finished)


def test_registering_twice_is_registering_once():
    before = gymnasium.spec(ENV_ID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert gymnasium.spec(ENV_ID) is before


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasiums_checker_passes(render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ENV_ID, render_mode=render_mode).unwrapped)


def test_make_vec_takes_the_native_vector_env():
    env = gymnasium.make_vec(ENV_ID, num_envs=3)
    assert isinstance(env.unwrapped, BreakoutVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, _ = env.reset(seed=0)
    assert observations.dtype == np.float32
    assert env.observation_space.contains(observations)


def test_one_seed_makes_one_game():
    actions = np.random.default_rng(0).integers(0, 3, (300, 4))

    def play(seed):
        env = BreakoutVectorEnv(4)
        return [env.reset(seed=seed)[0], *(env.step(each)[0] for each in actions)]

    assert all(np.array_equal(a, b) for a, b in zip(play(5), play(5), strict=True))
    assert not np.array_equal(play(5)[-1], play(6)[-1])


def test_a_single_game_is_a_vector_of_one():
    single, vector = BreakoutEnv(), BreakoutVectorEnv(1)
    observation, _ = single.reset(seed=3)
    observations, _ = vector.reset(seed=3)
    for action in np.random.default_rng(1).integers(0, 3, 500):
        np.testing.assert_array_equal(observation, observations[0])
        observation, reward, terminated, *_ = single.step(int(action))
        observations, rewards, terminations, *_ = vector.step(np.array([action]))
        assert (reward, terminated) == (rewards[0], terminations[0])
        if terminated:
            return
    pytest.fail("random play ends within 500 steps")


def test_the_step_after_an_end_is_a_first_observation_without_reward():
    env = BreakoutVectorEnv(8)
    env.reset(seed=0)
    ended = np.zeros(8, dtype=bool)
    for _ in range(600):
        observations, rewards, terminated, truncated, _ = env.step(np.ones(8, dtype=np.int64))
        assert (rewards[ended] == 0).all()
        assert not (terminated | truncated)[ended].any()
        assert (observations[ended][:, 5:] == 1).all()  # all lives, all bricks
        ended = terminated | truncated
        assert (observations[terminated][:, 5] == 0).all()


def test_a_time_limit_truncates():
    env = BreakoutVectorEnv(2, max_episode_steps=7)
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, dtype=np.int64))[3].all() for _ in range(15)]
    assert [step for step, flag in enumerate(flags, start=1) if flag] == [7, 15]
    single = gymnasium.make(ENV_ID)
    assert single.spec.max_episode_steps == MAX_EPISODE_STEPS


def test_an_episode_ends_when_the_bricks_are_gone():
    field = Field(1, np.random.default_rng(0))
    assert not field.over[0]
    field.bricks[:] = False
    assert field.over[0]
    assert field.lives[0] == LIVES


def test_each_brick_is_worth_one_and_goes():
    env = BreakoutVectorEnv(16)
    before, _ = env.reset(seed=0)
    for _ in range(100):
        after, rewards, *_ = env.step(follow(before))
        np.testing.assert_array_equal(before[:, 6:].sum(1) - after[:, 6:].sum(1), rewards)
        before = after
    assert (before[:, 6:].sum(1) < 50).all()


def test_skill_pays():
    random = np.random.default_rng(0)
    assert mean_return(lambda each: random.integers(0, 3, len(each))) < 2
    assert mean_return(follow) > 40


def test_observations_stay_in_their_space_and_are_new_arrays():
    env = BreakoutVectorEnv(32)
    previous, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    for _ in range(500):
        observations, *_ = env.step(random.integers(0, 3, 32))
        assert env.observation_space.contains(observations)
        assert not np.shares_memory(observations, previous)
        previous = observations


def test_pictures_show_the_game():
    env = gymnasium.make(ENV_ID, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (160, 160, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 7  # black, white, five lines of bricks


@pytest.mark.parametrize(
    "actions", [np.zeros(3, int), np.zeros(2), np.array([0, 3]), np.array([-1, 0])]
)
def test_wrong_actions_are_errors(actions):
    env = BreakoutVectorEnv(2)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="actions"):
        env.step(actions)


def test_stepping_before_reset_is_an_error():
    with pytest.raises(EnvError, match="reset"):
        BreakoutVectorEnv(1).step(np.zeros(1, int))
