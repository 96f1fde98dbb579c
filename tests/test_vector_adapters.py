"""Every kind of vector env gives the same training data, from envs whose true values are known."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from agent_toys import FakeNative, together
from gymnasium.vector import AutoresetMode
from plain_policies import Plain, Split
from pufferlib_toys import FakeSerial
from training_toys import MODES, SCHEDULES, Clock, clocks

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv
from puffer_policies.wrappers.memory import LSTMWrapper

STEPS = 32
CONFIG = TrainConfig(bptt_horizon=STEPS, minibatch_size=STEPS, scale_rewards=False, seed=3)


def lstm(env):
    return LSTMWrapper(env, Split(env))


def parallel(schedules):
    return as_vecenv(together(schedules))


def parallel_copies(schedules):
    """Each agent alone in an env of its own."""
    remaining = iter(schedules)
    return as_vecenv(lambda: together([next(remaining)]), len(schedules))


def puffer(schedules):
    return as_vecenv(FakeSerial([partial(Clock, each) for each in schedules]))


def puffer_agents(schedules):
    return as_vecenv(FakeSerial([lambda: together(schedules)]))


def puffer_native(schedules):
    return as_vecenv(FakeNative(schedules))


GYMNASIUM = {mode.name: partial(clocks, mode) for mode in MODES}
OTHERS = {each.__name__: each for each in (parallel, parallel_copies, puffer, puffer_agents)}
ALL = {**GYMNASIUM, **OTHERS, "puffer_native": puffer_native}
SHOW_THE_FINAL = {**GYMNASIUM, **OTHERS}
ONLY_ENDS = [[(length, "t") for length, _ in each] for each in SCHEDULES]


def trainer_of(make, env, config=CONFIG):
    torch.manual_seed(0)
    return Trainer(config, env, make(env))


def transitions_of(make, env):
    """Whole episodes by row: (episode, time, reward, value, advantage, terminated, done, start)."""
    trainer = trainer_of(make, env)
    rollout = trainer.collect()
    advantages = trainer.estimate(rollout).advantages
    columns = [
        *rollout.observations.unbind(-1),
        rollout.rewards,
        rollout.values,
        advantages,
        rollout.terminated,
        rollout.done,
        rollout.starts,
    ]
    table = np.stack([np.asarray(each, dtype=float) for each in columns], axis=-1)
    rows = [table[~rollout.ghost[:, i], i] for i in range(table.shape[1])]
    trainer.close()
    return [row[: np.flatnonzero(row[:, 6])[-1] + 1] for row in rows]


def assert_same(first, second):
    """Compare two runs as far as both go, up to the last end that lies well within the rollout."""
    for one, other in zip(first, second, strict=True):
        ends = min(int(each[:, 6].sum()) for each in (one, other)) - 1
        length = np.flatnonzero(one[:, 6])[ends - 1] + 1
        assert ends >= 3
        np.testing.assert_allclose(one[:length], other[:length], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Plain, lstm])
@pytest.mark.parametrize("kind", OTHERS)
def test_training_data_are_those_of_gymnasium(kind, make):
    reference = transitions_of(make, clocks(AutoresetMode.SAME_STEP))
    assert_same(reference, transitions_of(make, OTHERS[kind](SCHEDULES)))


@pytest.mark.parametrize("make", [Plain, lstm])
def test_training_data_of_native_puffer_envs_are_those_of_gymnasium_where_nothing_is_cut(make):
    reference = transitions_of(make, clocks(AutoresetMode.SAME_STEP, ONLY_ENDS))
    assert_same(reference, transitions_of(make, puffer_native(ONLY_ENDS)))


def played(env, steps=20):
    """What each row showed before each step, and the step that answered."""
    shown = np.copy(env.reset(seed=0))
    for _ in range(steps):
        step = env.step(np.zeros(env.num_agents, dtype=np.int64))
        yield shown, step
        shown = np.copy(step.observations)
    env.close()


@pytest.mark.parametrize("kind", ALL)
def test_terminated_and_truncated_are_told_apart(kind):
    schedule = [(2, "t"), (3, "c"), (2, "tc")]
    ends = []
    for _, step in played(ALL[kind]([schedule, [(9, "t")]])):
        assert not (step.done & step.ghost).any()
        if step.done[0]:
            ends.append((bool(step.terminated[0]), bool(step.truncated[0])))
    cut = (kind == "puffer_native", True)  # it can't show where it was cut: an end
    assert ends[:2] == [(True, False), cut]


@pytest.mark.parametrize("kind", ALL)
def test_rewards_and_observations_belong_to_the_steps_that_were_taken(kind):
    for shown, step in played(ALL[kind](SCHEDULES)):
        took = ~step.ghost
        np.testing.assert_array_equal(step.rewards[took], shown[took, 1] + 1)
        assert not step.rewards[step.ghost].any()
        goes_on = took & ~step.done
        np.testing.assert_array_equal(step.observations[goes_on, 1], shown[goes_on, 1] + 1)


@pytest.mark.parametrize("kind", ALL)
def test_the_first_observation_of_an_episode_is_marked(kind):
    plays = np.ones(2, dtype=bool)
    for _, step in played(ALL[kind](SCHEDULES)):
        plays = (plays & ~step.ghost & ~step.done) | step.starts
        np.testing.assert_array_equal(step.starts[plays], step.observations[plays, 1] == 0)
        assert not (step.starts & ~plays).any()


@pytest.mark.parametrize("kind", SHOW_THE_FINAL)
@pytest.mark.parametrize("make", [Plain, lstm])
def test_a_cut_episode_counts_the_value_of_its_final_observation_and_an_ended_one_does_not(
    kind, make
):
    env = SHOW_THE_FINAL[kind]([[(3, "c"), (3, "t")], [(5, "t"), (4, "c")]])
    trainer = trainer_of(make, env)
    rollout = trainer.collect()
    advantages = trainer.estimate(rollout).advantages
    for row in range(2):
        for t in np.flatnonzero(rollout.done[:, row])[:2]:
            ahead = 0.0
            if not rollout.terminated[t, row]:
                ahead = CONFIG.gamma * _value_of_final(trainer.policy, rollout, t, row)
            expected = rollout.rewards[t, row] + ahead - rollout.values[t, row].item()
            assert advantages[t, row] == pytest.approx(expected, abs=1e-5)
    trainer.close()


def _value_of_final(policy, rollout, t, row):
    """Replay the episode that ended at `t` from its start, by a fresh state."""
    start = max(s for s in range(t + 1) if rollout.starts[s, row])
    episode = rollout.observations[start : t + 1, row]
    final = torch.tensor([episode[0, 0].item(), rollout.rewards[t, row]])  # (episode, time)
    state = {"episode_start": torch.tensor([True])}
    with torch.no_grad():
        for observation in [*episode, final]:
            _, value = policy.forward_eval(observation[None], state)
            state["episode_start"] = torch.tensor([False])
    return value.item()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("make", [Plain, lstm])
def test_what_is_learned_does_not_depend_on_ghosts(kind, make):
    config = dataclasses.replace(CONFIG, bptt_horizon=8, batch_size=2 * STEPS, minibatch_size=16)
    trainer = trainer_of(make, ALL[kind]([[(1, "c"), (2, "t")], [(9, "t")]]), config)
    rollout = trainer.collect()
    batch = trainer.estimate(rollout)
    old = batch.segments.transitions
    new = trainer.ppo.predict(batch.segments)[1]
    torch.testing.assert_close(new.values, old.values)
    assert int(old.weights.sum()) == int((~rollout.ghost).sum())
    # Most of row 0 is padding where it waits for row 1: whole minibatches may be.
    assert np.isfinite(trainer.learn(batch)["losses/total"])
    assert all(each.isfinite().all() for each in trainer.policy.parameters())
    trainer.close()
