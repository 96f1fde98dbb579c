"""Wrappers delegate, leave what they wrap alone, and carry the state as PufferLib does."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
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
from torch import Tensor, nn

from puffer_policies.contract import missing_members
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.models import Default, LSTMWrapper
from puffer_policies.nn.distributions import distribution
from puffer_policies.pytorch import layer_init
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.base import PolicyWrapper

B, T = 4, 6


class Structured(nn.Module):
    """A policy in the words of PufferLib's guide: no is_continuous, no episode starts."""

    def __init__(self, env: Any, hidden_size: int = 32) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        width = env.single_observation_space.shape[0]
        self.encoder = nn.Sequential(layer_init(nn.Linear(width, hidden_size)), nn.GELU())
        self.action_head = layer_init(nn.Linear(hidden_size, env.single_action_space.n), std=0.01)
        self.value_head = layer_init(nn.Linear(hidden_size, 1), std=1)

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        return self.encoder(observations.view(observations.shape[0], -1).float())

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_head(hidden), self.value_head(hidden)

    def forward_eval(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward_eval(observations, state)


def wrapped(observation: str = "vector", action: str = "discrete", **kwargs: Any) -> LSTMWrapper:
    env = Spaces(OBSERVATIONS[observation], ACTIONS[action])
    return LSTMWrapper(env, Default(env, hidden_size=16), **kwargs)


def unrolled(policy: LSTMWrapper, x: Any, starts: Tensor | None = None) -> tuple[list[Any], Tensor]:
    """Logits and values of forward_eval at every step."""
    state: dict[str, Any] = dict(policy.initial_state(B))
    logits, values = [], []
    for t in range(T):
        if starts is not None:
            state["episode_start"] = starts[:, t]
        out, value = policy.forward_eval(map_tensors(lambda leaf, t=t: leaf[:, t], x), state)
        logits.append(out)
        values.append(value)
    return logits, torch.cat(values, 1)


@pytest.mark.parametrize(("observation", "action"), PAIRS)
def test_every_space_runs_with_memory(observation: str, action: str) -> None:
    policy, space = wrapped(observation, action), OBSERVATIONS[observation]
    state = policy.initial_state(3)
    logits, values = policy.forward_eval(observation_batch(space, 3), state)
    assert values.shape == (3, 1)
    dist = distribution(logits)
    assert dist.log_prob(dist.sample()).shape == (3,)
    logits, values = policy(observation_batch(space, 3, 5), {"lstm_h": None, "lstm_c": None})
    assert values.shape == (3, 5)
    assert all(each.shape[0] == 15 for each in tensors_of(logits))


@pytest.mark.parametrize(
    ("observation", "action", "layers"),
    [("vector", "discrete", 1), ("dict", "multibinary", 2), ("image_hwc", "box", 1)],
)
def test_steps_equal_the_sequence_with_starts(observation: str, action: str, layers: int) -> None:
    policy = wrapped(observation, action, num_layers=layers)
    x = observation_batch(OBSERVATIONS[observation], B, T)
    starts = torch.rand(B, T) < 0.3
    logits, values = policy(x, {"episode_start": starts})
    step_logits, step_values = unrolled(policy, x, starts)
    torch.testing.assert_close(values, step_values, atol=1e-5, rtol=1e-5)
    columns = zip(*(tensors_of(each) for each in step_logits), strict=True)
    for whole, steps in zip(tensors_of(logits), columns, strict=True):
        torch.testing.assert_close(whole, torch.stack(steps, 1).flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_without_starts_it_is_pufferlibs_computation() -> None:
    policy, x = wrapped(), torch.randn(B, T, 8)
    lstm = nn.LSTM(16, 16)
    lstm.load_state_dict(policy.lstm.state_dict())
    hidden = policy.policy.encode_observations(x.flatten(0, 1)).reshape(B, T, 16)
    hidden, (h, c) = lstm(hidden.transpose(0, 1))
    expected, values = policy.policy.decode_actions(hidden.transpose(0, 1).reshape(B * T, 16))
    state: dict[str, Any] = {"lstm_h": None, "lstm_c": None, "action": torch.zeros(B, T)}
    logits, found = policy(x, state)
    assert_same_logits(logits, expected)
    torch.testing.assert_close(found, values.reshape(B, T))
    torch.testing.assert_close(state["lstm_h"], h[0])
    torch.testing.assert_close(state["lstm_c"], c[0])


@pytest.mark.parametrize("policy_class", [Structured, Default])
def test_it_runs_with_the_states_of_pufferlibs_trainer(policy_class: Any) -> None:
    policy = LSTMWrapper(REFERENCE, policy_class(REFERENCE, hidden_size=32), 32, 32)
    extra = {
        "reward": torch.zeros(B),
        "done": torch.ones(B),
        "env_id": slice(0, B),
        "mask": torch.ones(B, dtype=torch.bool),
    }
    state = {**extra, "lstm_h": torch.zeros(B, 32), "lstm_c": torch.zeros(B, 32)}
    with torch.no_grad():
        logits, values = policy.forward_eval(torch.randn(B, 8), state)
    assert (logits.shape, values.shape) == ((B, 4), (B, 1))
    assert state["lstm_h"].shape == (B, 32)
    assert state["lstm_h"].any()
    assert all(state[key] is value for key, value in extra.items())
    training = {"action": torch.zeros(B, T), "lstm_h": None, "lstm_c": None}
    logits, values = policy(torch.randn(B, T, 8), training)
    assert (logits.shape, values.shape) == ((B * T, 4), (B, T))


def test_a_policy_of_the_guide_counts_as_discrete() -> None:
    policy = LSTMWrapper(REFERENCE, Structured(REFERENCE))
    assert policy.is_continuous is False
    assert policy.hidden_size == 32
    assert missing_members(policy) == []


def test_done_alone_never_resets() -> None:
    policy, x = wrapped(), torch.randn(B, 8)
    first, second = policy.initial_state(B), {**policy.initial_state(B), "done": torch.ones(B)}
    for state in (first, second):
        policy.forward_eval(x, state)
        policy.forward_eval(x, state)
    torch.testing.assert_close(first["lstm_h"], second["lstm_h"])


def test_a_started_row_equals_a_fresh_one_and_others_go_on() -> None:
    policy, x = wrapped(), torch.randn(B, 8)
    state: dict[str, Any] = {}
    policy.forward_eval(torch.randn(B, 8), state)
    going_on = dict(state)
    state["episode_start"] = torch.tensor([True, False, True, False])
    found, fresh = policy.forward_eval(x, state)[0], policy.forward_eval(x)[0]
    expected = torch.where(
        state["episode_start"][:, None], fresh, policy.forward_eval(x, going_on)[0]
    )
    torch.testing.assert_close(found, expected)


def test_a_start_for_each_row_of_a_sequence_means_its_first_step() -> None:
    policy, x = wrapped(), torch.randn(B, T, 8)
    carried = {key: torch.randn_like(each) for key, each in policy.initial_state(B).items()}
    first = torch.tensor([True, False, False, True])
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 0] = first
    short = policy(x, {**carried, "episode_start": first})
    whole = policy(x, {**carried, "episode_start": starts.float()})
    torch.testing.assert_close(short, whole)


@pytest.mark.parametrize("state", [None, {}, {"lstm_h": None, "lstm_c": None}])
def test_no_state_means_a_fresh_one(state: Any) -> None:
    policy, x = wrapped(), torch.randn(B, 8)
    expected = policy.forward_eval(x, policy.initial_state(B))
    torch.testing.assert_close(policy.forward_eval(x, copy.copy(state)), expected)
    torch.testing.assert_close(policy(x, copy.copy(state))[1], expected[1])


def test_a_sequence_of_one_step_equals_a_step() -> None:
    policy, x = wrapped(), torch.randn(B, 8)
    for shaped in (x, x[:, None]):
        torch.testing.assert_close(policy(shaped)[0], policy.forward_eval(x)[0])


@pytest.mark.parametrize(
    "state",
    [
        {"lstm_h": torch.zeros(B, 9), "lstm_c": torch.zeros(B, 16)},
        {"lstm_h": torch.zeros(1, B, 16), "lstm_c": torch.zeros(1, B, 16)},
        {"lstm_h": torch.zeros(B + 1, 16), "lstm_c": torch.zeros(B + 1, 16)},
        {"lstm_h": torch.zeros(B, 16)},
        {"episode_start": torch.zeros(B + 1)},
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_both_shapes(state: Any) -> None:
    for run, x in ((wrapped().forward_eval, torch.zeros(B, 8)), (wrapped(), torch.zeros(B, T, 8))):
        with pytest.raises(ContractError, match=r"expected \(4,"):
            run(x, dict(state))


def test_state_written_back_is_detached_and_the_graph_does_not_grow() -> None:
    policy, state = wrapped(), {}
    logits, _ = policy.forward_eval(torch.randn(B, 8), state)
    graph = weakref.ref(logits)
    del logits
    policy.forward_eval(torch.randn(B, 8), state)
    assert graph() is None
    policy(torch.randn(B, T, 8), state)
    assert not any(each.requires_grad for each in state.values())


def test_memory_is_used_and_the_gradient_reaches_the_past() -> None:
    policy, x = wrapped(), torch.randn(B, T, 8, requires_grad=True)
    policy(x)[1][:, -1].sum().backward()
    assert (x.grad.abs().sum((0, 2)) > 0).all()


def test_the_wrapped_policy_keeps_its_parameters() -> None:
    policy = Default(REFERENCE)
    before = copy.deepcopy(policy.state_dict())
    flags = [each.requires_grad for each in policy.parameters()]
    whole = LSTMWrapper(REFERENCE, policy)
    torch.testing.assert_close(policy.state_dict(), before, atol=0, rtol=0)
    assert [each.requires_grad for each in policy.parameters()] == flags
    assert whole.unwrapped is whole.policy is policy


@pytest.mark.parametrize("layers", [1, 2])
def test_the_state_dict_holds_each_tensor_once_and_loads(layers: int) -> None:
    policy, other = wrapped(num_layers=layers), wrapped(num_layers=layers)
    weights = policy.state_dict()
    assert len({each.data_ptr() for each in weights.values()}) == len(weights)
    assert len(weights) == len(list(policy.parameters()))
    other.load_state_dict(weights, strict=True)
    x = torch.randn(B, T, 8)
    torch.testing.assert_close(other(x), policy(x), atol=0, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    policy = wrapped("dict", "box", num_layers=2)
    logits, values = policy(observation_batch(OBSERVATIONS["dict"], B, T))
    dist = distribution(logits)
    (dist.log_prob(dist.sample()).sum() + values.sum()).backward()
    assert all(each.grad is not None for each in policy.parameters())


@pytest.mark.parametrize("size", ["input_size", "hidden_size"])
def test_a_size_that_does_not_fit_is_named(size: str) -> None:
    with pytest.raises(BuildError, match=rf"{size}=24 .*'Default' has hidden_size=16"):
        wrapped(**{size: 24})


def test_sizes_are_needed_where_the_policy_does_not_say() -> None:
    policy = Structured(REFERENCE)
    del policy.hidden_size
    with pytest.raises(BuildError, match="no hidden_size"):
        LSTMWrapper(REFERENCE, policy)
    assert LSTMWrapper(REFERENCE, policy, 32, 32).hidden_size == 32


def test_what_has_no_structure_or_has_a_memory_is_refused() -> None:
    with pytest.raises(ContractError, match="encode_observations and decode_actions"):
        LSTMWrapper(REFERENCE, nn.Linear(8, 4), 8, 8)
    with pytest.raises(BuildError, match="has a memory already"):
        LSTMWrapper(REFERENCE, wrapped())


def test_a_number_of_layers_is_no_positional_argument() -> None:
    with pytest.raises(TypeError):
        LSTMWrapper(REFERENCE, Default(REFERENCE), 128, 128, 2)  # type: ignore[misc]


def test_other_observation_shapes_are_refused() -> None:
    with pytest.raises(IncompatibleSpace, match=r"\(4, 9\).*\(8,\)"):
        wrapped()(torch.zeros(B, 9))


class Louder(PolicyWrapper):
    """Doubles what the policy sees, and turns its logits round."""

    def transform_observations(self, observations: Any, state: Any) -> Any:
        return observations * 2

    def transform_logits(self, logits: Any, state: Any) -> Any:
        return -logits


def test_a_wrapper_hands_everything_on() -> None:
    policy, x = Default(REFERENCE), torch.randn(B, 8)
    whole = PolicyWrapper(REFERENCE, policy)
    assert missing_members(whole) == []
    assert (whole.hidden_size, whole.is_continuous) == (128, False)
    assert not hasattr(whole, "initial_state")
    assert whole.state_dict().keys() == {f"policy.{key}" for key in policy.state_dict()}
    for run, expected in ((whole, policy(x)), (whole.forward_eval, policy.forward_eval(x))):
        torch.testing.assert_close(run(x), expected)


def test_a_wrapper_changes_what_passes_around_any_policy() -> None:
    x = torch.randn(B, T, 8)
    for policy in (Default(REFERENCE), wrapped()):
        expected, values = policy(x * 2)
        logits, found = Louder(REFERENCE, policy)(x)
        torch.testing.assert_close(logits, -expected)
        torch.testing.assert_close(found, values)


def test_a_wrapper_is_as_recurrent_as_what_it_wraps() -> None:
    inner = wrapped()
    whole = Louder(REFERENCE, inner)
    assert whole.initial_state(3).keys() == {"lstm_h", "lstm_c"}
    assert whole.unwrapped is inner.policy


@pytest.mark.parametrize(
    ("observation", "action", "layers"), [("vector", "discrete", 1), ("dict", "box", 2)]
)
def test_a_step_compiles_without_a_break(observation: str, action: str, layers: int) -> None:
    policy = wrapped(observation, action, num_layers=layers)
    x = observation_batch(OBSERVATIONS[observation], B)
    state = {**policy.initial_state(B), "episode_start": torch.ones(B, dtype=torch.bool)}
    torch._dynamo.reset()
    explained = torch._dynamo.explain(policy.forward_eval)(x, state)
    assert explained.graph_break_count == 0, explained.break_reasons


def test_it_runs_an_episode_of_a_real_env() -> None:
    env = gymnasium.make("CartPole-v1")
    policy = LSTMWrapper(env, Default(env))
    observation, _ = env.reset(seed=0)
    state: dict[str, Any] = {}
    done = False
    while not done:
        with torch.no_grad():
            logits, _ = policy.forward_eval(torch.from_numpy(observation)[None], state)
        action = distribution(logits).sample().numpy()
        observation, _, terminated, truncated, _ = env.step(np.int64(action[0]))
        done = terminated or truncated
    env.close()
    assert isinstance(env.action_space, spaces.Discrete)
