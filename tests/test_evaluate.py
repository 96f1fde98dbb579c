"""Evaluation: whole episodes, none favoured, memory from its start, one result for one seed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from plain_policies import Plain, Split
from training_toys import MODES, Clock, Guess, clocks, guesses

from puffer_policies.config.schema import EvalConfig
from puffer_policies.errors import TrainingError
from puffer_policies.runs import evaluate as module
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.lstm import LSTMWrapper


@pytest.mark.parametrize("mode", MODES)
def test_short_episodes_are_not_favoured(mode):
    env = clocks(mode, [[(1, "t")], [(4, "c")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=6))
    assert told.lengths == (1, 1, 1, 4, 4, 4)
    assert told.returns == (1, 1, 1, 10, 10, 10)
    assert told.mean == 5.5


def test_an_uneven_number_of_episodes_is_played_exactly():
    env = clocks(MODES[0], [[(1, "t")], [(2, "t")], [(3, "t")]])
    assert evaluate(Plain(env), env, EvalConfig(episodes=5)).lengths == (1, 1, 2, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_memory_starts_anew_with_each_episode(mode):
    starts = []

    class Spy(LSTMWrapper):
        def forward_eval(self, observations, state=None):
            starts.extend(zip(observations[:, 1].tolist(), state["episode_start"], strict=True))
            return super().forward_eval(observations, state)

    env = clocks(mode, [[(2, "t"), (3, "c")]])
    evaluate(Spy(env, Split(env)), env, EvalConfig(episodes=5))
    assert all((time == 0) == bool(start) for time, start in starts)


@pytest.mark.parametrize("deterministic", [True, False])
def test_one_seed_gives_one_result(deterministic):
    torch.manual_seed(0)
    env = guesses()
    policy = Plain(env)
    config = EvalConfig(episodes=20, deterministic=deterministic, seed=4)
    assert evaluate(policy, env, config) == evaluate(policy, guesses(), config)


def test_a_state_that_holds_observations_is_no_view_of_the_envs_array():
    steps = []

    class Recalls(Plain):
        def initial_state(self, batch_size, device=None):
            return {"seen": torch.zeros(batch_size, 2)}

        def forward_eval(self, observations, state):
            steps.append((state["seen"][0, 1].item(), observations[0, 1].item()))
            state["seen"] = observations
            return super().forward_eval(observations)

    # Envs without a copy write each observation over the last.
    env = GymVecEnv(SyncVectorEnv([lambda: Clock([(3, "t")])], copy=False))
    evaluate(Recalls(env), env, EvalConfig(episodes=1))
    assert steps == [(0, 0), (0, 1), (1, 2)]


def test_the_likeliest_action_is_taken():
    env = guesses()
    policy = Plain(env)
    with torch.no_grad():
        policy.action_head.weight.zero_()
        policy.action_head.bias.copy_(torch.tensor([0.0, 1e-3]))
    actions = []
    step, env.step = env.step, lambda chosen: actions.extend(chosen.tolist()) or step(chosen)
    evaluate(policy, env, EvalConfig(episodes=4))
    assert set(actions) == {1}


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_put_back(training):
    env = guesses()
    policy = Plain(env).train(training)
    modes = []
    policy.register_forward_hook(lambda *_: None)
    policy.net.register_forward_hook(lambda module, *_: modes.append(module.training))
    evaluate(policy, env, EvalConfig(episodes=1))
    assert not any(modes)
    assert policy.training is training


def test_an_endless_env_ends_at_the_limit(monkeypatch):
    monkeypatch.setattr(module, "STEP_LIMIT", 50)
    env = clocks(MODES[0], [[(1000, "t")], [(10, "t")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=4))
    assert told.lengths == (10, 10)
    assert told.to_dict()["episodes"] == 2
    env = clocks(MODES[0], [[(1000, "t")]])
    told = evaluate(Plain(env), env, EvalConfig(episodes=1))
    assert math.isnan(told.mean)
    assert json.loads(json.dumps(told.to_dict(), allow_nan=False))["mean"] is None


@pytest.mark.parametrize("deterministic", [True, False])
def test_weights_that_are_no_numbers_end_it(deterministic):
    env = guesses()
    policy = Plain(env)
    with torch.no_grad():
        policy.action_head.bias[0] = math.nan
    with pytest.raises(TrainingError, match="no finite number"):
        evaluate(policy, env, EvalConfig(episodes=1, deterministic=deterministic))


def test_a_reward_that_is_no_number_ends_it(monkeypatch):
    env = guesses()
    step = Guess.step

    def paying_nan(guess, action):
        observation, _, *rest = step(guess, action)
        return observation, math.nan, *rest

    monkeypatch.setattr(Guess, "step", paying_nan)
    with pytest.raises(TrainingError, match="reward"):
        evaluate(Plain(env), env, EvalConfig(episodes=1))
