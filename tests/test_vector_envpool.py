"""EnvPool's envs: the training data are gymnasium's, ghosts apart, and mistakes are told."""

from __future__ import annotations

import dataclasses
import sys

import gymnasium
import numpy as np
import pytest
import torch
from plain_policies import Plain

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import EnvError, MissingDependency
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv

pytest.importorskip("envpool")

CONFIG = TrainConfig(bptt_horizon=64, scale_rewards=False, seed=3)


def pool(env_id="CartPole-v1", num_envs=3, **env_kwargs):
    env = make_vecenv(env_id, num_envs, vectorization="envpool", env_kwargs=env_kwargs)
    env.reset(seed=5)
    return env


def rollout_of(env):
    torch.manual_seed(0)
    trainer = Trainer(CONFIG, env, Plain(env))
    rollout = trainer.collect()
    # The observation after the last step, which the next rollout would begin with.
    following = trainer.collector.state_dict()["next_step"]["observation.0"]
    trainer.close()
    return rollout, torch.cat([rollout.observations, following[None]]).numpy()


def test_every_step_that_is_trained_on_is_one_of_gymnasiums_cart_pole():
    rollout, observations = rollout_of(pool(max_episode_steps=20))
    cart = gymnasium.make("CartPole-v1").unwrapped
    trained, length = 0, np.zeros(3, dtype=int)
    for t, env in np.ndindex(rollout.ghost.shape):
        if rollout.ghost[t, env]:
            length[env] = 0
            assert np.abs(observations[t + 1, env]).max() <= 0.05  # where episodes begin
            continue
        cart.reset()
        cart.state = observations[t, env].astype(float)
        shown, reward, terminated, *_ = cart.step(int(rollout.actions[t, env]))
        length[env] += 1
        np.testing.assert_allclose(observations[t + 1, env], shown, atol=1e-5)
        assert rollout.rewards[t, env] == reward
        # EnvPool tells a fall in the last allowed step as a cut.
        assert rollout.terminated[t, env] == (terminated and length[env] < 20)
        assert rollout.done[t, env] == (terminated or length[env] == 20)
        trained += 1
    assert trained > 150
    assert rollout.done.sum() > 5


def test_a_cut_episode_counts_the_value_of_its_final_observation_and_an_ended_one_does_not():
    env = pool(max_episode_steps=12)
    torch.manual_seed(0)
    trainer = Trainer(CONFIG, env, Plain(env))
    rollout = trainer.collect()
    advantages = trainer.estimate(rollout).advantages
    kinds = set()
    for t, row in np.argwhere(rollout.done[:-1]):
        # The ghost step after it begins at the final observation.
        final = trainer.policy.forward_eval(rollout.observations[t + 1, row])[1].item()
        ahead = 0.0 if rollout.terminated[t, row] else CONFIG.gamma * final
        expected = rollout.rewards[t, row] + ahead - rollout.values[t, row].item()
        assert advantages[t, row] == pytest.approx(expected, abs=1e-5)
        kinds.add(bool(rollout.terminated[t, row]))
    assert kinds == {True, False}
    trainer.close()


def test_the_ghosts_are_the_steps_after_ends_and_pay_nothing():
    rollout, _ = rollout_of(pool())
    np.testing.assert_array_equal(rollout.ghost[1:], rollout.done[:-1])
    assert not rollout.rewards[rollout.ghost].any()
    assert not rollout.done[rollout.ghost].any()
    np.testing.assert_array_equal(rollout.starts[1:].numpy(), rollout.ghost[:-1])


def test_a_seed_decides_what_is_shown_and_without_one_the_envs_go_on():
    env = pool()
    first, second = np.copy(env.reset(seed=7)), np.copy(env.reset())
    assert (first != second).any()
    np.testing.assert_array_equal(env.reset(seed=7), first)
    assert (env.reset(seed=8) != first).any()
    assert len({tuple(row) for row in first.tolist()}) == 3


def test_double_precision_reaches_the_policy_as_float32(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it stands
    env = pool("Ant-v4", num_envs=1)
    assert env.single_observation_space.dtype == np.float64
    actions = np.full((1, 8), 5.0, np.float32)  # clipped to the space
    assert env.step(actions).observations.dtype == np.float64
    config = dataclasses.replace(CONFIG, bptt_horizon=4)
    trainer = Trainer(config, env, ContinuousPlain(env))
    assert trainer.collect().observations.dtype is torch.float32
    trainer.close()


class ContinuousPlain(Plain):
    def __init__(self, env):
        super().__init__(Narrow(env.single_observation_space.shape[0]))
        self.size = env.single_action_space.shape[0]

    def forward_eval(self, observations, state=None):
        _, values = super().forward_eval(observations)
        zeros = torch.zeros(len(observations), self.size)
        return torch.distributions.Normal(zeros, zeros + 1), values


class Narrow:
    single_action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size):
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (size,))


def test_an_unknown_env_suggests_a_near_id():
    with pytest.raises(EnvError, match=r"no env 'CartPoel-v1'(.|\n)*'CartPole-v1'"):
        pool("CartPoel-v1")


def test_wrong_options_are_told():
    with pytest.raises(EnvError, match=r"'num_thread'(.|\n)*'num_threads'"):
        pool(num_thread=2)
    for ours in ("seed", "batch_size", "num_envs"):
        with pytest.raises(EnvError, match=f"sets '{ours}'"):
            make_vecenv("CartPole-v1", vectorization="envpool", env_kwargs={ours: 1})
    with pytest.raises(EnvError, match="EnvPool can't make 'CartPole-v1' with"):
        pool(num_threads="many")


def test_envs_of_several_agents_are_refused():
    with pytest.raises(EnvError, match="played by 2 agents"):
        pool("Backgammon-v1")


def test_the_extra_is_named_where_envpool_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingDependency, match=r"puffer-policies\[envpool\]"):
        pool()
