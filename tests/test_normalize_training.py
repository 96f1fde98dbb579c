"""Training on normalized observations: when statistics change, from what, and what for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_policies import Plain
from training_toys import MODES, Guess, clocks, one_thread_seed, run

from puffer_policies import get_policy
from puffer_policies.config.load import load_config
from puffer_policies.config.schema import EvalConfig, TrainConfig
from puffer_policies.errors import BuildError, ConfigError, IncompatibleSpace
from puffer_policies.runs.evaluate import evaluate, evaluate_checkpoint
from puffer_policies.runs.run import train_from_config
from puffer_policies.runs.setup import policy_of
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.normalize import NormalizeObservationWrapper

pytestmark = pytest.mark.trainer

NAME = "NormalizeObservationWrapper"
CONFIG = TrainConfig(
    bptt_horizon=16, total_timesteps=96, normalize_observations=True, anneal_lr=False, seed=4
)
STACKS = [f"{NAME}(Default)", f"LSTMWrapper({NAME}(Default))", f"{NAME}(LSTMWrapper(Default))"]


def trainer_of(vecenv: Any, stack: str, config: TrainConfig = CONFIG) -> Trainer:
    one_thread_seed(config.seed)
    return Trainer(config, vecenv, get_policy(stack, vecenv))


def statistics(policy: Any) -> Any:
    (wrapper,) = (m for m in policy.modules() if isinstance(m, NormalizeObservationWrapper))
    return wrapper.moments[0]


@pytest.mark.parametrize(
    ("stack", "mode"),
    [*((STACKS[0], mode) for mode in MODES), (STACKS[1], MODES[0]), (STACKS[2], MODES[0])],
)
def test_statistics_are_of_all_that_was_acted_on_and_change_after_the_update(
    stack: str, mode: AutoresetMode
) -> None:
    trainer = trainer_of(clocks(mode), stack)
    moments, observations = statistics(trainer.policy), []
    while not trainer.finished:
        before = moments.mean.clone()
        rollout = trainer.collect()
        observations.append(rollout.observations[torch.from_numpy(~rollout.ghost)].clone())
        assert torch.equal(moments.mean, before)
        trainer.learn(trainer.estimate(rollout))
    everything = torch.cat(observations).double()
    assert float(moments.count) == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, everything.var(0, correction=0), rtol=1e-10)


@pytest.mark.parametrize("stack", STACKS)
def test_the_first_epochs_ratio_is_one_in_every_rollout(stack: str) -> None:
    trainer = trainer_of(clocks(AutoresetMode.NEXT_STEP), stack)
    for _ in range(3):
        rollout = trainer.collect()
        batch = trainer.estimate(rollout)
        new = trainer.ppo.predict(batch.segments)[1]
        old = batch.segments.transitions
        torch.testing.assert_close(new.log_probs, old.log_probs, atol=1e-5, rtol=1e-5)
        trainer.learn(batch)


class FarAway(Guess):
    """Shows its bit as 5000 or 5001."""

    observation_space = spaces.Box(0, 9999, (1,), np.float32)

    def _draw(self) -> np.ndarray:
        return 5000 + super()._draw()


@pytest.mark.parametrize(("normalize", "solved"), [(True, True), (False, False)])
def test_small_differences_far_from_zero_are_learned_only_if_normalized(
    normalize: bool, solved: bool
) -> None:
    vecenv = GymVecEnv(SyncVectorEnv([FarAway] * 8, autoreset_mode=AutoresetMode.NEXT_STEP))
    config = dataclasses.replace(
        CONFIG, total_timesteps=2_048, learning_rate=1e-2, normalize_observations=normalize
    )
    trainer = trainer_of(vecenv, STACKS[0] if normalize else "Default", config)
    run(trainer)
    evaluation = evaluate(trainer.policy, vecenv, EvalConfig(episodes=50))
    assert (evaluation.mean > 3.9) == solved


def config_of(*flags: str, folder: Path) -> Any:
    short = ["--train.total-timesteps", "256", "--train.bptt-horizon", "16", "--eval.episodes", "5"]
    return load_config("CartPole-v1", [*short, "--train.data-dir", str(folder), *flags])


SET = ("--train.normalize-observations", "True")


def test_the_option_puts_the_wrapper_right_around_the_policy(tmp_path: Path) -> None:
    names = ("--policy-name", "LSTMWrapper(Default)")
    policy = policy_of(config_of(*SET, *names, folder=tmp_path), "CartPole-v1")
    names_of_wrappers = [wrapper.name.rpartition("/")[2] for wrapper in policy.spec.wrappers]
    assert names_of_wrappers == [NAME, "LSTMWrapper"]
    plain = policy_of(config_of(*names, folder=tmp_path), "CartPole-v1")
    assert len(plain.spec.wrappers) == 1


def test_the_option_and_the_wrapper_together_are_refused(tmp_path: Path) -> None:
    config = config_of(*SET, "--policy-name", f"{NAME}(Default)", folder=tmp_path)
    with pytest.raises(BuildError, match="forbids 'normalized'"):
        policy_of(config, "CartPole-v1")


def test_a_policy_that_would_ignore_the_option_is_refused() -> None:
    vecenv = clocks(AutoresetMode.NEXT_STEP)
    with pytest.raises(ConfigError, match="normalizes nothing"):
        Trainer(CONFIG, vecenv, Plain(vecenv))


def test_a_runs_checkpoint_plays_as_the_run_did(project: Path) -> None:
    result = train_from_config(config_of(*SET, folder=project), display="quiet")
    assert result.evaluation is not None
    again = evaluate_checkpoint(result.folder)
    assert again.returns == result.evaluation.returns


class Bits(Guess):
    observation_space = spaces.MultiBinary(1)


def test_an_env_without_real_numbers_is_refused_by_the_option(tmp_path: Path) -> None:
    vecenv = GymVecEnv(SyncVectorEnv([Bits]))
    with pytest.raises(IncompatibleSpace, match="nothing to normalize"):
        policy_of(config_of(*SET, folder=tmp_path), vecenv)
