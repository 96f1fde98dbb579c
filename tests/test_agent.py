"""An agent plays as the evaluation does: same returns, same memory, actions the env takes."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_policies import Plain
from training_toys import Clock, Guess, guesses

import puffer_policies
from puffer_policies.agent import Agent
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.load import load_config
from puffer_policies.config.schema import EvalConfig
from puffer_policies.errors import (
    BuildError,
    CheckpointError,
    ContractError,
    IncompatibleSpace,
    TrainingError,
)
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.seeds import spawn_seeds

pytestmark = pytest.mark.trainer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def returns_of(agent, env, episodes, *, seed):
    """Play as a user does, and return what each episode paid."""
    found = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        agent.reset()
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    return tuple(found)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("CartPole-v1", "Default"),
        ("CartPole-v1", "LSTMWrapper(Default(hidden_size=16))"),
        ("Pendulum-v1", "Continuous"),
    ],
)
def test_an_agent_reproduces_the_returns_of_evaluate(env_id, name, deterministic):
    # In NEXT_STEP mode a number is drawn for the step that only restarts, too.
    makers = [lambda: gymnasium.make(env_id)]
    vecenv = GymVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    policy = get_policy(name, vecenv)
    config = EvalConfig(episodes=3, seed=5, deterministic=deterministic)
    told = evaluate(policy, vecenv, config)
    agent = Agent(policy, deterministic=deterministic, seed=5)
    env = gymnasium.make(env_id)
    assert returns_of(agent, env, 3, seed=spawn_seeds(5, 1)[0]) == told.returns
    env.close()
    vecenv.close()


def test_memory_lasts_until_it_is_reset():
    env = gymnasium.make("CartPole-v1")
    agent = Agent(get_policy("LSTMWrapper(Default)", env), deterministic=False)
    observation, _ = env.reset(seed=0)

    def logits(observation):
        """Return what the memory makes of an observation: actions alone could agree by chance."""
        agent.act(observation)
        return agent._carry.tensors["lstm_h"].clone()

    first = logits(observation)
    assert not torch.equal(logits(observation), first)
    agent.reset()
    assert torch.equal(logits(observation), first)
    agent.act(observation)
    agent.act(observation, episode_start=True)
    assert torch.equal(agent._carry.tensors["lstm_h"], first)
    env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
def test_a_batch_acts_as_each_env_by_itself(mode):
    schedules = [[(3, "t"), (2, "c")], [(4, "c"), (1, "t")]]
    envs = SyncVectorEnv([lambda s=each: Clock(s) for each in schedules], autoreset_mode=mode)
    policy = get_policy("LSTMWrapper(Default)", envs)
    agent, alone = Agent(policy), [Agent(policy), Agent(policy)]
    observations, _ = envs.reset(seed=0)
    starts = np.ones(2, dtype=bool)
    for _ in range(12):
        agent.act(observations, episode_start=starts)
        for row, single in enumerate(alone):
            single.act(observations[row], episode_start=starts[row])
            together = agent._carry.tensors["lstm_h"][row]
            torch.testing.assert_close(together, single._carry.tensors["lstm_h"][0])
        observations, *_ = envs.step(np.zeros(2, dtype=int))
        starts = observations[:, 1] == 0  # the clock shows the time
    envs.close()


SPACES = {
    "discrete with a start": (spaces.Box(-1, 1, (3,)), spaces.Discrete(4, start=-2)),
    "multidiscrete": (spaces.Discrete(5), spaces.MultiDiscrete([2, 3])),
    "grid": (spaces.MultiBinary(3), spaces.MultiDiscrete([[2, 3], [4, 5]])),
    "multibinary": (spaces.Box(0, 255, (3, 16, 16), np.uint8), spaces.MultiBinary(4)),
    "box": (
        spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float64), b=spaces.Tuple([spaces.Discrete(2)])),
        spaces.Box(-0.01, 0.01, (2, 1), np.float32),
    ),
    "integers": (spaces.Box(-1, 1, ()), spaces.Box(3, 6, (2,), np.int32)),
}


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", SPACES)
def test_an_action_is_a_member_of_the_space(kind, deterministic):
    both = Spaces(*SPACES[kind])
    agent = Agent(get_policy("Default", both), deterministic=deterministic)
    both.observation.seed(0)
    for _ in range(20):
        action = agent.act(both.observation.sample())
        assert both.action.contains(action), action
    agent.reset()
    batch = gymnasium.vector.utils.batch_space(both.observation, 3)
    batch.seed(0)
    actions = agent.act(batch.sample())
    assert all(both.action.contains(each) for each in actions)
    assert actions.shape == (3, *both.action.shape)


@pytest.mark.parametrize("name", ["Default", "ActionMaskWrapper(LSTMWrapper(Default))"])
def test_a_forbidden_action_is_never_taken(name):
    both = Spaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(4, start=10))
    agent = Agent(get_policy(name, both), deterministic=False)
    mask = np.array([0, 1, 0, 1], np.int8)
    taken = {agent.act(np.zeros(3), action_mask=mask) for _ in range(40)}
    assert taken == {11, 13}
    agent.reset()
    masks = np.eye(4, dtype=bool)
    assert agent.act(np.zeros((4, 3)), action_mask=masks).tolist() == [10, 11, 12, 13]


def test_masks_of_several_choices_stand_side_by_side_or_in_a_tuple():
    both = Spaces(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3]))
    agent = Agent(get_policy("Default", both), deterministic=False)
    for mask in ([0, 1, 0, 0, 1], (np.array([0, 1]), np.array([0, 0, 1]))):
        assert agent.act(np.zeros(3), action_mask=mask).tolist() == [1, 2]


def test_a_mask_that_is_none_is_refused():
    agent = Agent(get_policy("Default", "CartPole-v1"))
    with pytest.raises(IncompatibleSpace, match=r"shape \(3,\) for 1 of Discrete\(2\)"):
        agent.act(np.zeros(4), action_mask=[True] * 3)
    with pytest.raises(IncompatibleSpace, match="allows nothing"):
        agent.act(np.zeros(4), action_mask=[False, False])
    with pytest.raises(IncompatibleSpace, match="0 options"):
        Agent(get_policy("Continuous", "Pendulum-v1")).act(np.zeros(3), action_mask=[True])
    with pytest.raises(ContractError, match="no action mask"):
        Agent(get_policy("ActionMaskWrapper(Default)", "CartPole-v1")).act(np.zeros(4))


def test_float64_and_lists_are_read_as_the_space_says():
    agent = Agent(get_policy("Default", "CartPole-v1"))
    observation = np.array([0.5, -0.25, 0.125, 0.0])
    assert agent.act(observation) == agent.act(observation.tolist())


def test_drawing_has_a_seed_of_its_own():
    policy = get_policy("Default", "CartPole-v1")

    def drawn(seed):
        agent = Agent(policy, deterministic=False, seed=seed)
        return [agent.act(np.zeros(4)) for _ in range(30)]

    before = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_gradient_is_kept_and_the_mode_is_put_back():
    policy = get_policy("LSTMWrapper(Default)", "CartPole-v1").train()
    agent = Agent(policy)
    agent.act(np.zeros(4))
    assert not any(each.requires_grad for each in agent._carry.tensors.values())
    assert all(module.training for module in policy.modules())


def test_a_plain_policy_needs_the_env_beside_it():
    env = guesses()
    assert Agent(Plain(env), env).act(np.ones(1)) in (0, 1)
    with pytest.raises(BuildError, match=r"Agent\(policy, env\)"):
        Agent(Plain(env))


@pytest.mark.parametrize(
    "observation",
    [np.zeros(3), np.zeros((2, 3)), np.zeros((1, 1, 4)), 0.0, "text", {"a": 1}, None],
)
def test_an_observation_of_another_shape_is_refused(observation):
    agent = Agent(get_policy("Default", "CartPole-v1"))
    with pytest.raises(IncompatibleSpace, match="not an observation of Box"):
        agent.act(observation)


def test_a_missing_key_of_an_observation_is_named():
    both = Spaces(spaces.Dict(a=spaces.Box(-1, 1, (2,))), spaces.Discrete(2))
    with pytest.raises(IncompatibleSpace, match="'a'"):
        Agent(get_policy("Default", both)).act({"b": np.zeros(2)})


def test_other_rows_than_before_need_a_reset():
    agent = Agent(get_policy("LSTMWrapper(Default)", "CartPole-v1"))
    agent.act(np.zeros((3, 4)))
    with pytest.raises(IncompatibleSpace, match="remembers 3 envs, and was shown 2"):
        agent.act(np.zeros((2, 4)))
    with pytest.raises(IncompatibleSpace, match="one bool for each env"):
        agent.act(np.zeros((3, 4)), episode_start=[True, False])
    agent.reset()
    assert agent.act(np.zeros((2, 4))).shape == (2,)


def test_numbers_that_are_none_are_no_action():
    with pytest.raises(TrainingError, match="not a finite number"):
        Agent(get_policy("Default", "CartPole-v1")).act(np.full(4, np.nan))


def test_a_run_loads_by_its_folder_alone(tmp_path):
    config = load_config("CartPole-v1", ["--rnn-name", "LSTMWrapper"])
    env = make_vecenv("CartPole-v1")
    policy = get_policy("LSTMWrapper(Default)", env)
    save_checkpoint(tmp_path / "latest.safetensors", policy, env=env, config=config.to_args())
    env.close()
    agent = puffer_policies.Agent.load(tmp_path)
    assert agent.act(np.ones(4)) == Agent(policy).act(np.ones(4))
    with pytest.raises(CheckpointError, match="It holds latest"):
        Agent.load(tmp_path, best=True)


def test_a_run_of_format_1_loads_by_the_name_of_its_env():
    old = Path(__file__).parent / "checkpoint_of_format_1.safetensors"
    agent = Agent.load(old)
    assert agent.spaces == spaces_of("CartPole-v1")
    assert agent.act(np.ones(4)) == Agent.load(old, "CartPole-v1").act(np.ones(4))


def test_an_agent_needs_neither_its_env_nor_the_package_of_the_env(tmp_path):
    config = load_config("acme/Nowhere-v0", ["--train.use-rnn", "False"])
    env = GymVecEnv(SyncVectorEnv([Guess]))
    policy = get_policy("Default", env)
    for args in (config.to_args(), {}):
        path = save_checkpoint(tmp_path / "m.safetensors", policy, env=env, config=args)
        agent = Agent.load(path)
        assert agent.act(np.ones(1)) == Agent.load(path, Guess()).act(np.ones(1))
    with pytest.raises(CheckpointError, match="other spaces"):
        Agent.load(path, "CartPole-v1")


def test_an_agent_that_is_sent_to_a_process_goes_on_there_by_itself():
    agent = Agent(get_policy("LSTMWrapper(Default)", "CartPole-v1"), deterministic=False)
    agent.act(np.zeros(4))
    # What `multiprocessing` sends; torch makes it share tensors by file handles.
    copy = pickle.loads(ForkingPickler.dumps(agent))
    assert not any(each.is_shared() for each in agent.policy.parameters())
    actions = [agent.act(np.ones(4)) for _ in range(20)]
    assert actions == [copy.act(np.ones(4)) for _ in range(20)]
    assert 0 < sum(actions) < 20
