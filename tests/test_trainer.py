"""The trainer: its arithmetic, its schedule, its repeatability, and that it learns."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from plain_policies import Plain, Split
from training_toys import MODES, clocks, guesses, run, update, weights

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import CheckpointError, ConfigError, TrainingError
from puffer_policies.nn.cores.fused import FusedCore
from puffer_policies.runs.metrics import MetricsLog
from puffer_policies.runs.snapshot import put_snapshot, take_snapshot, with_envs
from puffer_policies.train.alarms import Alarm, Watch
from puffer_policies.train.plan import make_plan
from puffer_policies.train.returns import explained_variance
from puffer_policies.train.trainer import Trainer
from puffer_policies.wrappers.memory import GRUWrapper, LSTMWrapper

CONFIG = TrainConfig(total_timesteps=256, bptt_horizon=16, learning_rate=1e-2, seed=5)


def trainer_of(env=None, config=CONFIG, make=Plain):
    torch.manual_seed(config.seed)
    env = env or guesses()
    return Trainer(config, env, make(env))


def test_auto_sizes_follow_from_agents_and_horizon():
    plan = make_plan(CONFIG, 4, recurrent=True)
    assert (plan.batch_size, plan.minibatch_size, plan.segment) == (64, 16, 16)
    assert (plan.num_steps, plan.segments_per_minibatch, plan.num_updates) == (16, 1, 4)
    assert make_plan(CONFIG, 4, recurrent=False).segments_per_minibatch == 16


@pytest.mark.parametrize("agents", [1, 3, 5, 7, 64])
@pytest.mark.parametrize("recurrent", [True, False])
def test_auto_sizes_always_divide(agents, recurrent):
    plan = make_plan(CONFIG, agents, recurrent=recurrent)
    assert plan.batch_size % plan.minibatch_size == 0
    assert plan.minibatch_size % plan.segment == 0


def test_sizes_that_do_not_divide_are_told_with_their_arithmetic_and_all_at_once():
    config = dataclasses.replace(CONFIG, batch_size=90, minibatch_size=50)
    with pytest.raises(ConfigError) as caught:
        make_plan(config, 4, recurrent=True)
    text = str(caught.value)
    assert "90 / 4 agents = 22.5" in text
    assert "90 / train.minibatch_size 50 = 1.8" in text
    assert "50 / train.bptt_horizon 16 = 3.125" in text


@pytest.mark.parametrize("batch_size", [90, 8])
def test_an_automatic_minibatch_ends_where_segments_do_not_divide_the_batch(batch_size):
    config = dataclasses.replace(CONFIG, batch_size=batch_size)
    with pytest.raises(ConfigError, match="bptt_horizon 16 does not divide"):
        make_plan(config, 2, recurrent=True)


def test_it_learns_to_name_what_it_sees():
    config = dataclasses.replace(CONFIG, total_timesteps=4_096)
    logs = run(trainer_of(guesses(8), config))
    assert logs["environment/episode_return"] > 3.6


@pytest.mark.parametrize("make", [Plain, lambda env: LSTMWrapper(env, Split(env))])
def test_one_seed_gives_one_result(make):
    first, second = (trainer_of(make=make) for _ in range(2))
    run(first), run(second)
    assert torch.equal(weights(first), weights(second))
    other = trainer_of(config=dataclasses.replace(CONFIG, seed=6), make=make)
    run(other)
    assert not torch.equal(weights(first), weights(other))


def lay_out_columns_first(policy):
    for each in policy.parameters():
        if each.ndim == 2:
            each.data = each.detach().t().contiguous().t()
            each.grad.data = each.grad.t().contiguous().t()  # as `policy.to(memory_format=...)`


def test_parameters_may_be_laid_out_anew_between_updates():
    ours, theirs = trainer_of(), trainer_of()
    update(ours), update(theirs)
    lay_out_columns_first(ours.policy)
    for _ in range(2):
        update(ours), update(theirs)
    torch.testing.assert_close(weights(ours), weights(theirs))


def test_a_policy_of_which_all_is_frozen_later_is_told_so():
    trainer = trainer_of()
    update(trainer)
    trainer.policy.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        update(trainer)


def test_the_learning_rate_falls_linearly_or_stays():
    trainer, rates = trainer_of(), []
    while not trainer.finished:
        rates.append(update(trainer)["learning_rate"])
    np.testing.assert_allclose(rates, [1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    constant = trainer_of(config=dataclasses.replace(CONFIG, anneal_lr=False))
    assert run(constant)["learning_rate"] == 1e-2


def test_updates_beyond_the_planned_ones_never_climb_the_loss():
    trainer = trainer_of(config=dataclasses.replace(CONFIG, anneal_clip=True))
    run(trainer)
    before = weights(trainer)
    for _ in range(2):
        assert update(trainer)["learning_rate"] == 0
    assert torch.equal(weights(trainer), before)


def test_logs_count_steps_updates_and_finished_episodes():
    logs = run(trainer_of())
    assert (logs["agent_steps"], logs["epoch"]) == (256, 4)
    assert logs["environment/episode_length"] == 4
    assert logs["environment/episodes"] == 4 * 13  # 4 steps and a ghost: ends after 4, 9, .. 64
    assert logs["SPS"] > 0


def test_raw_rewards_are_reported_though_scaled_ones_are_learned():
    trainer = trainer_of(clocks(AutoresetMode.SAME_STEP, [[(3, "t")]]))
    logs = run(trainer)
    assert logs["environment/episode_return"] == 1 + 2 + 3
    assert trainer.reward_scale.factor != 1


@pytest.mark.parametrize("vtrace", [None, 1.0])
@pytest.mark.parametrize("wrapper", [LSTMWrapper, GRUWrapper])
def test_a_memory_that_empties_itself_in_ghosts_learns_what_it_learns_otherwise(
    wrapper, vtrace, monkeypatch
):
    results, config = [], dataclasses.replace(CONFIG, vtrace_rho_clip=vtrace)
    for empties in (True, False):
        if not empties:
            monkeypatch.setattr(FusedCore, "_emptied", lambda *_: None)
        env = clocks(AutoresetMode.NEXT_STEP)
        trainer = trainer_of(env, config, make=lambda env: wrapper(env, Split(env)))
        for _ in range(2):
            rollout = trainer.collect()
            assert rollout.ghost.any()
            trainer.learn(trainer.estimate(rollout))
        results.append(weights(trainer))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [Plain, lambda env: LSTMWrapper(env, Split(env))])
def test_nothing_is_learned_from_ghosts(make):
    def trained(spoil):
        trainer = trainer_of(clocks(AutoresetMode.NEXT_STEP), make=make)
        rollout = trainer.collect()
        ghost = torch.from_numpy(rollout.ghost)
        assert 0 < ghost.sum() < ghost.numel()
        rollout.actions[ghost] = (rollout.actions[ghost] + spoil) % 2
        rollout.log_probs[ghost] += 0.3 * spoil
        rollout.values[ghost] += 5.0 * spoil
        logs = trainer.learn(trainer.estimate(rollout))
        return weights(trainer), logs["losses/explained_variance"]

    (clean, explained), (spoilt, explained_too) = trained(0), trained(1)
    assert torch.equal(clean, spoilt)
    assert explained == explained_too


def test_a_small_target_divergence_stops_the_epochs():
    def steps_of(target):
        config = dataclasses.replace(CONFIG, target_kl=target, learning_rate=0.1)
        trainer = trainer_of(config=config)
        update(trainer)
        (state, *_) = trainer.ppo.optimizer.state_dict()["state"].values()
        return int(state["step"])

    assert steps_of(1e-9) < steps_of(None) == 16


def test_a_loss_that_is_not_finite_names_its_parts():
    trainer = trainer_of(config=dataclasses.replace(CONFIG, learning_rate=1e38, max_grad_norm=1e30))
    with pytest.raises(TrainingError, match=r"update 1: total.*parameters.*net\.0\.weight"):
        update(trainer)


def test_metrics_are_strict_json_even_where_numbers_are_not_finite(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"loss": float("nan"), "evaluation": {"mean": float("inf"), "episodes": 2}})
    log.close()
    line = json.loads(log.path.read_text(), parse_constant=pytest.fail)
    assert line == {"loss": None, "evaluation": {"mean": None, "episodes": 2}}
    assert np.isnan(explained_variance(np.zeros(0), np.zeros(0)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_told_in_one_message():
    log = MetricsLog(Path("/dev/full"))
    with pytest.raises(TrainingError, match=r"/dev/full can't be written.*No space left"):
        log.write({"loss": 1.0})
    log.close()


def test_a_batch_whose_rollout_was_overwritten_is_refused():
    trainer = trainer_of()
    batch = trainer.estimate(trainer.collect())
    trainer.collect()
    with pytest.raises(TrainingError, match=r"a later collect\(\) has overwritten"):
        trainer.learn(batch)


@pytest.mark.parametrize(
    ("make", "mode"),
    [*((lambda env: LSTMWrapper(env, Split(env)), mode) for mode in MODES), (Plain, MODES[0])],
)
def test_a_resumed_trainer_equals_the_uninterrupted_one(make, mode):
    config = dataclasses.replace(CONFIG, update_epochs=2)

    def fresh():
        return trainer_of(clocks(mode), config, make)

    whole, before, after = fresh(), fresh(), fresh()
    run(whole)
    for _ in range(3):
        update(before)
    snapshot = with_envs(take_snapshot(before), before)
    torch.manual_seed(99)
    assert put_snapshot(after, snapshot, path="there", owner=None) == ""
    assert after.epoch == 3
    logs = run(after)
    assert torch.equal(weights(after), weights(whole))
    assert logs["environment/episodes"] == whole.collector.episodes.num_finished


def test_a_trainer_goes_on_from_the_state_of_another_in_the_same_envs_at_the_same_step():
    vecenv, whole = clocks(MODES[0]), trainer_of(clocks(MODES[0]))
    run(whole)
    before = trainer_of(vecenv)
    for _ in range(2):
        update(before)
    state = copy.deepcopy(before.state_dict())
    envs, policy = copy.deepcopy(before.vecenv), copy.deepcopy(before.policy)
    after = trainer_of(clocks(MODES[0]))
    after.vecenv.__dict__.update(envs.__dict__)
    after.policy.load_state_dict(policy.state_dict())
    after.load_state_dict(state)
    assert run(after)["environment/episodes"] == whole.collector.episodes.num_finished
    assert torch.equal(weights(after), weights(whole))


def test_an_alarm_stays_reported_in_the_state():
    watch, other = Watch(), Watch()
    watch.new([Alarm("idle", "...")])
    other.load_state_dict(watch.state_dict())
    assert other.new([Alarm("idle", "..."), Alarm("ratio", "...")]) == [Alarm("ratio", "...")]


def test_the_state_of_another_policy_is_refused():
    trainer = trainer_of()
    update(trainer)
    other = trainer_of(make=lambda env: Plain(env, hidden_size=3))
    with pytest.raises(CheckpointError, match="do not fit Plain"):
        put_snapshot(other, take_snapshot(trainer), path="there", owner=None)
