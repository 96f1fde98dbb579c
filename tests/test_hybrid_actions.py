"""Actions of several kinds at once: Dict and Tuple spaces, from the head to the env and a file."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from torch.distributions import Categorical, Independent, Normal

from puffer_policies import get_policy
from puffer_policies.agent import Agent
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.wrappers.action_mask import mask_logits

VECTOR = gym_spaces.Box(-1.0, 1.0, (8,), np.float32)
LEAVES: dict[str, gym.Space[Any]] = {
    "choice": gym_spaces.Discrete(3, start=2),
    "choices": gym_spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "bits": gym_spaces.MultiBinary(3),
    "aim": gym_spaces.Box(-2.0, 1.0, (2, 1), np.float32),
}
PAIRS = [(a, b) for i, a in enumerate(LEAVES) for b in list(LEAVES)[i:]]


def two_levels(first: str, second: str) -> list[gym.Space[Any]]:
    """Each form of two parts, one of them a level deeper."""
    a, b = LEAVES[first], LEAVES[second]
    return [
        gym_spaces.Dict({"b": b, "a": a}),
        gym_spaces.Tuple((a, b)),
        gym_spaces.Dict({"a": a, "in": gym_spaces.Tuple((b, a))}),
        gym_spaces.Tuple((gym_spaces.Dict({"b": b}), a)),
    ]


SPACES = [space for pair in PAIRS for space in two_levels(*pair)]
EVERYTHING = gym_spaces.Dict({"aim": LEAVES["aim"], "in": gym_spaces.Dict(LEAVES)})


def by_hand(space: Any, logits: Any, member: Any) -> tuple[Any, Any]:
    """The log-probability and the entropy of a member by PyTorch's own distributions."""
    if isinstance(space, gym_spaces.Dict | gym_spaces.Tuple):
        keys = list(space) if isinstance(space, gym_spaces.Dict) else range(len(space))
        parts = [by_hand(space[key], logits[key], member[key]) for key in keys]
        return sum(log_prob for log_prob, _ in parts), sum(entropy for _, entropy in parts)
    values = torch.from_numpy(np.asarray(member))
    if isinstance(space, gym_spaces.Box):
        normal = Independent(logits, len(space.shape))
        return normal.log_prob(values), normal.entropy()
    if isinstance(space, gym_spaces.Discrete):
        logits, values = (logits,), values - int(space.start)
    dists = [Categorical(logits=each) for each in logits]
    columns = values.reshape(len(values), -1).unbind(-1)
    log_probs = [dist.log_prob(column) for dist, column in zip(dists, columns, strict=True)]
    return sum(log_probs), sum(dist.entropy() for dist in dists)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_its_probability_is_the_product_of_pytorchs_distributions(space):
    policy = get_policy("Default", Spaces(VECTOR, space), hidden_size=8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        logits, _ = policy(torch.randn(5, 8))
    for each in leaves(logits):
        if isinstance(each, Normal):  # within the Box, so that nothing is clipped
            each.loc.mul_(0.1)
            each.scale = each.scale * 0.05
    dist = distribution(logits)
    action = dist.sample()
    layout = action_layout(space)
    assert action.shape == (5, *layout.policy_shape)
    assert action.numpy().dtype == layout.policy_dtype
    members = layout.to_env(action.numpy())
    for row in range(5):
        assert space.contains(map_nested(lambda leaf, row=row: leaf[row], members))
    log_prob, entropy = by_hand(space, logits, members)
    torch.testing.assert_close(dist.log_prob(action), log_prob, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dist.entropy(), entropy, atol=1e-6, rtol=1e-6)


def test_the_order_of_a_policys_dict_does_not_matter():
    logits = {
        "b": torch.randn(4, 3),
        "a": Normal(torch.randn(4, 2), torch.ones(4, 2)),
        "c": (torch.randn(4, 2), torch.randn(4, 2)),
    }
    turned = dict(reversed(logits.items()))
    action = distribution(logits).sample()
    assert torch.equal(distribution(logits).log_prob(action), distribution(turned).log_prob(action))
    assert torch.equal(distribution(logits).mode(), distribution(turned).mode())


def test_the_parts_are_drawn_as_they_are_alone():
    """The frequencies of the choices in a Dict are those of their logits."""
    choice = torch.tensor([0.0, 1.0, 2.0])
    many = {"a": choice.expand(20_000, 3), "b": Normal(torch.zeros(20_000, 1), 2.0)}
    action = distribution(many).sample(torch.Generator().manual_seed(0))
    shares = torch.bincount(action[:, 0].long(), minlength=3) / 20_000
    torch.testing.assert_close(shares, choice.softmax(-1), atol=0.01, rtol=0)
    assert action[:, 1].std().item() == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym_spaces.Dict({"say": gym_spaces.Text(4)}), "At 'say': Action space Text"),
        (
            gym_spaces.Tuple((gym_spaces.Dict({"a": gym_spaces.Sequence(VECTOR)}),)),
            "At 0: At 'a': Action space Sequence",
        ),
        (gym_spaces.Dict({"n": gym_spaces.Box(0, 2**40, (1,), np.int64)}), "At 'n': .* integers"),
        (gym_spaces.Tuple(()), "no parts"),
    ],
)
def test_a_part_that_no_head_serves_is_refused_by_its_key(space, message):
    with pytest.raises(IncompatibleSpace, match=message):
        get_policy("Default", Spaces(VECTOR, space), validate="off")


MASKED = action_layout(
    gym_spaces.Dict(
        {
            "aim": LEAVES["aim"],
            "in": gym_spaces.Tuple((gym_spaces.MultiDiscrete([2, 2]), gym_spaces.Discrete(3))),
            "tool": gym_spaces.Discrete(2),
        }
    )
)


@pytest.mark.parametrize(
    ("mask", "flat"),
    [
        ({"tool": [0, 1]}, [1, 1, 1, 1, 1, 1, 1, 0, 1]),
        ({"in": (([1, 0], [0, 1]), None), "aim": None}, [1, 0, 0, 1, 1, 1, 1, 1, 1]),
        ({"in": (None, [0, 0, 1]), "tool": [1, 0]}, [1, 1, 1, 1, 0, 0, 1, 1, 0]),
        ([1, 1, 0, 1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 1, 0, 0, 1]),
    ],
)
def test_a_mask_is_an_array_or_has_the_form_of_the_space(mask, flat):
    assert MASKED.flat_mask(mask).tolist() == [bool(each) for each in flat]


def test_a_batch_of_masks_of_parts_is_a_batch_of_masks():
    masks = {"tool": np.eye(2, dtype=np.int8)}
    assert MASKED.flat_mask(masks).shape == (2, 9)


@pytest.mark.parametrize("mask", [{"tol": [0, 1]}, {"in": (None,)}])
def test_a_mask_of_other_parts_is_refused_with_those_that_there_are(mask):
    with pytest.raises(IncompatibleSpace, match="has the parts"):
        MASKED.flat_mask(mask)


def test_a_mask_leaves_real_numbers_as_they_are():
    normal = Normal(torch.zeros(2, 1), 1.0)
    mask = torch.tensor([[True, False], [False, True]])
    masked = mask_logits({"tool": torch.zeros(2, 2), "aim": normal}, mask)
    assert masked["aim"] is normal
    assert masked["tool"].isneginf().tolist() == (~mask).tolist()


class Workshop(gym.Env[Any, Any]):
    """Pays for the tool, the place and the two switches that are shown; one tool is broken."""

    observation_space = VECTOR
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


def run(form: str, name: str, steps: int) -> tuple[Any, dict[str, float]]:
    vecenv = make_vecenv("tests/Workshop-v0", 16, env_kwargs={"form": form})
    policy = get_policy(name, vecenv, hidden_size=32)
    config = TrainConfig(
        total_timesteps=steps, bptt_horizon=32, batch_size=1024, minibatch_size=256, gamma=0.5
    )
    trainer = Trainer(config, vecenv, policy)
    while not trainer.finished:
        logs = trainer.learn(trainer.estimate(trainer.collect()))
    trainer.close()
    return policy, logs


STACKS = [
    "ActionMaskWrapper(MultiInput)",
    "LSTMWrapper(ActionMaskWrapper(PrevActionRewardWrapper(SquashedGaussianWrapper(Default))))",
    "SeparateCriticWrapper(MinGRUWrapper(ActionMaskWrapper(Default)))",
    "FrameStackWrapper(ActionMaskWrapper(Default))",
]


@pytest.mark.parametrize("form", ["dict", "flat"])
@pytest.mark.parametrize("name", STACKS)
def test_ppo_agents_and_checkpoints_take_it_with_masks_and_memories(name, form, tmp_path):
    policy, logs = run(form, name, 2048)
    assert all(np.isfinite(each) for each in logs.values())
    save_checkpoint(tmp_path / "policy.safetensors", policy, env=Workshop())
    agent, env = Agent.load(tmp_path / "policy.safetensors"), Workshop(form)
    observation, info = env.reset(seed=1)
    reward = 0.0
    for _ in range(9):
        action = agent.act(observation, action_mask=info["action_mask"], reward=reward)
        observation, reward, _, _, info = env.step(action)


def test_all_parts_together_are_learned():
    _, logs = run("dict", "ActionMaskWrapper(Default)", 40_000)
    assert logs["environment/episode_return"] > 5  # of 10; without one part, 3.3
