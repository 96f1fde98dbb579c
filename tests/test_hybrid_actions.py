"""Actions of several kinds at once: Dict and Tuple spaces, their heads, masks and files."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from torch.distributions import Categorical, Independent, Normal

from puffer_policies import get_policy
from puffer_policies.agent import Agent
from puffer_policies.errors import BuildError, ContractError, ExportError, IncompatibleSpace
from puffer_policies.export.api import export_policy
from puffer_policies.export.flatfile import action_sizes
from puffer_policies.export.recording import record_step
from puffer_policies.export.source import source_of
from puffer_policies.export.step import Step
from puffer_policies.interop.guest import Guest
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.spaces.nested import leaves, map_nested, names_of
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
FIRST_OPTIONS = [0, 2, 4, 6, 9, 11, 14, 18]  # of its bits, choice and choices, in that order


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


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"in": (([1, 0, 0], [1]), None)}, r"At 'in': At 0: .*\[3, 1\] options, .*\[2, 2\]"),
        ({"tool": [1]}, "At 'tool': The action mask has 1 options, the part has 2"),
        ({"aim": [1, 1]}, "At 'aim': .* has 2 options, the part has 0"),
        ({"tool": [{"a": 1}, {}]}, "At 'tool': .*'dict' where numbers"),
        ({"tool": np.ones((3, 2)), "in": (None, [1, 1, 1])}, "as many rows"),
    ],
)
def test_a_mask_of_another_size_is_refused_by_the_part(mask, message):
    with pytest.raises(IncompatibleSpace, match=message):
        MASKED.flat_mask(mask)


def test_a_mask_of_nested_choices_may_be_nested():
    layout = action_layout(LEAVES["choices"])
    nested = (([1, 0], [0, 0, 1]), ([1, 1, 1, 0], [0, 1]))
    assert layout.flat_mask(nested).tolist() == [1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1]


def test_options_of_any_start_reach_the_env_beside_real_numbers():
    space = gym_spaces.Dict({"n": gym_spaces.Discrete(3, start=2**60), "x": LEAVES["aim"]})
    actions = np.array([[k, 0, 0] for k in range(3)], np.float32)
    assert action_layout(space).to_env(actions)["n"].tolist() == [2**60 + k for k in range(3)]


def test_actions_of_other_parts_reach_no_env():
    with pytest.raises(ContractError, match=r"5 columns, and the parts .* have 6"):
        MASKED.to_env(np.zeros((4, 5), np.float32))


def test_a_part_without_numbers_is_a_part():
    space = gym_spaces.Dict({"q": gym_spaces.Discrete(2), "x": gym_spaces.Box(-1, 1, (0,))})
    logits, _ = get_policy("Default", Spaces(VECTOR, space))(torch.zeros(3, 8))
    assert distribution(logits).sample().shape == (3, 1)


def test_parts_whose_names_are_the_same_are_not_exported():
    space = gym_spaces.Dict({"a.b": LEAVES["choice"], "a": gym_spaces.Dict({"b": LEAVES["bits"]})})
    with pytest.raises(
        ExportError, match=r"Two parts of the action are both called 'action\.a\.b'"
    ):
        record_step(source_of(get_policy("Default", Spaces(VECTOR, space))), "default")


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


STACK = "LSTMWrapper(PrevActionRewardWrapper(ActionMaskWrapper(Default(hidden_size=8))))"


def test_a_step_and_an_agent_give_the_same_members_of_each_part():
    spaces = Spaces(VECTOR, EVERYTHING)
    policy = get_policy(STACK, spaces)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    graph, agent = Step(policy, spaces), Agent(policy)
    inputs = graph.example() | {"episode_start": torch.ones(3, dtype=torch.bool)}
    for _ in range(3):
        inputs["obs"] = torch.randn(3, 8)
        mask = inputs["action_mask"] = torch.rand(3, 20) < 0.5
        mask[:, FIRST_OPTIONS] = True
        outputs = graph(inputs)
        expected = agent.act(inputs["obs"].numpy(), action_mask=mask.numpy(), reward=np.zeros(3))
        for row in range(3):
            assert map_nested(lambda leaf, row=row: leaf[row], expected) in EVERYTHING
        for name, leaf in zip(names_of(expected, "action"), leaves(expected), strict=True):
            np.testing.assert_allclose(outputs[name].detach(), leaf, rtol=1e-5, atol=1e-6)
        inputs |= {name: outputs[key] for name, key in graph.carried.items()}
        inputs["episode_start"] = torch.zeros(3, dtype=torch.bool)


def test_an_exported_file_has_an_output_for_each_part(tmp_path):
    policy = get_policy(STACK, Spaces(VECTOR, EVERYTHING))
    export_policy(policy, tmp_path / "policy.pt2", to="torch")  # compares the answers
    about = json.loads(record_step(source_of(policy), "default").metadata())
    parts = ["aim", *(f"in.{name}" for name in sorted(LEAVES))]
    outputs = [port["name"] for port in about["outputs"]]
    assert [name for name in outputs if name.startswith("action.")] == [
        f"action.{part}" for part in parts
    ]
    assert {"mean.in.aim", "std.aim", "logits.in.bits"} < set(outputs)


@pytest.mark.parametrize("style", ["rsl_rl", "ml-agents"])
def test_files_and_trainers_with_one_kind_of_action_refuse_several(style):
    policy = get_policy("Default", Spaces(VECTOR, EVERYTHING))
    with pytest.raises(ExportError, match=r"one kind of action, .* a Dict of action\.aim"):
        record_step(source_of(policy), style)
    with pytest.raises(BuildError, match=r"a Dict of aim, in\.aim, .* CleanRL gets"):
        Guest("Default", Spaces(VECTOR, EVERYTHING), library="CleanRL")
    with pytest.raises(IncompatibleSpace, match=r"has parts, and PufferLib 5"):
        action_sizes(EVERYTHING)


def test_the_step_of_several_kinds_compiles_without_a_break():
    policy = get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, EVERYTHING), hidden_size=8)

    def act(observations, mask):
        logits, values = policy.forward_eval(observations, {"action_mask": mask})
        chances = distribution(logits)
        action = chances.mode()
        return chances.log_prob(action), chances.entropy(), values

    inputs = torch.randn(3, 8), torch.ones(3, 20, dtype=torch.bool)
    compiled = torch.compile(act, backend="eager", fullgraph=True)(*inputs)
    for own, plain in zip(compiled, act(*inputs), strict=True):
        torch.testing.assert_close(own, plain)
