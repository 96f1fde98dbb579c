"""Calls of a policy under bfloat16 and torch.compile: the same numbers, near enough."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_policies import Plain, Split
from training_toys import guesses

from puffer_policies.contract import EPISODE_START
from puffer_policies.train import carry
from puffer_policies.train.carry import policy_calls
from puffer_policies.wrappers.memory import LSTMWrapper

# Dynamo hides this warning of its own, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {}
LOW = {"precision": "bfloat16"}
COMPILED = {"compile_mode": "default"}
MAKERS = [Plain, lambda env: LSTMWrapper(env, Split(env))]


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    """Trace and differentiate, but spare the seconds of generating code."""
    monkeypatch.setattr(carry, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def policy_of(make):
    torch.manual_seed(0)
    return make(guesses())


def step(policy, options, rows=3):
    state = policy.initial_state(rows, CPU) if hasattr(policy, "initial_state") else {}
    state = {**state, EPISODE_START: torch.zeros(rows, dtype=torch.bool)}
    observations = torch.linspace(0, 1, rows)[:, None]
    logits, values = policy_calls(policy, device=CPU, **options).forward_eval(observations, state)
    return logits, values, state


def gradients(policy, options):
    observations, starts = torch.rand(4, 6, 1), torch.zeros(4, 6, dtype=torch.bool)
    starts[1, 3] = True
    if not hasattr(policy, "initial_state"):
        observations, starts = observations.flatten(0, 1), starts.flatten()
        state = {}
    else:
        state = policy.initial_state(4, CPU)
    call = policy_calls(policy, device=CPU, **options)
    logits, values = call.forward(observations, {**state, EPISODE_START: starts})
    policy.zero_grad()
    (logits.float().square().mean() + values.square().mean()).backward()
    return torch.cat([each.grad.flatten() for each in policy.parameters()])


@pytest.mark.parametrize("make", MAKERS)
def test_float32_is_the_policy_itself(make):
    policy = policy_of(make)
    logits, values, _ = step(policy, PLAIN)
    torch.manual_seed(0)
    again, values_again, _ = step(policy, PLAIN)
    assert torch.equal(logits, again)
    assert torch.equal(values, values_again)


@pytest.mark.parametrize("make", MAKERS)
def test_bfloat16_rounds_matrix_products_and_leaves_values_and_state_float32(make):
    policy = policy_of(make)
    logits, values, state = step(policy, LOW)
    exact, values_exact, state_exact = step(policy, PLAIN)
    assert logits.dtype is torch.bfloat16
    assert values.dtype is torch.float32
    assert {key: each.dtype for key, each in state.items()} == {
        key: each.dtype for key, each in state_exact.items()
    }
    assert not torch.equal(values, values_exact)
    torch.testing.assert_close(logits.float(), exact, atol=0.02, rtol=0.02)
    torch.testing.assert_close(values, values_exact, atol=0.02, rtol=0.02)
    for key, each in state_exact.items():
        torch.testing.assert_close(state[key], each, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("options", "tolerance"), [(LOW, 0.05), (COMPILED, 1e-5)])
def test_gradients_are_those_of_the_plain_policy_and_float32(make, options, tolerance):
    policy = policy_of(make)
    torch.manual_seed(1)
    exact = gradients(policy, PLAIN)
    torch.manual_seed(1)
    actual = gradients(policy, options)
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, exact, atol=tolerance * exact.abs().max(), rtol=tolerance)


@pytest.mark.parametrize("make", MAKERS)
def test_a_compiled_step_is_the_plain_one_and_brings_the_state_up_to_date(make):
    policy = policy_of(make)
    keys = list(policy.state_dict())
    logits, values, state = step(policy, COMPILED)
    exact, values_exact, state_exact = step(policy, PLAIN)
    torch.testing.assert_close(logits, exact)
    torch.testing.assert_close(values, values_exact)
    torch.testing.assert_close(state, state_exact)
    assert list(policy.state_dict()) == keys


def test_neither_steps_nor_other_episode_starts_are_compiled_again(monkeypatch):
    graphs = []

    def counting(module, _):
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(carry, "BACKEND", counting)
    policy = policy_of(MAKERS[1])
    compiled, counts = policy_calls(policy, device=CPU, **COMPILED), []
    for time in (0, 3, 5, 2):
        starts = torch.zeros(4, 6, dtype=torch.bool)
        starts[1, time] = True
        state = policy.initial_state(4, CPU)
        compiled.forward(torch.rand(4, 6, 1), {**state, EPISODE_START: starts})
        compiled.forward_eval(torch.rand(4, 1), {**state, EPISODE_START: starts[:, time]})
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts[1] == counts[-1]


def test_what_a_rollout_keeps_outlives_the_next_replay_of_a_graph(monkeypatch):
    class Replayed(torch.nn.Module):
        """Returns the same memory from every call, as the replay of a CUDA graph does."""

        memory = torch.zeros(3)

        def forward_eval(self, observations, state):
            self.memory.add_(1)
            state["hidden"] = self.memory
            return self.memory, self.memory

    monkeypatch.setattr(carry, "_compiled", lambda call, mode: call)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    device = torch.device("cuda")
    calls = policy_calls(Replayed(), device=device, compile_mode="reduce-overhead")
    state: dict = {}
    _, values = calls.forward_eval(None, state)
    hidden = state["hidden"]
    calls.forward_eval(None, state)
    assert values.tolist() == hidden.tolist() == [1.0, 1.0, 1.0]
