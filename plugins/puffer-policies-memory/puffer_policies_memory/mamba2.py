"""Mamba-2: Dao and Gu 2024, https://arxiv.org/abs/2405.21060.

A convolution over the last steps, then a state space that decays by one number a head, so that it
is an associative memory: what enters is a value, where it enters is a key, where it leaves is a
query, both shared by all heads. A gate and an RMS norm follow. It differs from the authors'
mamba_ssm in this: sizes are small by default, a head 32 wide with a state of 32, where theirs are
64 and 128; and at an episode's start the window and the state are empty. Width 128 has 109,528
weights.

`T` time, `B` batch, `H` hidden size, `D` = expand * H inner size, `A` heads, `P` = D/A, `N` state
size, `K` width of the convolution.
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
from puffer_policies_memory.associative import attend, by_chunks, shares_of
from puffer_policies_memory.convolution import WindowConvolution
from puffer_policies_memory.mamba import fresh_log_rate, fresh_step_bias
from puffer_policies_memory.stack import MemoryLayer, StackCore

WINDOW, STATE = "mamba2_window", "mamba2_state"


class Mamba2Layer(MemoryLayer):
    """RMS norm, convolution and state space, gate and RMS norm, the identity beside them."""

    def __init__(
        self, hidden_size: int, *, num_heads: int, d_state: int, d_conv: int, expand: int
    ) -> None:
        super().__init__()
        inner = expand * hidden_size
        self.heads = (num_heads, inner // num_heads)
        self.sizes = [inner, d_state, d_state]
        self.split = [inner, sum(self.sizes), num_heads]
        self.shapes = {
            WINDOW: (d_conv - 1, sum(self.sizes)),
            STATE: (num_heads, d_state, self.heads[1]),
        }
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)
        self.input = layer_init(nn.Linear(hidden_size, sum(self.split), bias=False), 1.0)
        self.convolution = WindowConvolution(sum(self.sizes), d_conv)
        self.step_bias = nn.Parameter(fresh_step_bias(num_heads))
        self.log_rate = nn.Parameter(fresh_log_rate(num_heads))
        self.skip = nn.Parameter(torch.ones(num_heads))
        self.output_norm = nn.RMSNorm(inner, eps=1e-5)
        self.output = layer_init(nn.Linear(inner, hidden_size, bias=False), 1.0)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the convolution's window, (K - 1, D + 2 N), and the state, (A, N, P)."""
        return dict(self.shapes)

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with window and state after the last step."""
        projected = self.input(self.norm(x)).to(carry[STATE].dtype)
        gate, u, low = torch.split(projected, self.split, -1)
        u, window = self.convolution(u, carry[WINDOW], starts)
        values, enter, leave = torch.split(functional.silu(u), self.sizes, -1)
        step = functional.softplus(low + self.step_bias)  # (T, B, A)
        values = values.reshape(*x.shape[:2], *self.heads)  # (T, B, A, P)
        parts = (
            leave.transpose(0, 1).unsqueeze(1),  # (B, 1, T, N)
            enter.transpose(0, 1).unsqueeze(1),
            (step.unsqueeze(-1) * values).permute(1, 2, 0, 3),  # (B, A, T, P)
            (-step * self.log_rate.exp()).permute(1, 2, 0),  # (B, A, T)
        )
        read, state = by_chunks(self._read, parts, carry[STATE], starts)
        y = read.permute(2, 0, 1, 3) + self.skip.unsqueeze(-1) * values
        y = self.output_norm(y.flatten(2) * functional.silu(gate))
        return x + self.output(y), {WINDOW: window, STATE: state}

    @staticmethod
    def _read(
        leave: Tensor,
        enter: Tensor,
        values: Tensor,
        decay: Tensor,
        *,
        carried: Tensor,
        episode: Tensor,
    ) -> tuple[Tensor, Tensor]:
        shares = shares_of(decay, episode, values.dtype)
        return attend(leave, enter, values, memory=carried, shares=shares)


class Mamba2Core(StackCore):
    """A stack of Mamba-2 blocks.

    State: ``mamba2_window`` (B, K - 1, D + 2 N) and ``mamba2_state`` (B, A, N, P) for one block,
    else with the blocks after the batch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: blocks on top of each other.
        num_heads: A, parts of the inner width that decay separately; by default each is 32 wide.
        d_state: N, the size of each inner channel's state.
        d_conv: K, the steps that the convolution sees.
        expand: how many times as wide a block is inside.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
        d_state: int = 32,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        require_count("d_state", d_state)
        heads = require_heads(require_count("expand", expand) * hidden_size, num_heads)
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [
            Mamba2Layer(hidden_size, num_heads=heads, d_state=d_state, d_conv=d_conv, expand=expand)
            for _ in count
        ]
        super().__init__(input_size, hidden_size, layers)


class Mamba2Wrapper(MemoryWrapper, core=Mamba2Core):
    """A policy with Mamba-2 blocks between its encoder and its heads."""
