"""Training, agents and checkpoints with actions of several kinds at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_toys import Clocks
from gymnasium import spaces as gym_spaces
from test_hybrid_actions import EVERYTHING, SPACES, VECTOR
from tool_files import load_tool

from puffer_policies import get_policy
from puffer_policies.agent import Agent
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.config.schema import EvalConfig, TrainConfig
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.runs.evaluate import evaluate
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.train.health import _clipped_actions, entropy_share
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import as_vecenv, make_vecenv


class Workshop(gym.Env[Any, Any]):
    """Pays for the tool, the place and the two switches that are shown; one tool is broken."""

    observation_space = gym_spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = gym_spaces.Dict(
        {
            "tool": gym_spaces.Discrete(3),
            "aim": gym_spaces.Box(-1.0, 1.0, (2,), np.float32),
            "in": gym_spaces.Tuple((gym_spaces.Discrete(2, start=3), gym_spaces.MultiBinary(2))),
        }
    )

    def __init__(self, form: str = "dict") -> None:
        self.form = form

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.show()

    def show(self):
        self.place = self.np_random.uniform(-0.8, 0.8, 2)
        self.tool, self.switch = self.np_random.integers(3), self.np_random.integers(2)
        self.allowed = np.arange(3) != (self.tool + 1) % 3
        observation = np.zeros(8, np.float32)
        observation[[self.tool, 3 + self.switch]] = 1
        observation[5:7] = self.place
        flat = np.concatenate([np.ones(6, bool), self.allowed])
        return observation, {"action_mask": {"tool": self.allowed} if self.form == "dict" else flat}

    def step(self, action):
        assert self.action_space.contains(action), action
        assert self.allowed[action["tool"]], "an illegal tool"
        right = action["tool"] == self.tool and action["in"][0] - 3 == self.switch
        reward = float(right) * (1 - np.abs(action["aim"] - self.place).mean())
        self.steps += 1
        return *(shown := self.show())[:1], reward, False, self.steps >= 10, shown[1]


gym.register("tests/Workshop-v0", Workshop)


def train(form: str, name: str, **options: Any) -> tuple[Any, dict[str, float]]:
    """Train on the workshop, by default one update; return the policy and its last logs."""
    vecenv = make_vecenv("tests/Workshop-v0", 16, env_kwargs={"form": form})
    policy = get_policy(name, vecenv, hidden_size=32)
    sizes = {"total_timesteps": 256, "bptt_horizon": 16, "batch_size": 256, "minibatch_size": 128}
    trainer = Trainer(TrainConfig(**{**sizes, "gamma": 0.5, **options}), vecenv, policy)
    while not trainer.finished:
        logs = trainer.learn(trainer.estimate(trainer.collect()))
    trainer.close()
    return policy, logs


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("dict", "ActionMaskWrapper(MultiInput)"),
        (
            "dict",
            "LSTMWrapper(ActionMaskWrapper(PrevActionRewardWrapper(SquashedGaussianWrapper(Default))))",
        ),
        ("flat", "SeparateCriticWrapper(MinGRUWrapper(ActionMaskWrapper(Default)))"),
        ("flat", "FrameStackWrapper(ActionMaskWrapper(Default))"),
    ],
)
def test_ppo_agents_and_checkpoints_take_it_with_masks_and_memories(name, form, tmp_path):
    policy, logs = train(form, name)
    assert all(np.isfinite(each) for each in logs.values())
    save_checkpoint(tmp_path / "policy.safetensors", policy, env=Workshop())
    agent, env = Agent.load(tmp_path / "policy.safetensors"), Workshop(form)
    observation, info = env.reset(seed=1)
    reward = 0.0
    for _ in range(9):
        action = agent.act(observation, action_mask=info["action_mask"], reward=reward)
        observation, reward, _, _, info = env.step(action)


class Anything(gym.Env[Any, Any]):
    """Shows members of a space, takes those of another, and forbids options at random."""

    def __init__(self, spaces: Spaces) -> None:
        self.observation_space, self.action_space = spaces.observation, spaces.action
        self.nvec = action_layout(spaces.action).nvec

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), self.info()

    def info(self):
        masks = [self.np_random.random(n) < 0.5 for n in self.nvec]
        for mask in masks:
            mask[0] = True
        return {"action_mask": np.concatenate(masks)} if masks else {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        reward = float(self.np_random.random())
        return self.observation_space.sample(), reward, self.steps > 4, False, self.info()


def play(policy: torch.nn.Module, spaces: Spaces, folder: Path) -> None:
    """Train, evaluate and save a policy, and act with it."""
    vecenv = as_vecenv(lambda: Anything(spaces), 4)
    sizes = {"total_timesteps": 32, "bptt_horizon": 8, "batch_size": 32, "minibatch_size": 16}
    trainer = Trainer(TrainConfig(**sizes), vecenv, policy)
    trainer.learn(trainer.estimate(trainer.collect()))
    evaluate(policy, vecenv, EvalConfig(episodes=4, deterministic=False))
    trainer.close()
    env = Anything(spaces)
    save_checkpoint(folder / "policy.safetensors", policy, env=env)
    agent = Agent.load(folder / "policy.safetensors")
    observation, info = env.reset(seed=1)
    for _ in range(3):
        action = agent.act(observation, action_mask=info.get("action_mask"), reward=0.0)
        observation, *_, info = env.step(action)


@pytest.mark.exhaustive
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_pair_of_kinds_two_levels_deep_is_played_with_a_memory(space, tmp_path):
    policy = "PrevActionRewardWrapper(Default(hidden_size=8))"
    if action_layout(space).nvec:
        policy = f"ActionMaskWrapper({policy})"
    spaces = Spaces(VECTOR, space)
    play(get_policy(f"LSTMWrapper({policy})", spaces), spaces, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*mask:UserWarning")
def test_every_policy_in_every_wrapper_plays_it(tmp_path):
    played = 0
    for stack in load_tool("measure_export").product()[0]:
        spaces = Spaces(stack.pairs[0].observation, EVERYTHING)
        try:
            policy = get_policy(stack.expression, spaces)
        except IncompatibleSpace:
            continue
        play(policy, spaces, tmp_path)
        played += 1
    assert played > 200


def test_all_parts_together_are_learned():
    name = "ActionMaskWrapper(Default)"
    policy, _ = train("dict", name, total_timesteps=10_000, learning_rate=1e-2)
    vecenv = make_vecenv("tests/Workshop-v0", 8)
    evaluation = evaluate(policy, vecenv, EvalConfig(episodes=8))
    vecenv.close()
    assert evaluation.mean > 7  # of 10; without one of the parts, at most 5


@pytest.mark.parametrize("kind", ["infos", "method"])
@pytest.mark.parametrize("action", ["dict", "tuple"])
def test_an_env_that_steps_all_rows_masks_each_part_of_each_row(kind, action):
    masks = {0: np.array([[1, 0, 0], [0, 0, 1]]), 1: np.array([[1, 0], [0, 1]])}
    parts = {key: gym_spaces.Discrete(mask.shape[1]) for key, mask in masks.items()}
    space = gym_spaces.Dict({"ab"[key]: each for key, each in parts.items()})
    given: Any = {"ab"[key]: mask for key, mask in masks.items()}
    if action == "tuple":
        space, given = gym_spaces.Tuple(parts.values()), tuple(masks.values())

    class Rows(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012
        num_envs = 2
        single_observation_space, single_action_space = VECTOR, space
        observation_space = gym.vector.utils.batch_space(VECTOR, 2)
        action_space = gym.vector.utils.batch_space(space, 2)

        def reset(self, *, seed=None, options=None):
            return np.zeros((2, 8), np.float32), {"action_mask": given} if kind == "infos" else {}

        if kind == "method":

            def action_masks(self):
                return given

    vecenv = as_vecenv(Rows())
    vecenv.reset(seed=0)
    assert vecenv.action_masks.tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]


def test_workers_get_the_parts_of_their_env():
    shown = []
    for vectorization in ("sync", "async"):
        vecenv = make_vecenv("tests/Workshop-v0", 2, vectorization=vectorization)
        vecenv.reset(seed=1)
        draw = np.random.default_rng(0)
        for _ in range(3):
            tools = vecenv.action_masks[:, 6:9].argmax(1)
            aims, places = draw.normal(size=(2, 2)), draw.integers(2, size=(2, 3))
            actions = np.concatenate([aims, places, tools[:, None]], 1)
            step = vecenv.step(actions)
        shown.append((step.observations.copy(), step.rewards))
        vecenv.close()
    np.testing.assert_array_equal(shown[0][0], shown[1][0])
    np.testing.assert_array_equal(shown[0][1], shown[1][1])


def test_every_agent_gets_its_own_parts():
    class Armed(Clocks):
        def action_space(self, agent):
            return gym_spaces.Dict(
                {"wait": gym_spaces.Discrete(2), "to": gym_spaces.Box(-1, 1, (2,), np.float32)}
            )

        def step(self, actions):
            for agent, action in actions.items():
                assert self.action_space(agent).contains(action), action
            return super().step({agent: action["wait"] for agent, action in actions.items()})

    env = Armed({"x": [(5, "t")], "y": [(5, "t")]})
    vecenv = as_vecenv(env)
    vecenv.reset(seed=1)
    vecenv.step(np.array([[0.5, 7.0, 1], [0.0, -0.5, 0]], np.float32))
    assert env.seen == [{"x": 1, "y": 0}]


def test_the_health_of_the_real_parts_is_measured():
    layout = action_layout(Workshop.action_space)
    actions = torch.zeros(1, 4, 6)
    actions[0, 0, 0] = 1.5  # one of eight real numbers
    actions[0, :, 5] = 2.0
    assert _clipped_actions(actions, layout) == 1 / 8
    assert entropy_share(1.0, layout) is None
    choices = gym_spaces.Dict({"a": gym_spaces.Discrete(4), "b": gym_spaces.MultiBinary(2)})
    assert entropy_share(np.log(4), action_layout(choices)) == pytest.approx(0.5)
