"""Calls of a rollout equal those of the modules, and follow whatever was changed before it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gymnasium import spaces
from specimens import (
    ACTIONS,
    OBSERVATIONS,
    PAIRS,
    PIXELS,
    REFERENCE,
    VECTOR,
    assert_same_logits,
    observation_batch,
)
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from puffer_policies.models import Convolutional, Default, LSTMWrapper, Structured
from puffer_policies.nn.fixed import fixed_call, fixed_eval
from puffer_policies.spaces import Spaces
from puffer_policies.train.carry import Carry, policy_calls
from puffer_policies.wrappers.action_mask import ActionMaskWrapper
from puffer_policies.wrappers.memory import GRUWrapper, MinGRUWrapper
from puffer_policies.wrappers.normalize import NormalizeObservationWrapper
from puffer_policies.wrappers.separate_critic import SeparateCriticWrapper
from puffer_policies.wrappers.squashed import SquashedGaussianWrapper
from puffer_policies.wrappers.value_heads import HLGaussWrapper
from puffer_policies.zoo.puffer import PufferNet

BOX = Spaces(VECTOR, ACTIONS["box"])
ROWS = [1, 3, 70]
"""Rows at which a GELU is computed in double precision, around oneDNN, and by it."""


def assert_same_eval(policy: Any, observations: Any, state: dict[str, Any] | None = None) -> None:
    plain = dict(state or {})
    with torch.no_grad():
        logits, values = policy.forward_eval(observations, state=plain)
    for may_wait in (False, True):
        fixed = dict(state or {})
        with torch.no_grad():
            call = fixed_eval(policy, may_wait=may_wait)
            same_logits, same_values = call(observations, state=fixed)
        assert_same_logits(same_logits, logits, atol=1e-6)
        torch.testing.assert_close(same_values, values, atol=2e-6, rtol=1e-5)
        assert list(plain) == list(fixed)
        for key, each in plain.items():
            torch.testing.assert_close(fixed[key], each, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("observation", "action"), PAIRS)
def test_a_fixed_call_equals_the_policy_for_every_space(observation: str, action: str) -> None:
    policy = Default(Spaces(OBSERVATIONS[observation], ACTIONS[action]), num_layers=2)
    for rows in ROWS:
        assert_same_eval(policy, observation_batch(OBSERVATIONS[observation], rows))


STACKS: dict[str, Callable[[Spaces], nn.Module]] = {
    "guide": Structured,
    "memory": lambda env: LSTMWrapper(env, Default(env)),
    "layers": lambda env: GRUWrapper(env, Default(env), num_layers=2),
    "linear memory": lambda env: MinGRUWrapper(env, Default(env)),
    "own memory": PufferNet,
    "around": lambda env: NormalizeObservationWrapper(env, LSTMWrapper(env, Default(env))),
    "inside": lambda env: LSTMWrapper(env, NormalizeObservationWrapper(env, Default(env))),
    "both heads": lambda env: SeparateCriticWrapper(env, Default(env), Default(env)),
    "classes of returns": lambda env: LSTMWrapper(env, HLGaussWrapper(env, Default(env))),
    "mask inside": lambda env: LSTMWrapper(env, ActionMaskWrapper(env, Default(env))),
    "mask around": lambda env: ActionMaskWrapper(env, LSTMWrapper(env, Default(env))),
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_fixed_call_equals_every_stack_with_its_state(name: str, rows: int) -> None:
    policy: Any = STACKS[name](REFERENCE)
    state: dict[str, Any] = {"action_mask": torch.rand(rows, 4) < 0.5}
    state["action_mask"][:, 0] = True
    if hasattr(policy, "initial_state"):
        state |= {key: each + 0.1 for key, each in policy.initial_state(rows).items()}
    for starts in (torch.zeros(rows), torch.rand(rows) < 0.5, torch.ones(rows)):
        state["episode_start"] = starts.bool()
        assert_same_eval(policy, torch.randn(rows, 8), state)
    del state["episode_start"]
    assert_same_eval(policy, torch.randn(rows, 8), state)


def test_a_fixed_call_equals_policies_of_images_and_bounded_actions() -> None:
    atari = Spaces(PIXELS, spaces.Discrete(4))
    assert_same_eval(Convolutional(atari), observation_batch(PIXELS, 2))
    assert_same_eval(SquashedGaussianWrapper(BOX, Default(BOX)), torch.randn(5, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_has_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    policy = Default(REFERENCE).to(dtype)
    with torch.no_grad():
        (logits, values), (plain, _) = (
            call(torch.randn(5, 8)) for call in (fixed_eval(policy), policy.forward_eval)
        )
    assert logits.dtype == values.dtype == plain.dtype == dtype


def test_nan_stays_in_its_row() -> None:
    x = torch.randn(3, 8)
    x[1, 2] = torch.nan
    with torch.no_grad():
        logits, values = fixed_eval(Default(REFERENCE))(x)
    assert torch.equal(logits.isnan().all(1), torch.tensor([False, True, False]))
    assert torch.equal(values.isnan(), torch.tensor([[False], [True], [False]]))


# --- what changes a policy ------------------------------------------------------------------------


def _optimize(policy: nn.Module) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    logits, values = policy(torch.randn(5, 8))
    (logits.sum() + values.sum()).backward()
    optimizer.step()


def _edit_data(policy: nn.Module) -> None:
    for each in policy.parameters():
        each.data.mul_(2)  # leaves no mark on the version of the tensor


def _edit_memory(policy: nn.Module) -> None:
    for each in policy.parameters():
        each.detach().numpy()[:] += 0.5


def _hook(policy: Any) -> None:
    policy.actor.register_forward_hook(lambda module, inputs, output: output + 1)
    policy.encoder.layers[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))


def _exchange(policy: Any) -> None:
    policy.critic = nn.Sequential(nn.Linear(128, 7), nn.Tanh(), nn.Linear(7, 1))
    policy.encoder.layers[1] = nn.ReLU()


def _patch(policy: Any) -> None:
    policy.encoder.layers[1].forward = torch.tanh


def _parametrize(policy: Any) -> None:
    parametrizations.weight_norm(policy.actor.linear)
    parametrizations.weight_norm(policy.encoder.layers[0])
    with torch.no_grad():
        policy.encoder.layers[0].parametrizations.weight.original0.mul_(3)


def _prune(policy: Any) -> None:
    prune.l1_unstructured(policy.critic, "weight", 0.5)
    prune.l1_unstructured(policy.encoder.layers[0], "weight", 0.5)
    with torch.no_grad():
        policy.critic.weight_orig.mul_(3)


def _compile(policy: Any) -> None:
    policy.encoder.layers.compile(backend="eager")


CHANGES: dict[str, Callable[[Any], object]] = {
    "optimizer": _optimize,
    "load": lambda policy: policy.load_state_dict(Default(REFERENCE).state_dict()),
    "assign": lambda policy: policy.load_state_dict(Default(REFERENCE).state_dict(), assign=True),
    "data": _edit_data,
    "memory": _edit_memory,
    "hooks": _hook,
    "parts": _exchange,
    "patch": _patch,
    "parametrization": _parametrize,
    "pruning": _prune,
    "compile": _compile,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_calls_of_the_next_rollout_follow_every_change(change: str) -> None:
    policy, x, starts = Default(REFERENCE), torch.randn(5, 8), torch.zeros(5, dtype=torch.bool)
    carry = Carry(policy, 5, device=torch.device("cpu"), use_rnn=None)
    with torch.no_grad(), carry.fixed(may_wait=True):
        before = carry.step(x, starts)
    CHANGES[change](policy)
    with torch.no_grad():
        logits, values = policy.forward_eval(x)
        outside = carry.step(x, starts)
        with carry.fixed(may_wait=True):
            inside = carry.step(x, starts)
    assert change == "compile" or not torch.allclose(values[:, 0], before[1])
    for after in (outside, inside):
        assert_same_logits(after[0], logits, atol=1e-5)
        torch.testing.assert_close(after[1], values[:, 0], atol=1e-5, rtol=1e-5)


def test_weights_of_another_dtype_are_followed() -> None:
    policy = Default(REFERENCE)
    fixed_eval(policy)
    policy.double()
    assert_same_eval(policy, torch.randn(3, 8))
    assert_same_eval(copy.deepcopy(policy), torch.randn(3, 8))


def test_a_hook_on_every_module_sees_every_module() -> None:
    policy, seen = Default(REFERENCE), []
    handle = register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        with torch.no_grad():
            fixed_eval(policy)(torch.randn(3, 8))
    finally:
        handle.remove()
    assert {policy.encoder, policy.actor, policy.critic} <= set(seen)


def test_hooks_deep_inside_are_run() -> None:
    policy, shapes = Default(REFERENCE), []
    policy.encoder.features.register_forward_hook(lambda *each: shapes.append(each[2].shape))
    fixed_eval(policy)(torch.randn(3, 8))
    assert shapes == [(3, 8)]


# --- subclasses -----------------------------------------------------------------------------------


class Doubled(Default):
    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return 2 * super().encode_observations(observations, state)


class Shifted(Default):
    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        logits, values = super().decode_actions(hidden)
        return logits + torch.arange(4.0), values + 1


class Clipped(Default):
    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return super().forward_eval(observations.clamp(-0.1, 0.1), state)


class Halved(LSTMWrapper):
    def transform_observations(self, observations: Any, state: Any) -> Any:
        return observations / 2

    def transform_logits(self, logits: Any, state: Any) -> Any:
        return logits / 2


class Offset(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize("policy_class", [Doubled, Shifted, Clipped])
def test_methods_of_a_subclass_are_called(policy_class: type[Default]) -> None:
    policy = policy_class(REFERENCE)
    assert_same_eval(policy, torch.randn(5, 8))
    memory = LSTMWrapper(REFERENCE, policy)
    assert_same_eval(memory, torch.randn(5, 8), memory.initial_state(5))


def test_methods_of_a_memory_with_its_own_transforms_are_called() -> None:
    memory = Halved(REFERENCE, Default(REFERENCE))
    assert_same_eval(memory, torch.randn(5, 8), memory.initial_state(5))


def test_a_method_of_one_instance_is_called() -> None:
    policy, plain = Default(REFERENCE), Default(REFERENCE)
    policy.forward_eval = plain.forward_eval  # type: ignore[method-assign]
    assert_same_eval(policy, torch.randn(5, 8))


def test_a_layer_with_a_forward_of_its_own_is_not_taken_for_its_base() -> None:
    layer, x = Offset(8, 2), torch.randn(3, 8)
    assert torch.equal(fixed_call(layer)(x), layer(x))
    policy = Default(REFERENCE)
    policy.actor.linear = Offset(128, 4)
    assert_same_eval(policy, x)


class Scaled(nn.Linear):
    """A layer whose weight is computed whenever it is read."""

    scale = 1.0

    def __init__(self) -> None:
        super().__init__(8, 2)
        self.plain = self._parameters.pop("weight")

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and "plain" in self._parameters:
            return self.plain * self.scale
        return super().__getattr__(name)


def test_a_layer_that_computes_its_weight_does_so_in_each_call() -> None:
    layer, x = Scaled(), torch.randn(3, 8)
    call = fixed_call(layer)
    layer.scale = 3.0
    assert torch.equal(call(x), layer(x))


# --- where it is used -----------------------------------------------------------------------------


def test_only_the_plain_calls_of_a_policy_are_fixed() -> None:
    policy, device = Default(REFERENCE), torch.device("cpu")
    calls = policy_calls(policy, device=device, precision="bfloat16")
    carry = Carry(policy, 3, device=device, use_rnn=None, calls=calls)
    with carry.fixed(may_wait=True):
        assert carry._calls is calls


def test_calls_are_the_policys_again_after_an_error() -> None:
    policy, device = Default(REFERENCE), torch.device("cpu")
    carry = Carry(policy, 3, device=device, use_rnn=None)
    calls = carry._calls
    with pytest.raises(ZeroDivisionError), carry.fixed(may_wait=True):
        raise ZeroDivisionError
    assert carry._calls is calls
