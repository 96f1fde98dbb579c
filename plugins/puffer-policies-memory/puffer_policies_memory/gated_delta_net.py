"""Gated DeltaNet: Yang, Kautz and Hatamizadeh 2024, https://arxiv.org/abs/2412.06464.

``S = a S + k (b (v - k a S))^T``, output ``q S``, with keys and queries of length 1: an associative
memory that forgets by a decay `a`, and writes only what a key does not recall yet, at a rate `b`.
Convolutions over the last steps stand before queries, keys and values, an RMS norm and a gate
behind the memory. It differs from the authors' code in this: a head is 32 wide by default, for
values too, where theirs are 256 and 512; the convolutions have biases; and at an episode's start
the window and the memory are empty. Width 128 has 85,032 weights.

`T` time, `B` batch, `H` width, `A` heads, `D` = H/A, `K` width of the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.nn.cores.base import require_heads
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.associative import attend, by_chunks, delta_values, shares_of
from puffer_policies_memory.convolution import WindowConvolution
from puffer_policies_memory.mamba import fresh_log_rate, fresh_step_bias
from puffer_policies_memory.stack import MemoryLayer, StackCore

WINDOW, MEMORY = "delta_window", "delta_memory"


class GatedDeltaNetLayer(MemoryLayer):
    """RMS norm, convolutions, gated delta rule, RMS norm and gate, the identity beside them."""

    def __init__(self, width: int, *, num_heads: int, d_conv: int) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.window = (d_conv - 1, 3 * width)
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.input = layer_init(nn.Linear(width, 3 * width, bias=False), 1.0)
        self.convolution = WindowConvolution(3 * width, d_conv)
        self.forget = layer_init(nn.Linear(width, num_heads, bias=False), 1.0)
        self.write = layer_init(nn.Linear(width, num_heads, bias=False), 1.0)
        self.step_bias = nn.Parameter(fresh_step_bias(num_heads))
        self.log_rate = nn.Parameter(fresh_log_rate(num_heads))
        self.gate = layer_init(nn.Linear(width, width, bias=False), 1.0)
        self.head_norm = nn.RMSNorm(self.heads[1], eps=1e-5)
        self.output = layer_init(nn.Linear(width, width, bias=False), 1.0)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the convolutions' window, (K - 1, 3 H), and the memory, (A, D, D)."""
        return {WINDOW: self.window, MEMORY: (*self.heads, self.heads[1])}

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with window and memory after the last step."""
        u, precision = self.norm(x), carry[MEMORY].dtype
        drawn, window = self.convolution(self.input(u).to(precision), carry[WINDOW], starts)
        drawn = functional.silu(drawn).reshape(*x.shape[:2], 3, *self.heads)  # (T, B, 3, A, D)
        query, key, value = (each.permute(1, 2, 0, 3) for each in drawn.unbind(2))  # (B, A, T, D)
        step = functional.softplus(self.forget(u).to(precision) + self.step_bias)
        parts = (
            unit(query),
            unit(key),
            value,
            (-step * self.log_rate.exp()).permute(1, 2, 0),  # (B, A, T)
            torch.sigmoid(self.write(u).to(precision)).permute(1, 2, 0).unsqueeze(-1),
        )
        read, memory = by_chunks(self._read, parts, carry[MEMORY], starts)
        y = self.head_norm(read.permute(2, 0, 1, 3)).flatten(2)
        x = x + self.output(y * functional.silu(self.gate(u)))
        return x, {WINDOW: window, MEMORY: memory}

    @staticmethod
    def _read(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        decay: Tensor,
        rate: Tensor,
        *,
        carried: Tensor,
        episode: Tensor,
    ) -> tuple[Tensor, Tensor]:
        shares = shares_of(decay, episode, value.dtype)
        written = delta_values(key, value, rate, memory=carried, shares=shares)
        return attend(query, key, written, memory=carried, shares=shares)


def unit(x: Tensor) -> Tensor:
    """(..., D) -> (..., D) of length 1, or less where the length is hardly above 0."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class GatedDeltaNetCore(StackCore):
    """A stack of layers with the gated delta rule.

    State: ``delta_window`` (B, K - 1, 3 H) and ``delta_memory`` (B, A, D, D) for one layer, else
    with the layers after the batch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other.
        num_heads: A, memories of their own; by default each is 32 wide.
        d_conv: K, the steps that the convolutions see.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
        d_conv: int = 4,
    ) -> None:
        heads = require_heads(hidden_size, num_heads)
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [GatedDeltaNetLayer(hidden_size, num_heads=heads, d_conv=d_conv) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class GatedDeltaNetWrapper(MemoryWrapper, core=GatedDeltaNetCore):
    """A policy with the gated delta rule between its encoder and its heads."""
