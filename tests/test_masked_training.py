"""Training and evaluation under masks: no illegal action, the same masks in rollout and update."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from masked_toys import LAMPS, Lamps, LampsInInfo, LampsInObservation, lamps
from training_toys import MODES, guesses, one_thread_seed, update

from puffer_policies import get_policy
from puffer_policies.config.schema import EvalConfig, TrainConfig
from puffer_policies.errors import ContractError, EnvError
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.runs.snapshot import put_snapshot, take_snapshot, with_envs
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv

pytestmark = pytest.mark.trainer

CONFIG = TrainConfig(bptt_horizon=16, total_timesteps=144, learning_rate=1e-2, seed=2)
STACKS = [
    "ActionMaskWrapper(Default)",
    "LSTMWrapper(ActionMaskWrapper(Default))",
    "ActionMaskWrapper(LSTMWrapper(Default))",
]


@pytest.fixture(autouse=True)
def _nothing_pressed_in_the_dark() -> None:
    for kind in (Lamps, *LAMPS):
        kind.illegal = 0


def trainer_of(vecenv: Any, stack: str, config: TrainConfig = CONFIG) -> Trainer:
    one_thread_seed(config.seed)
    return Trainer(config, vecenv, get_policy(stack, vecenv))


# How an env gives masks depends on the mode; where the wrapper stands is the policy's own affair.
@pytest.mark.parametrize(
    ("stack", "kind", "mode"),
    [
        *((STACKS[1], kind, mode) for kind in LAMPS for mode in MODES),
        *((stack, LampsInInfo, MODES[0]) for stack in (STACKS[0], STACKS[2])),
    ],
)
def test_no_illegal_action_is_ever_taken(stack: str, kind: Any, mode: AutoresetMode) -> None:
    trainer = trainer_of(lamps(kind, mode, cut=mode is AutoresetMode.SAME_STEP), stack)
    for _ in range(2):
        logs = update(trainer)
    assert logs["environment/episode_length"] == 4
    assert kind.illegal == 0


def test_a_mask_in_the_observation_is_taken_out_by_the_wrapper_with_a_key() -> None:
    stack = "LSTMWrapper(ActionMaskWrapper(Default, key='action_mask'))"
    trainer = trainer_of(lamps(LampsInObservation), stack)
    update(trainer)
    assert list(trainer.policy.unwrapped.spaces.observation.spaces) == ["time"]
    assert LampsInObservation.illegal == 0


@pytest.mark.parametrize(
    ("stack", "mode"),
    [*((STACKS[1], mode) for mode in MODES), (STACKS[0], MODES[0]), (STACKS[2], MODES[0])],
)
def test_the_update_scores_actions_under_the_masks_of_the_rollout(
    stack: str, mode: AutoresetMode
) -> None:
    trainer = trainer_of(lamps(LampsInInfo, mode, cut=True), stack)
    torch.nn.init.normal_(trainer.policy.unwrapped.actor.linear.weight)
    for _ in range(2):
        rollout = trainer.collect()
        segments = trainer.estimate(rollout).segments
        new = trainer.ppo.predict(segments)[1]
        old = segments.transitions
        torch.testing.assert_close(new.log_probs, old.log_probs, atol=1e-5, rtol=1e-5)
        assert not rollout.extras["action_mask"].all()


def test_evaluation_heeds_masks() -> None:
    vecenv = lamps(LampsInInfo)
    policy = get_policy(STACKS[1], vecenv)
    evaluation = evaluate(policy, vecenv, EvalConfig(episodes=12, deterministic=False))
    assert evaluation.lengths == (4,) * 12
    assert LampsInInfo.illegal == 0


def test_a_wrapper_that_finds_no_mask_says_where_one_can_come_from() -> None:
    vecenv = guesses()
    with pytest.raises(ContractError, match="found no action mask"):
        trainer_of(vecenv, STACKS[1]).collect()
    with pytest.raises(ContractError, match="found no action mask"):
        evaluate(get_policy(STACKS[0], vecenv), vecenv, EvalConfig(episodes=1))


def test_masks_that_nobody_reads_are_pointed_out_once() -> None:
    with pytest.warns(UserWarning, match="ActionMaskWrapper"):
        trainer = trainer_of(lamps(LampsInInfo), "LSTMWrapper(Default)")
    trainer.learn(trainer.estimate(trainer.collect()))  # pytest makes errors of further warnings


def test_a_policy_that_says_it_reads_masks_is_not_warned_of() -> None:
    vecenv = lamps(LampsInInfo)
    policy = get_policy("Default", vecenv)
    policy.needs_mask = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(CONFIG, vecenv, policy)


def test_a_masked_game_of_memory_is_solved_without_one_illegal_action() -> None:
    one_thread_seed(1)
    vecenv = make_vecenv("puffer_policies/MaskedRecall-v0", 32, env_kwargs={"delay": 2})
    policy = get_policy("LSTMWrapper(ActionMaskWrapper(Default(hidden_size=32)))", vecenv)
    config = TrainConfig(
        total_timesteps=10_240,
        bptt_horizon=16,
        learning_rate=1e-2,
        ent_coef=0.005,
        seed=1,
    )
    trainer = Trainer(config, vecenv, policy)
    while not trainer.finished:
        update(trainer)
        # An illegal action ends a game before its fourth step.
        assert set(trainer.collector.episodes.lengths) <= {4}
    evaluation = evaluate(policy, vecenv, EvalConfig(episodes=100))
    assert evaluation.mean > 0.95


def test_without_its_mask_the_same_game_hardly_gets_to_the_question() -> None:
    vecenv = make_vecenv("puffer_policies/MaskedRecall-v0", 8, env_kwargs={"delay": 2})
    with pytest.warns(UserWarning, match="ActionMaskWrapper"):
        trainer = trainer_of(vecenv, "LSTMWrapper(Default)")
    trainer.collect()
    assert np.mean(trainer.collector.episodes.lengths) < 2


def test_a_row_without_options_is_named_on_the_host_before_the_policy_sees_it() -> None:
    class Dark(LampsInInfo):
        def _light(self) -> None:
            self.lit[:] = self.time == 0

    trainer = trainer_of(lamps(Dark), STACKS[0])
    with pytest.raises(EnvError, match=r"Env 0 of 3 .* allows nothing"):
        trainer.collect()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_policy_heeds_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puffer_policies.train.carry.BACKEND", "eager")
    config = dataclasses.replace(CONFIG, compile=True)
    trainer = trainer_of(lamps(LampsInInfo), STACKS[0], config)
    for _ in range(2):
        update(trainer)
    assert LampsInInfo.illegal == 0


@pytest.mark.parametrize("kind", LAMPS)
def test_a_run_goes_on_bit_for_bit_under_the_same_masks(kind: Any) -> None:
    trainer, other = (trainer_of(lamps(kind), STACKS[1]) for _ in range(2))
    update(trainer)
    snapshot = with_envs(take_snapshot(trainer), trainer)
    assert put_snapshot(other, snapshot, path="state", owner=None) == ""
    expected, actual = trainer.collect(), other.collect()
    assert torch.equal(expected.actions, actual.actions)
    assert torch.equal(expected.extras["action_mask"], actual.extras["action_mask"])
