"""A masked action never happens: wherever the mask comes from, and wherever the wrapper stands."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from specimens import ACTIONS, FOUR, OBSERVATIONS, VECTOR, observation_batch, tensors_of
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical

from puffer_policies import get_policy
from puffer_policies.checks import require_shapes
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.wrappers.action_mask import ActionMaskWrapper, mask_logits
from puffer_policies.wrappers.base import PolicyWrapper

B, T = 5, 4
CHOICES = sorted(name for name, space in ACTIONS.items() if action_layout(space).nvec)
STACKS = [
    "ActionMaskWrapper(Default)",
    "LSTMWrapper(ActionMaskWrapper(Default))",
    "ActionMaskWrapper(LSTMWrapper(Default))",
    "LSTMWrapper(NormalizeObservationWrapper(ActionMaskWrapper(Default)))",
    "NormalizeObservationWrapper(ActionMaskWrapper(LSTMWrapper(Default, num_layers=2)))",
]


def random_mask(nvec: tuple[int, ...], *lead: int, seed: int = 0) -> Tensor:
    """Bool (*lead, A) with an option left in each choice."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for options in nvec:
        part = torch.rand(*lead, options, generator=draw) < 0.4
        kept = torch.randint(options, (*lead, 1), generator=draw)
        parts.append(part.scatter(-1, kept, True))
    return torch.cat(parts, -1)


def probabilities(logits: Any) -> Tensor:
    """(N, A) by torch's own softmax."""
    return torch.cat([each.softmax(-1) for each in tensors_of(logits)], -1)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("action", CHOICES)
def test_forbidden_options_have_probability_zero_in_steps_and_sequences(
    stack: str, action: str
) -> None:
    env = Spaces(VECTOR, ACTIONS[action])
    policy = get_policy(stack, env)
    mask = random_mask(action_layout(env.action).nvec, B, T)
    x = observation_batch(VECTOR, B, T)
    logits, _ = policy(x, {"action_mask": mask})
    whole = probabilities(logits).reshape(B, T, -1)
    assert (whole[~mask] == 0).all()
    assert (whole[mask] > 0).all()
    state = dict(policy.initial_state(B)) if hasattr(policy, "initial_state") else {}
    for t in range(T):
        logits, _ = policy.forward_eval(x[:, t], {**state, "action_mask": mask[:, t]})
        if t == 0:
            torch.testing.assert_close(probabilities(logits), whole[:, 0])
        assert (probabilities(logits)[~mask[:, t]] == 0).all()


@pytest.mark.parametrize("stack", STACKS[:3])
def test_entropy_and_log_prob_are_those_of_the_allowed_options(stack: str) -> None:
    policy = get_policy(stack, Spaces(VECTOR, FOUR))
    nn.init.normal_(policy.unwrapped.actor.linear.weight)
    mask = torch.tensor([[True, False, True, True]]).expand(B, -1)
    x = observation_batch(VECTOR, B)
    free, _ = policy(x, {"action_mask": torch.ones_like(mask)})
    bound, _ = policy(x, {"action_mask": mask})
    expected = TorchCategorical(logits=free[:, [0, 2, 3]])
    found = distribution(bound)
    torch.testing.assert_close(found.entropy(), expected.entropy())
    last = torch.full((B,), 3)
    torch.testing.assert_close(found.log_prob(last), expected.log_prob(last - 1))


def test_gradients_are_finite_and_none_reaches_a_forbidden_option() -> None:
    policy = get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, FOUR))
    mask = torch.tensor([[True, False, True, False]]).expand(B, -1)
    logits, _ = policy(observation_batch(VECTOR, B), {"action_mask": mask})
    found = distribution(logits)
    (found.log_prob(torch.zeros(B)) + found.entropy()).sum().backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    head = policy.unwrapped.actor.linear.weight.grad
    assert (head[[1, 3]] == 0).all()
    assert (head[[0, 2]] != 0).any()


@pytest.mark.parametrize("sampled", ["sample", "mode"])
def test_no_forbidden_action_is_ever_drawn(sampled: str) -> None:
    env = Spaces(VECTOR, spaces.MultiDiscrete([3, 7, 2]))
    policy = get_policy("LSTMWrapper(ActionMaskWrapper(Default))", env)
    mask = random_mask((3, 7, 2), 200)
    logits, _ = policy.forward_eval(observation_batch(VECTOR, 200), {"action_mask": mask})
    first = torch.tensor([0, 3, 10])
    for _ in range(50):
        drawn = getattr(distribution(logits), sampled)() + first
        assert mask.gather(-1, drawn).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float32])
def test_a_mask_may_be_of_any_dtype(dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 0, 1, 1]], dtype=dtype)
    policy = get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, FOUR))
    logits, _ = policy.forward_eval(observation_batch(VECTOR, 1), {"action_mask": mask})
    assert torch.isinf(logits).tolist() == [[False, True, False, False]]


def test_a_row_that_allows_nothing_is_named_with_its_choice() -> None:
    env = Spaces(VECTOR, spaces.MultiDiscrete([3, 2]))
    policy = get_policy("ActionMaskWrapper(Default)", env)
    mask = torch.ones(B, T, 5, dtype=torch.bool)
    mask[2, 1, 3:] = False
    with pytest.raises(ContractError, match="Row 9 of the action mask, choice 1, allows no option"):
        policy(observation_batch(VECTOR, B, T), {"action_mask": mask})


def test_compiled_a_row_that_allows_nothing_is_nan_and_nothing_breaks_the_graph() -> None:
    policy = get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, FOUR))
    mask = torch.ones(B, 4, dtype=torch.bool)
    mask[1] = False
    step = torch.compile(policy.forward_eval, backend="eager", fullgraph=True)
    logits, _ = step(observation_batch(VECTOR, B), {"action_mask": mask})
    log_prob = distribution(logits).log_prob(torch.zeros(B))
    assert log_prob.isnan().tolist() == [False, True, False, False, False]


def test_without_a_mask_it_raises_and_says_where_one_can_come_from() -> None:
    policy = get_policy("LSTMWrapper(ActionMaskWrapper(Default))", Spaces(VECTOR, FOUR))
    for state in (None, {}, {"action_mask": None}):
        with pytest.raises(ContractError, match=r"no action mask(.|\n)*action_masks\(\)"):
            policy.forward_eval(observation_batch(VECTOR, B), state)


@pytest.mark.parametrize("shape", [(B, 3), (B + 1, 4), (B, T, 4)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    policy = get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, FOUR))
    mask = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ContractError, match="action mask has"):
        policy.forward_eval(observation_batch(VECTOR, B), {"action_mask": mask})


def test_continuous_actions_are_refused_by_name_when_it_is_built() -> None:
    with pytest.raises(IncompatibleSpace, match=r"'ActionMaskWrapper' .*continuous"):
        get_policy("ActionMaskWrapper(Default)", Spaces(VECTOR, ACTIONS["box"]))


def test_twice_is_refused_by_name_and_by_hand() -> None:
    env = Spaces(VECTOR, FOUR)
    with pytest.raises(BuildError, match="ActionMaskWrapper"):
        get_policy("ActionMaskWrapper(LSTMWrapper(ActionMaskWrapper(Default)))", env)
    with pytest.raises(BuildError, match="already"):
        ActionMaskWrapper(env, get_policy("ActionMaskWrapper(Default)", env))


def test_the_policy_is_left_as_it_was() -> None:
    env = Spaces(VECTOR, FOUR)
    inner = get_policy("Default", env)
    before = {name: each.clone() for name, each in inner.state_dict().items()}
    wrapped = ActionMaskWrapper(env, inner)
    assert wrapped.unwrapped is inner
    for name, each in wrapped.state_dict().items():
        torch.testing.assert_close(each, before[name.removeprefix("policy.")])


def test_logits_of_a_type_without_options_are_refused() -> None:
    with pytest.raises(ContractError, match="Normal"):
        mask_logits(torch.distributions.Normal(0.0, 1.0), torch.ones(1, 2, dtype=torch.bool))


class Doubled(PolicyWrapper):
    def transform_logits(self, logits: Any, state: Any) -> Any:
        return 2 * logits


def test_a_wrapper_inside_a_memory_changes_logits_as_outside() -> None:
    env = Spaces(VECTOR, FOUR)
    policies = [get_policy("Default", env, wrappers=order) for order in ORDERS]
    policies[1].load_state_dict(
        dict(zip(policies[1].state_dict(), policies[0].state_dict().values(), strict=True))
    )
    x = observation_batch(VECTOR, B, T)
    (inside, _), (outside, _) = (policy(x, {}) for policy in policies)
    torch.testing.assert_close(inside, outside)


ORDERS = [[Doubled, "LSTMWrapper"], ["LSTMWrapper", Doubled]]

# -- a mask in the observation ---------------------------------------------------------------------

OBSERVED = Spaces(
    spaces.Dict({"board": VECTOR, "action_mask": spaces.MultiBinary(4)}), spaces.Discrete(4)
)
INSIDE = ["ActionMaskWrapper(Default, key='action_mask')"]
KEYED = [
    *INSIDE,
    "LSTMWrapper(ActionMaskWrapper(Default, key='action_mask'))",
    "ActionMaskWrapper(LSTMWrapper(Default), key='action_mask')",
]


def observed(mask: Tensor) -> dict[str, Tensor]:
    return {"board": observation_batch(VECTOR, *mask.shape[:-1]), "action_mask": mask}


@pytest.mark.parametrize("stack", KEYED)
def test_a_mask_in_the_observation_is_heeded_and_not_seen(stack: str) -> None:
    policy = get_policy(stack, OBSERVED)
    require_shapes(policy, OBSERVED)
    assert list(policy.unwrapped.spaces.observation.spaces) == ["board"]
    mask = random_mask((4,), B, T)
    state: dict[str, Any] = {}
    logits, values = policy(observed(mask), state)
    assert (probabilities(logits)[~mask.flatten(0, 1)] == 0).all()
    assert not any("mask" in key for key in state)
    everything, unmasked_values = policy(observed(torch.ones_like(mask)), None)
    assert torch.isfinite(everything).all()
    torch.testing.assert_close(values, unmasked_values)
    logits, _ = policy.forward_eval(observed(mask[:, 0]), state)
    assert (probabilities(logits)[~mask[:, 0]] == 0).all()


def test_a_mask_in_the_state_goes_before_that_of_the_observation() -> None:
    policy = get_policy(KEYED[1], OBSERVED)
    nothing, all_of_them = torch.zeros(B, 4), torch.ones(B, 4, dtype=torch.bool)
    logits, _ = policy.forward_eval(observed(nothing), {"action_mask": all_of_them})
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("observation", "key", "problem"),
    [
        (VECTOR, "action_mask", "not a Dict"),
        (spaces.Dict({"a": VECTOR, "b": VECTOR}), "action_mask", "no 'action_mask'"),
        (spaces.Dict({"action_mask": VECTOR}), "action_mask", "none beside"),
        (spaces.Dict({"a": VECTOR, "mask": spaces.MultiBinary(3)}), "mask", r"shape \(4,\)"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(observation: Any, key: str, problem: str) -> None:
    with pytest.raises(IncompatibleSpace, match=problem):
        get_policy(f"ActionMaskWrapper(Default, key={key!r})", Spaces(observation, FOUR))


def test_the_recipe_of_a_policy_with_a_key_rebuilds_it() -> None:
    policy = get_policy(KEYED[1], OBSERVED)
    again = get_policy(policy.spec, OBSERVED)
    again.load_state_dict(policy.state_dict())
    mask = random_mask((4,), B)
    one, other = (each.forward_eval(observed(mask), {})[0] for each in (policy, again))
    torch.testing.assert_close(one, other)


def test_an_unknown_argument_is_named_before_the_spaces_are_asked_for() -> None:
    with pytest.raises(BuildError, match="'kee'"):
        get_policy("ActionMaskWrapper(Default, kee='action_mask')", OBSERVED)


@pytest.mark.parametrize("observation", ["image_hwc", "dict", "discrete"])
def test_every_kind_of_observation_passes(observation: str) -> None:
    env = Spaces(OBSERVATIONS[observation], FOUR)
    policy = get_policy("LSTMWrapper(ActionMaskWrapper(Default))", env)
    mask = random_mask((4,), B)
    x = observation_batch(OBSERVATIONS[observation], B)
    logits, _ = policy.forward_eval(x, {"action_mask": mask})
    assert (logits == -math.inf).equal(~mask)
