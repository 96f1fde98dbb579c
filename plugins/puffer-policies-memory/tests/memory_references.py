"""The memories' equations in float64: one row, one step and, for sums, one earlier step at a time.

Each takes a core, x (B, T, I), a state and starts (B, T), and returns hidden features (B, T, H).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from puffer_policies.nn.cores.base import Core

State = dict[str, Tensor]


def by_rows(make: Callable[..., Callable[[Tensor, bool], Tensor]]) -> Callable[..., Tensor]:
    """Run a row's `step(x, starts) -> hidden`, which `make(core, state of the row)` returns."""

    def run(core: Core, x: Tensor, state: State, starts: Tensor) -> Tensor:
        core = copy.deepcopy(core).double()
        rows = []
        for b in range(len(x)):
            step = make(core, {key: value[b].double() for key, value in state.items()})
            rows.append(
                torch.stack([step(x[b, t].double(), starts[b, t]) for t in range(len(x[b]))])
            )
        return torch.stack(rows)

    return run


def part(core: Core, state: State, key: str, k: int) -> Tensor:
    return (state[key] if len(core.layers) == 1 else state[key][k]).clone()


@by_rows
def lru(core, state):
    h = [
        torch.complex(part(core, state, "lstm_h", k), part(core, state, "lstm_c", k))
        for k in range(len(core.layers))
    ]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            b_real, b_imag = layer.input.weight.chunk(2)
            c_real, c_minus_imag = layer.output.weight.chunk(2, 1)
            lam = torch.exp(-torch.exp(layer.nu_log) + 1j * torch.exp(layer.theta_log))
            past = torch.zeros_like(h[k]) if starts else h[k]
            h[k] = lam * past + torch.exp(layer.gamma_log) * ((b_real + 1j * b_imag) @ (x + 0j))
            y = ((c_real - 1j * c_minus_imag) @ h[k]).real + layer.skip * x
            y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
            x = torch.where(y > 0, y, 0.01 * y)
        return x

    return step


@by_rows
def rtu(core, state):
    pairs = [
        [part(core, state, key, k) for key in ("lstm_h", "lstm_c")] for k in range(len(core.layers))
    ]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            first, second = layer.input.weight.chunk(2)
            r, theta = torch.exp(-torch.exp(layer.nu_log)), torch.exp(layer.theta_log)
            cos, sin, gamma = r * torch.cos(theta), r * torch.sin(theta), torch.sqrt(1 - r * r)
            c1, c2 = [torch.zeros_like(each) for each in pairs[k]] if starts else pairs[k]
            new = [
                cos * c1 - sin * c2 + gamma * (first @ x),
                sin * c1 + cos * c2 + gamma * (second @ x),
            ]
            rectified = [each.clamp(min=0) for each in new]
            pairs[k] = new if layer.linear else rectified
            x = layer.output(torch.cat(rectified))
        return x

    return step


@by_rows
def minlstm(core, state):
    h = [part(core, state, "lstm_h", k) for k in range(len(core.layers))]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            u = x if layer.norm is None else layer.norm(x)
            forget, enter, candidate = layer.linear(u).chunk(3)
            forget, enter = torch.sigmoid(forget), torch.sigmoid(enter)
            new = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
            past = torch.zeros_like(h[k]) if starts else h[k]
            h[k] = forget / (forget + enter) * past + enter / (forget + enter) * new
            x = h[k] if layer.norm is None else x + h[k]
        return x

    return step


@by_rows
def s5(core, state):
    h = [
        torch.complex(part(core, state, "s5_real", k), part(core, state, "s5_imag", k))
        for k in range(len(core.layers))
    ]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            space, u = layer.space, layer.norm(x)
            b_real, b_imag = space.input.weight.chunk(2)
            c_real, c_minus_imag = space.output.weight.chunk(2, 1)
            lam = -torch.exp(space.log_rate) + 1j * space.frequency
            delta = torch.exp(space.log_step)
            bar = torch.exp(lam * delta)
            past = torch.zeros_like(h[k]) if starts else h[k]
            h[k] = bar * past + (1 / lam * (bar - 1)) * ((b_real + 1j * b_imag) @ (u + 0j))
            # The conjugate half of the state, written out instead of a factor of 2.
            c = c_real - 1j * c_minus_imag
            y = (c @ h[k] + c.conj() @ h[k].conj()).real + space.skip * u
            left, right = layer.gate(functional.gelu(layer.gate_norm(y))).chunk(2)
            x = x + left * torch.sigmoid(right)
        return x

    return step


@by_rows
def ffm(core, state):
    s = [
        torch.complex(part(core, state, "ffm_real", k), part(core, state, "ffm_imag", k))
        for k in range(len(core.layers))
    ]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            m, c = s[k].shape
            said = layer.input(x)
            width = len(x)
            value, past, gates = said[:m], said[m : m + width], torch.sigmoid(said[m + width :])
            new = torch.zeros_like(s[k])
            for i in range(m):
                for j in range(c):
                    turn = torch.exp(-torch.exp(layer.log_rate[i]) + 1j * layer.frequency[j])
                    before = 0.0 if starts else s[k][i, j]
                    new[i, j] = turn * before + value[i] * gates[i]
            s[k] = new
            read = layer.output(torch.cat([new.real.flatten(), new.imag.flatten()]))
            read = (read - read.mean()) / torch.sqrt(read.var(correction=0) + 1e-5)
            x = read * gates[m:] + past * (1 - gates[m:])
        return x

    return step


@by_rows
def linear_attention(core, state):
    count = len(core.layers)
    total = [part(core, state, "attention_sum", k) for k in range(count)]
    norm = [part(core, state, "attention_norm", k) for k in range(count)]
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]
    time = float(state["attention_time"].flatten()[0])

    def step(x, starts):
        nonlocal time
        if starts:
            time = 0.0
            for k in range(count):
                total[k], norm[k], seen[k] = 0 * total[k], 0 * norm[k], []
        x = core.embed(x)
        angles = [time / 10_000 ** (i / len(x)) for i in range(0, len(x), 2)]
        waves = [math.sin(each) for each in angles] + [math.cos(each) for each in angles]
        time += 1
        for k, layer in enumerate(core.layers):
            if layer.keep is not None:
                total[k] = total[k] * layer.keep[:, None, None]
                norm[k] = norm[k] * layer.keep[:, None]
        for k, layer in enumerate(core.layers):
            u, (heads, size) = layer.norm(x), layer.heads
            placed = layer.norm(x + torch.tensor(waves[: len(u)], dtype=torch.float64))
            query = functional.elu(layer.query(placed)) + 1
            seen[k].append((functional.elu(layer.key(placed)) + 1, layer.value(u)))
            read = []
            for a in range(heads):
                cut = slice(a * size, (a + 1) * size)
                above, below = query[cut] @ total[k][a], query[cut] @ norm[k][a]
                for age, (key, value) in enumerate(reversed(seen[k])):
                    weight = query[cut] @ key[cut]
                    if layer.keep is not None:
                        weight = weight * layer.keep[a] ** age
                    above, below = above + weight * value[cut], below + weight
                read.append(above / (below + 1e-5))
            x = x + layer.network(torch.cat(read))
        return x

    return step


@by_rows
def mamba(core, state):
    count = len(core.layers)
    window = [list(part(core, state, "mamba_window", k)) for k in range(count)]
    h = [part(core, state, "mamba_state", k) for k in range(count)]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            if starts:
                window[k] = [torch.zeros_like(each) for each in window[k]]
                h[k] = torch.zeros_like(h[k])
            u, gate = layer.input(layer.norm(x)).chunk(2)
            window[k].append(u)
            u = layer.convolution.bias.clone()
            for weight, each in zip(layer.convolution.weight, window[k], strict=True):
                u = u + weight * each
            window[k].pop(0)
            u = u * torch.sigmoid(u)
            space = layer.space
            rank, size, _ = space.sizes
            low = space.select(u)
            enter, leave = low[rank : rank + size], low[rank + size :]
            delta = torch.log1p(torch.exp(space.step_size(low[:rank])))
            new = torch.zeros_like(h[k])
            for d in range(len(u)):
                new[d] = torch.exp(-delta[d] * torch.exp(space.log_rate[d])) * h[k][d]
                new[d] += delta[d] * enter * u[d]
            h[k] = new
            y = new @ leave + space.skip * u
            x = x + layer.output(y * gate * torch.sigmoid(gate))
        return x

    return step


def convolve(layer, window, u):
    """Return the convolution's output for a step, and put it into the window, a list of steps."""
    window.append(u)
    pairs = zip(layer.convolution.weight, window, strict=True)
    output = layer.convolution.bias + sum(weight * each for weight, each in pairs)
    window.pop(0)
    return output * torch.sigmoid(output)


def rms(x):
    return x / torch.sqrt(x.square().mean() + 1e-5)


@by_rows
def mamba2(core, state):
    count = len(core.layers)
    window = [list(part(core, state, "mamba2_window", k)) for k in range(count)]
    h = [part(core, state, "mamba2_state", k) for k in range(count)]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            if starts:
                window[k] = [torch.zeros_like(each) for each in window[k]]
                h[k] = torch.zeros_like(h[k])
            (heads, size), (inner, states, _) = layer.heads, layer.sizes
            projected = layer.input(layer.norm.weight * rms(x))
            gate, low = projected[:inner], projected[len(projected) - heads :]
            u = convolve(layer, window[k], projected[inner : len(projected) - heads])
            enter, leave = u[inner : inner + states], u[inner + states :]
            y = torch.zeros(heads, size, dtype=x.dtype)
            for a in range(heads):
                values = u[a * size : (a + 1) * size]
                delta = torch.log1p(torch.exp(low[a] + layer.step_bias[a]))
                decay = torch.exp(-delta * torch.exp(layer.log_rate[a]))
                h[k][a] = decay * h[k][a] + delta * torch.outer(enter, values)
                y[a] = leave @ h[k][a] + layer.skip[a] * values
            y = rms(y.flatten() * gate * torch.sigmoid(gate)) * layer.output_norm.weight
            x = x + layer.output(y)
        return x

    return step


@by_rows
def gated_delta_net(core, state):
    count = len(core.layers)
    window = [list(part(core, state, "delta_window", k)) for k in range(count)]
    memory = [part(core, state, "delta_memory", k) for k in range(count)]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            if starts:
                window[k] = [torch.zeros_like(each) for each in window[k]]
                memory[k] = torch.zeros_like(memory[k])
            (heads, size), u = layer.heads, layer.norm.weight * rms(x)
            drawn = convolve(layer, window[k], layer.input(u)).reshape(3, heads, size)
            forget, write, gate = layer.forget(u), layer.write(u), layer.gate(u)
            read = []
            for a in range(heads):
                query, key, value = drawn[:, a]
                query = query / torch.sqrt(query @ query + 1e-6)
                key = key / torch.sqrt(key @ key + 1e-6)
                delta = torch.log1p(torch.exp(forget[a] + layer.step_bias[a]))
                decay = torch.exp(-delta * torch.exp(layer.log_rate[a]))
                rate = torch.sigmoid(write[a])
                # As in the paper, where the memory is the transpose of ours.
                erased = torch.eye(size, dtype=x.dtype) - rate * torch.outer(key, key)
                s = decay * memory[k][a].T @ erased + rate * torch.outer(value, key)
                memory[k][a] = s.T
                read.append(layer.head_norm.weight * rms(s @ query))
            x = x + layer.output(torch.cat(read) * gate * torch.sigmoid(gate))
        return x

    return step


def head_norm(layer, heads):
    rows = [(h - h.mean()) / torch.sqrt(h.var(correction=0) + 1e-5) for h in heads]
    return (torch.stack(rows) * layer.head_norm.weight).flatten()


@by_rows
def mlstm(core, state):
    count = len(core.layers)
    window = [list(part(core, state, "mlstm_window", k)) for k in range(count)]
    # In float64 nothing overflows that a test does, so nothing is divided by exp(m).
    scale = [part(core, state, "mlstm_scale", k).exp() for k in range(count)]
    whole = [part(core, state, "mlstm_memory", k) * scale[k][:, None, None] for k in range(count)]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            if starts:
                window[k] = [torch.zeros_like(each) for each in window[k]]
                whole[k] = torch.zeros_like(whole[k])
            heads, size = layer.heads
            u, gate = layer.input(layer.norm(x)).chunk(2)
            convolved = convolve(layer, window[k], u)
            query, key, value = (
                torch.stack([row @ weight for row, weight in zip(inputs, each.weight, strict=True)])
                for each, inputs in (
                    (layer.query, convolved.reshape(heads, size)),
                    (layer.key, convolved.reshape(heads, size)),
                    (layer.value, u.reshape(heads, size)),
                )
            )
            gates = layer.gates(torch.cat([query.flatten(), key.flatten(), value.flatten()]))
            gain, forget = torch.exp(gates[:heads]), torch.sigmoid(gates[heads:])
            read = []
            for a in range(heads):
                cell, norm = whole[k][a, :, :-1], whole[k][a, :, -1]
                scaled = key[a] / math.sqrt(size)
                cell = forget[a] * cell + gain[a] * torch.outer(scaled, value[a])
                norm = forget[a] * norm + gain[a] * scaled
                whole[k][a] = torch.cat([cell, norm[:, None]], 1)
                below = torch.maximum((query[a] @ norm).abs(), torch.ones_like(norm[0]))
                read.append(query[a] @ cell / below)
            y = head_norm(layer, read) + layer.skip * convolved
            x = x + layer.output(y * gate * torch.sigmoid(gate))
        return x

    return step


@by_rows
def slstm(core, state):
    count = len(core.layers)
    h = [part(core, state, "slstm_h", k) for k in range(count)]
    scale = [part(core, state, "slstm_m", k).exp() for k in range(count)]
    c = [part(core, state, "slstm_c", k) * scale[k] for k in range(count)]
    n = [part(core, state, "slstm_n", k) * scale[k] for k in range(count)]

    def step(x, starts):
        x = core.embed(x)
        for k, layer in enumerate(core.layers):
            if starts:
                h[k], c[k], n[k] = 0 * h[k], 0 * c[k], 0 * n[k]
            heads, size = layer.heads
            drive, read = layer.input(layer.norm(x)), []
            for a in range(heads):
                cut = slice(a * size, (a + 1) * size)
                recurrent = h[k][cut] @ layer.recurrent.weight[a]
                gain, forget, new, gate = (drive[4 * a * size :][: 4 * size] + recurrent).chunk(4)
                c[k][cut] = torch.sigmoid(forget) * c[k][cut] + torch.exp(gain) * torch.tanh(new)
                n[k][cut] = torch.sigmoid(forget) * n[k][cut] + torch.exp(gain)
                read.append(torch.sigmoid(gate) * c[k][cut] / n[k][cut])
            h[k] = torch.cat(read)
            x = x + head_norm(layer, read)
        return x

    return step
