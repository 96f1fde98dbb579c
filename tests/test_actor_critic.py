"""The policy without memory keeps its shapes, rows and dtypes for every pair of spaces."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from specimens import (
    ACTIONS,
    OBSERVATIONS,
    PAIRS,
    REFERENCE,
    assert_same_logits,
    map_tensors,
    observation_batch,
    tensors_of,
)
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from puffer_policies.contract import missing_members
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.fixed import fixed_eval
from puffer_policies.nn.heads import CategoricalHead
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.zoo import conv, mlp
from puffer_policies.zoo.mlp import Default


def default(observation: str, action: str) -> Default:
    return Default(Spaces(OBSERVATIONS[observation], ACTIONS[action]), hidden_size=16)


@pytest.mark.parametrize(("observation", "action"), PAIRS)
def test_every_space_runs(observation: str, action: str) -> None:
    policy = default(observation, action)
    space, layout = OBSERVATIONS[observation], action_layout(ACTIONS[action])
    logits, values = policy.forward_eval(observation_batch(space, 3))
    assert values.shape == (3, 1)
    dist = distribution(logits)
    sample = dist.sample()
    assert dist.log_prob(sample).shape == dist.entropy().shape == (3,)
    for member in layout.to_env(sample.numpy()):
        assert ACTIONS[action].contains(np.asarray(member))
    logits, values = policy(observation_batch(space, 3, 4))
    assert values.shape == (12, 1)
    assert all(each.shape[0] == 12 for each in tensors_of(logits))


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_row_b_at_time_t_is_row_b_times_t_plus_t(name: str) -> None:
    policy = default(name, "discrete")
    observations = observation_batch(OBSERVATIONS[name], 3, 4)
    logits, values = policy(observations)
    one = map_tensors(lambda leaf: leaf[2, 1:2], observations)
    torch.testing.assert_close(logits[2 * 4 + 1], policy.forward_eval(one)[0][0])
    torch.testing.assert_close(values[2 * 4 + 1], policy.forward_eval(one)[1][0])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_batches_of_any_size_agree_row_by_row(batch: int) -> None:
    policy, x = Default(REFERENCE), torch.randn(7, 8)
    whole, part = policy.forward_eval(x), policy.forward_eval(x[:batch])
    assert_same_logits(whole[0][:batch], part[0])
    torch.testing.assert_close(whole[1][:batch], part[1])


def test_an_empty_batch_has_no_rows() -> None:
    logits, values = Default(REFERENCE)(torch.zeros(0, 8))
    assert (logits.shape, values.shape) == ((0, 4), (0, 1))


def test_inputs_are_not_written_and_need_not_be_contiguous() -> None:
    policy, x = Default(REFERENCE), torch.randn(8, 5)
    turned, before = x.T, x.clone()
    assert_same_logits(policy.forward_eval(turned)[0], policy.forward_eval(turned.contiguous())[0])
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.int64])
def test_outputs_are_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    logits, values = Default(REFERENCE).forward_eval(torch.ones(2, 8).to(dtype))
    assert logits.dtype == values.dtype == torch.float32


def test_a_double_copy_is_a_reference_for_float32() -> None:
    policy, x = Default(REFERENCE), torch.randn(6, 8)
    logits, values = copy.deepcopy(policy).double().forward_eval(x)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(policy.forward_eval(x)[0].double(), logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(policy.forward_eval(x)[1].double(), values, atol=1e-5, rtol=1e-5)


def test_nan_in_an_observation_shows_in_the_outputs_of_its_row_only() -> None:
    x = torch.zeros(3, 8)
    x[1, 2] = torch.nan
    logits, values = Default(REFERENCE).forward_eval(x)
    assert distribution(logits).log_prob(torch.zeros(3)).isnan().tolist() == [False, True, False]
    assert values.isnan().flatten().tolist() == [False, True, False]


def test_extreme_observations_stay_finite() -> None:
    logits, values = Default(REFERENCE).forward_eval(torch.tensor([[1e6] * 8, [-1e6] * 8]))
    assert logits.isfinite().all()
    assert values.isfinite().all()


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    policy = Default(REFERENCE)
    for run in (policy, policy.forward_eval):
        with pytest.raises(IncompatibleSpace, match=r"\(2, 9\).*\(8,\)"):
            run(torch.zeros(2, 9))


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_every_parameter_gets_a_gradient(action: str) -> None:
    policy = default("dict", action)
    logits, values = policy(observation_batch(OBSERVATIONS["dict"], 6))
    dist = distribution(logits)
    (dist.log_prob(dist.sample()).sum() + dist.entropy().sum() + values.sum()).backward()
    assert all(each.grad is not None for each in policy.parameters())


def test_it_keeps_the_contract() -> None:
    assert missing_members(ActorCritic) == missing_members(Default(REFERENCE)) == []


@pytest.mark.parametrize(
    ("observation", "action"),
    [("dict", "discrete"), ("tuple", "multidiscrete"), ("discrete_start", "box")],
)
def test_it_compiles_without_a_break(observation: str, action: str) -> None:
    policy, space = default(observation, action), OBSERVATIONS[observation]
    for run, batch in ((policy.forward_eval, (3,)), (policy, (3, 4))):
        torch._dynamo.reset()
        explained = torch._dynamo.explain(run)(observation_batch(space, *batch))
        assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("module", [conv, mlp])
def test_zoo_classes_are_constructors_only(module: ModuleType) -> None:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__:
            assert not {name for name in vars(cls) if not name.startswith("__")}


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_heads_give_the_same_in_one_product_as_one_by_one(action: str) -> None:
    policy = default(sorted(OBSERVATIONS)[0], action)
    hidden = torch.randn(6, 16)
    logits, values = policy.decode_actions(hidden)
    assert_same_logits(logits, policy.actor(hidden))
    torch.testing.assert_close(values, policy.critic(hidden))


def _prune(policy: Default) -> None:
    prune.l1_unstructured(policy.actor.linear, "weight", 0.5)
    with torch.no_grad():
        policy.actor.linear.weight_orig.mul_(3)


def _shadow(policy: Default) -> None:
    layer, forward = policy.actor.linear, policy.actor.linear.forward
    layer.forward = lambda x: forward(x) + 1


def _without_bias_of_the_actor(policy: Default) -> None:
    policy.actor.linear = nn.Linear(16, 4, bias=False)


def _without_bias_of_the_critic(policy: Default) -> None:
    policy.actor.linear.bias.data.fill_(1.0)
    policy.critic.bias = None


class Adapted(nn.Module):
    """A frozen layer with a trained one of low rank beside it, and the layer's attributes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.weight, self.bias, self.out_features = layer.weight, layer.bias, layer.out_features
        self.low, self.high = nn.Linear(16, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.high(self.low(x))


class Doubled(CategoricalHead):
    def forward(self, hidden: torch.Tensor) -> Any:
        return 2 * super().forward(hidden)


HEADS_OF_THEIR_OWN: dict[str, Callable[[Any], object]] = {
    "hook": lambda p: p.actor.register_forward_hook(lambda module, inputs, output: output + 1),
    "hook before": lambda p: p.critic.register_forward_pre_hook(lambda module, x: (x[0] * 2,)),
    "parametrization": lambda p: parametrizations.weight_norm(p.actor.linear),
    "pruning": _prune,
    "patch": _shadow,
    "adapter": lambda p: setattr(p.actor, "linear", Adapted(p.actor.linear)),
    "sequence": lambda p: setattr(p.actor, "linear", nn.Sequential(nn.Linear(16, 4), nn.Tanh())),
    "subclass": lambda p: setattr(p, "actor", Doubled(action_layout(REFERENCE.action), 16)),
    "bias of the critic": _without_bias_of_the_actor,
    "bias of the actor": _without_bias_of_the_critic,
}


@pytest.mark.parametrize("name", HEADS_OF_THEIR_OWN)
def test_heads_that_are_more_than_their_weights_train_as_they_act(name: str) -> None:
    policy, observations = Default(REFERENCE, hidden_size=16), torch.randn(6, 8)
    HEADS_OF_THEIR_OWN[name](policy)
    for _ in range(2):  # a weight that a hook computes has a graph of its own in each pass
        logits, values = policy(observations)
        (logits.sum() + values.sum()).backward()
    hidden = policy.encode_observations(observations)
    with torch.no_grad():
        for actual in ((logits, values), fixed_eval(policy)(observations)):
            assert_same_logits(actual[0], policy.actor(hidden))
            torch.testing.assert_close(actual[1], policy.critic(hidden))
    assert all(each.grad is not None for each in policy.parameters() if each.requires_grad)


def test_a_hook_on_every_module_sees_the_heads_that_train() -> None:
    policy, seen = Default(REFERENCE), []
    handle = register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        policy(torch.randn(6, 8))
    finally:
        handle.remove()
    assert {policy.actor, policy.actor.linear, policy.critic} <= set(seen)
