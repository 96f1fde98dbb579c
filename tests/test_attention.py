"""Attention memories are what their papers' sums say, in steps and in sequence, episodes apart."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.gtrxl import GTrXLCore, GTrXLLayer
from puffer_policies.nn.cores.transformer_xl import TransformerXLCore

B, T, INPUT, H, M = 3, 11, 5, 8, 4
KINDS = {
    "gtrxl": GTrXLCore,
    "transformer_xl": TransformerXLCore,
    "norm_last": functools.partial(TransformerXLCore, norm_first=False),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="gtrxl", layers=2, memory=M):
    core = KINDS[kind](INPUT, H, num_layers=layers, num_heads=2, memory=memory)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return core


def reference(core, x, starts):
    """One row, one step, one head and one key at a time, in float64, from an empty memory."""
    core = copy.deepcopy(core).double()
    outputs = torch.zeros(len(x), x.shape[1], H, dtype=torch.float64)
    for b in range(len(x)):
        past = [[] for _ in core.layers]
        for t in range(x.shape[1]):
            if starts[b, t]:
                past = [[] for _ in core.layers]
            h = core.embed(x[b, t].double())
            for layer, seen in zip(core.layers, past, strict=True):
                seen.append(h)
                del seen[: -(core.memory + 1)]
                h = layer_of(layer, seen)
            outputs[b, t] = h
    return outputs


def layer_of(layer, seen):
    x = seen[-1]
    if isinstance(layer, GTrXLLayer):
        read = torch.relu(attended(layer, [layer.attention_norm(each) for each in seen]))
        x = gate_of(layer.attention_gate, x, read)
        return gate_of(layer.network_gate, x, torch.relu(layer.network(layer.network_norm(x))))
    if layer.norm_first:
        x = x + attended(layer, [layer.attention_norm(each) for each in seen])
        return x + layer.network(layer.network_norm(x))
    x = layer.attention_norm(x + attended(layer, seen))
    return layer.network_norm(x + layer.network(x))


def attended(layer, normed):
    attention = layer.attention
    query, size = attention.query(normed[-1]), H // attention.num_heads
    heads = []
    for a in range(attention.num_heads):
        part = slice(a * size, (a + 1) * size)
        scores, values = [], []
        for back, each in enumerate(reversed(normed)):
            key, value = attention.key_value(each).chunk(2)
            far = attention.distance(attention.waves[back])
            score = (query + attention.content_bias)[part] @ key[part]
            score = score + (query + attention.distance_bias)[part] @ far[part]
            scores.append(score / size**0.5)
            values.append(value[part])
        weights = torch.stack(scores).softmax(0)
        heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
    return attention.output(torch.cat(heads))


def gate_of(gate, x, y):
    w_reset, w_update, w_new = gate.said.weight.chunk(3)
    u_reset, u_update = gate.came.weight.chunk(2)
    reset = torch.sigmoid(w_reset @ y + u_reset @ x)
    update = torch.sigmoid(w_update @ y + u_update @ x - gate.bias)
    new = torch.tanh(w_new @ y + gate.reset.weight @ (reset * x))
    return (1 - update) * x + update * new


@pytest.mark.parametrize(("layers", "share"), [(1, 0.2), (2, 0.0), (2, 0.9), (3, 0.2)])
@every_kind
def test_a_sequence_is_the_sum_over_what_each_step_may_see(kind, layers, share):
    core, x, starts = make(kind, layers), torch.randn(B, T, INPUT), torch.rand(B, T) < share
    with torch.no_grad():
        own, _ = core(x, core.initial_state(B), starts)
        expected = reference(core, x, starts)
    torch.testing.assert_close(own.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory", [1, 4, 20])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
@every_kind
def test_steps_and_pieces_are_the_sequence(kind, memory, share):
    core, x, starts = make(kind, memory=memory), torch.randn(B, T, INPUT), torch.rand(B, T) < share
    with torch.no_grad():
        _, state = core(torch.randn(B, 6, INPUT), core.initial_state(B))
        whole, after = core(x, state, starts)
        first, between = core(x[:, :5], state, starts[:, :5])
        second, end = core(x[:, 5:], between, starts[:, 5:])
        carried, steps = state, []
        for t in range(T):
            hidden, carried = core.step(x[:, t], core.reset(carried, starts[:, t]))
            steps.append(hidden)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=0)
    for reached in (end, carried):
        torch.testing.assert_close(reached, after, atol=1e-5, rtol=0)


@every_kind
def test_the_gradient_reaches_as_far_as_the_layers_and_not_across_a_start(kind):
    core = make(kind, layers=2, memory=2)
    x = torch.randn(B, T, INPUT, requires_grad=True)
    core(x, core.initial_state(B))[0][:, 9].sum().backward()
    reached = x.grad.abs().sum((0, 2)) > 0
    assert reached.tolist() == [5 <= t <= 9 for t in range(T)]
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 8] = True
    x.grad = None
    core(x, core.initial_state(B), starts)[0][:, 9].sum().backward()
    assert (x.grad.abs().sum((0, 2)) > 0).tolist() == [8 <= t <= 9 for t in range(T)]


@pytest.mark.parametrize(
    ("core", "count"),
    [
        (lambda: GTrXLCore(64, 64, num_heads=2), 210_624),
        (lambda: GTrXLCore(128, 128, num_heads=4), 839_040),
        (lambda: TransformerXLCore(64, 64), 219_968),
    ],
)
def test_parameter_counts_are_the_stated_ones(core, count):
    core = core()
    assert sum(each.numel() for each in core.parameters()) == count


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(BuildError, match="not a multiple of num_heads=3"):
        GTrXLCore(4, 8, num_heads=3)
    with pytest.raises(BuildError, match="memory=0"):
        GTrXLCore(4, 8, memory=0)
