"""The last action and reward reach the policy: in steps and sequences, rollouts and play."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from quick_checks import quick_report
from specimens import ACTIONS, OBSERVATIONS, PAIRS, observation_batch
from torch import nn
from training_toys import MODES, one_thread_seed, run, update

from puffer_policies import Agent
from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import EvalConfig, TrainConfig
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.nn.distributions import distribution
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.runs.snapshot import put_snapshot, take_snapshot, with_envs
from puffer_policies.spaces import Spaces
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv

pytestmark = pytest.mark.trainer

B, T = 4, 5
VECTOR = spaces.Box(-1.0, 1.0, (3,))
NAME = "PrevActionRewardWrapper(Default)"
RL2 = "LSTMWrapper(PrevActionRewardWrapper(Default(hidden_size=32)))"


class Arms(gymnasium.Env[np.ndarray, int]):
    """One of two arms pays 1, another one in each episode; nothing of it is to be seen."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 6, cut: bool = False) -> None:
        self.length, self.cut = length, cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.good = 0, int(self.np_random.integers(2))
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time >= self.length
        pay = float(int(action) == self.good)
        return np.ones(1, np.float32), pay, over and not self.cut, over and self.cut, {}

    def get_state(self):
        random = self.np_random.bit_generator.state
        return {"time": self.time, "good": self.good, "random": random}

    def set_state(self, state):
        self.time, self.good = state["time"], state["good"]
        self.np_random.bit_generator.state = state["random"]


def arms(num_envs: int = 3, mode=AutoresetMode.NEXT_STEP, *, cut: bool = False) -> GymVecEnv:
    makers = [lambda: Arms(cut=cut)] * num_envs
    return GymVecEnv(SyncVectorEnv(makers, autoreset_mode=mode))


def trainer_of(vecenv: GymVecEnv, name: str = RL2, **options) -> Trainer:
    one_thread_seed(2)
    config = TrainConfig(**{"bptt_horizon": 16, "total_timesteps": 480, "seed": 2, **options})
    return Trainer(config, vecenv, get_policy(name, vecenv))


def seen_by(policy: nn.Module, observations, state):
    with torch.no_grad():
        return policy.transform_observations(observations, state)


def test_a_vector_grows_by_the_action_one_hot_and_by_the_reward():
    policy = get_policy(NAME, Spaces(VECTOR, spaces.Discrete(4, start=7)))
    state = {"prev_action": torch.tensor([2, 0]), "prev_reward": torch.tensor([0.5, -3.0])}
    seen = seen_by(policy, torch.zeros(2, 3), state)
    assert seen.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0.5], [0, 0, 0, 1, 0, 0, 0, -3.0]]
    assert policy.unwrapped.spaces.observation.shape == (8,)


@pytest.mark.parametrize(
    ("observation", "action"),
    # Actions are appended to a vector, and stand in a Dict beside any other observation.
    [*PAIRS, *(("dict", action) for action in ACTIONS)],
)
def test_what_a_policy_sees_is_what_it_was_built_for(observation: str, action: str):
    env = Spaces(OBSERVATIONS[observation], ACTIONS[action])
    policy = get_policy("LSTMWrapper(PrevActionRewardWrapper(Default(hidden_size=8)))", env)
    observations, state = observation_batch(env.observation, B), policy.initial_state(B)
    with torch.no_grad():
        logits, _ = policy.forward_eval(observations, state)
        state |= {"prev_action": distribution(logits).sample(), "prev_reward": torch.randn(B)}
        logits, _ = policy.forward_eval(observations, state)
    assert distribution(logits).entropy().isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "LSTMWrapper(PrevActionRewardWrapper(Default))",
        "PrevActionRewardWrapper(LSTMWrapper(Default))",
        "PrevActionRewardWrapper(FrameStackWrapper(Default))",
        "SeparateCriticWrapper(LSTMWrapper(PrevActionRewardWrapper(Default)))",
        "NormalizeObservationWrapper(PrevActionRewardWrapper(Default))",
    ],
)
@pytest.mark.parametrize("action", ["multidiscrete", "box_matrix"])
def test_a_sequence_is_its_steps_wherever_episodes_start(name: str, action: str):
    env = Spaces(VECTOR, ACTIONS[action])
    policy = get_policy(name, env)
    for weight in policy.parameters():
        nn.init.normal_(weight, std=0.3)
    observations, starts = torch.randn(B, T, 3), torch.rand(B, T) < 0.3
    taken = distribution(policy(observations)[0]).sample().unflatten(0, (B, T))
    paid = torch.randn(B, T)
    whole = {"episode_start": starts, "prev_action": taken, "prev_reward": paid}
    logits, values = policy(observations, whole)
    scores, state = distribution(logits).entropy().reshape(B, T), {}
    for t in range(T):
        state |= {"episode_start": starts[:, t]}
        state |= {"prev_action": taken[:, t], "prev_reward": paid[:, t]}
        step, value = policy.forward_eval(observations[:, t], state)
        torch.testing.assert_close(
            values.reshape(B, T)[:, t], value.squeeze(-1), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(scores[:, t], distribution(step).entropy(), atol=1e-4, rtol=1e-4)


def test_at_an_episodes_start_all_is_zero_even_what_was_no_number():
    policy = get_policy(NAME, Spaces(VECTOR, ACTIONS["box"]))
    state = {
        "prev_action": torch.full((2, 2), torch.nan),
        "prev_reward": torch.full((2,), torch.inf),
        "episode_start": torch.tensor([True, True]),
    }
    assert seen_by(policy, torch.zeros(2, 3), state).tolist() == [[0.0] * 6] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [False, True])
def test_a_rollout_holds_what_was_done_and_earned_before(mode, cut: bool):
    trainer = trainer_of(arms(mode=mode, cut=cut))
    first = None
    for _ in range(3):
        rollout = trainer.collect()
        actions, rewards = rollout.actions.clone(), torch.from_numpy(rollout.rewards.copy())
        going_on = ~rollout.starts
        sent = rollout.extras["prev_action"], rollout.extras["prev_reward"]
        for before, now in zip(sent, (actions, rewards), strict=True):
            assert torch.equal(before[1:][going_on[1:]], now[:-1][going_on[1:]])
        if first is not None:  # a rollout goes on where the last one ended
            assert torch.equal(sent[0][0], first[0])
            assert torch.equal(sent[1][0], first[1])
        first = actions[-1], rewards[-1]


@pytest.mark.parametrize("mode", MODES)
def test_the_update_scores_actions_as_they_were_drawn(mode):
    trainer = trainer_of(arms(mode=mode, cut=True))
    torch.nn.init.normal_(trainer.policy.unwrapped.actor.linear.weight)
    for _ in range(2):
        rollout = trainer.collect()
        segments = trainer.estimate(rollout).segments
        new = trainer.ppo.predict(segments)[1]
        torch.testing.assert_close(
            new.log_probs, segments.transitions.log_probs, atol=1e-5, rtol=1e-5
        )


def test_a_run_goes_on_bit_for_bit():
    trainer, other = (trainer_of(arms()) for _ in range(2))
    update(trainer)
    snapshot = with_envs(take_snapshot(trainer), trainer)
    assert put_snapshot(other, snapshot, path="state", owner=None) == ""
    expected, found = trainer.collect(), other.collect()
    assert torch.equal(expected.actions, found.actions)
    for key in ("prev_action", "prev_reward"):
        assert torch.equal(expected.extras[key], found.extras[key])


def test_nothing_is_sent_to_a_policy_that_does_not_read_it():
    assert trainer_of(arms(), "LSTMWrapper(Default)").collect().extras == {}


def test_a_bandit_within_the_episode_is_solved_only_by_who_knows_what_was_paid():
    """The best is 5.5 of 6: one arm is tried, and then the good one drawn."""
    returns = {}
    for name in (RL2, "LSTMWrapper(Default(hidden_size=32))"):
        trainer = trainer_of(
            arms(32),
            name,
            total_timesteps=4_096,
            bptt_horizon=16,
            learning_rate=2e-2,
            ent_coef=0.005,
        )
        run(trainer)
        config = EvalConfig(episodes=100, deterministic=False)
        returns[name] = evaluate(trainer.policy, arms(20), config).mean
        if name == RL2:
            assert played_by(Agent(trainer.policy, trainer.vecenv, deterministic=False)) > 5.0
    assert returns[RL2] > 5.0
    assert returns["LSTMWrapper(Default(hidden_size=32))"] < 3.6


def played_by(agent: Agent, episodes: int = 40) -> float:
    env, total = Arms(), 0.0
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        agent.reset()
        reward, done = None, False
        while not done:
            action = agent.act(observation, reward=reward)
            observation, reward, done, *_ = env.step(action)
            total += reward
    return total / episodes


def test_an_agent_that_is_not_told_the_reward_says_so():
    agent = Agent(get_policy(NAME, Spaces(VECTOR, spaces.Discrete(2))))
    agent.act(np.zeros(3, np.float32))
    with pytest.raises(ContractError, match="reward=reward"):
        agent.act(np.zeros(3, np.float32))
    agent.act(np.zeros(3, np.float32), reward=1.0)
    agent.act(np.zeros(3, np.float32), episode_start=True)


def test_an_agent_of_many_envs_takes_a_reward_of_each():
    agent = Agent(get_policy(NAME, Spaces(VECTOR, ACTIONS["box"])))
    agent.act(np.zeros((3, 3), np.float32))
    assert agent.act(np.zeros((3, 3), np.float32), reward=[1.0, 0.0, 2.0]).shape == (3, 2)


def test_what_does_not_fit_is_refused_by_name():
    env = Spaces(VECTOR, spaces.Discrete(2))
    with pytest.raises(BuildError, match=r"NormalizeObservationWrapper\(PrevActionRewardWrapper"):
        get_policy("PrevActionRewardWrapper(NormalizeObservationWrapper(Default))", env)
    with pytest.raises(BuildError, match="forbids 'needs_previous'"):
        get_policy("PrevActionRewardWrapper(PrevActionRewardWrapper(Default))", env)
    pixels = Spaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(2))
    with pytest.raises(IncompatibleSpace, match="Convolutional"):
        get_policy("PrevActionRewardWrapper(Convolutional)", pixels)
    assert get_policy(NAME, pixels).hidden_size == 128


def test_rows_that_do_not_fit_are_named():
    policy = get_policy(NAME, Spaces(VECTOR, spaces.Discrete(2)))
    state = {"prev_action": torch.zeros(3, dtype=torch.int64), "prev_reward": torch.zeros(3)}
    with pytest.raises(ContractError, match=r"state\['prev_action'\] has shape \(3,\)"):
        policy.forward_eval(torch.zeros(2, 3), state)


def test_a_step_compiles_without_a_break():
    policy = get_policy(
        "LSTMWrapper(PrevActionRewardWrapper(Default))", Spaces(VECTOR, ACTIONS["multidiscrete"])
    )
    state = {
        **policy.initial_state(B),
        "prev_action": torch.zeros(B, 3, dtype=torch.int64),
        "prev_reward": torch.zeros(B),
        "episode_start": torch.ones(B, dtype=torch.bool),
    }
    torch._dynamo.reset()
    explained = torch._dynamo.explain(policy.forward_eval)(torch.randn(B, 3), state)
    assert explained.graph_break_count == 0, explained.break_reasons


def test_every_promise_is_kept():
    env = Spaces(VECTOR, spaces.Discrete(2))
    report = quick_report("LSTMWrapper(PrevActionRewardWrapper(Default))", env)
    assert report.ok, report
