"""xLSTM: Beck et al. 2024, https://arxiv.org/abs/2405.04517.

Two memories with exponential input gates. mLSTM has a matrix for a memory and no recurrent weights:
``C = f C + i k v^T``, ``n = f n + i k``, output ``q C / max(|q n|, 1)``. sLSTM has numbers for a
memory, and each head's hidden features reach its gates by recurrent weights: ``c = f c + i z``,
``n = f n + i``, output ``o c / n``. Both keep what they carry divided by exp(m), where m is the
largest logarithm of a gain, so that nothing overflows.

The mLSTM is in the block of the authors' code: layer norm, two projections to twice the width, a
convolution, the memory, a norm of each head, a gate. It differs from theirs in this: a head is 32
wide by default, and queries, keys and values are made by whole heads, not by blocks of 4. The sLSTM
stands between a layer norm and a norm of each head, without the convolution and the feed-forward
network of their block, which are options of the paper. At an episode's start both are empty. Width
128 has 137,232 weights in an mLSTM and 82,816 in an sLSTM.

`T` time, `B` batch, `H` width, `A` heads, `D` inner size of a head, `K` width of the convolution.
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
from puffer_policies_memory.associative import attend, by_chunks, gated_shares_of
from puffer_policies_memory.convolution import WindowConvolution
from puffer_policies_memory.stack import MemoryLayer, StackCore

WINDOW, MEMORY, SCALE = "mlstm_window", "mlstm_memory", "mlstm_scale"
SLSTM_STATE = "slstm_h", "slstm_c", "slstm_n", "slstm_m"

MLSTM_FORGET = (3.0, 6.0)
"""Bounds of the bias of a fresh mLSTM's forget gates, evenly spaced over the heads, as in the
authors' code: what is left after one step is 0.953 to 0.998."""

SLSTM_FORGET = (0.0, 5.0)
"""The same of a fresh sLSTM, over the units of each head: 0.5 to 0.993, so that some units follow
the last steps and others average over many."""

EPSILON = 1e-6
"""Added to the norm, as in the authors' code."""


class HeadLinear(nn.Module):
    """A linear layer of each head, without a bias."""

    def __init__(self, num_heads: int, size: int, output_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, size, output_size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., A, D) -> (..., A, output size)."""
        return torch.einsum("...ad,ado->...ao", x, self.weight)


class HeadNorm(nn.Module):
    """A layer norm of each head, with a factor for each unit and no bias."""

    def __init__(self, num_heads: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads, size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., A, D) -> (..., A * D)."""
        return (functional.layer_norm(x, x.shape[-1:]) * self.weight).flatten(-2)


class MLSTMLayer(MemoryLayer):
    """A block around a matrix memory, the identity beside it."""

    def __init__(self, width: int, *, num_heads: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = expand * width
        self.heads = (num_heads, inner // num_heads)
        self.window = (d_conv - 1, inner)
        self.norm = nn.LayerNorm(width)
        self.input = layer_init(nn.Linear(width, 2 * inner, bias=False), 1.0)
        self.convolution = WindowConvolution(inner, d_conv)
        self.query, self.key, self.value = (
            HeadLinear(num_heads, self.heads[1], self.heads[1]) for _ in range(3)
        )
        for each in (self.query, self.key, self.value):
            for weight in each.weight:
                nn.init.orthogonal_(weight)
        self.gates = nn.Linear(3 * inner, 2 * num_heads)  # input gates before forget gates
        self.head_norm = HeadNorm(*self.heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.output = layer_init(nn.Linear(inner, width, bias=False), 1.0)
        # As in the authors' code: at first a gate does not depend on the input.
        nn.init.zeros_(self.gates.weight)
        nn.init.normal_(self.gates.bias, std=0.1)
        with torch.no_grad():
            self.gates.bias[num_heads:] = torch.linspace(*MLSTM_FORGET, num_heads)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the window, (K - 1, A D), the memory beside its norm, (A, D, D + 1), and m, (A,).

        The memory and its norm are divided by exp(m).
        """
        heads, size = self.heads
        return {WINDOW: self.window, MEMORY: (heads, size, size + 1), SCALE: (heads,)}

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with window and memory after the last step."""
        u, gate = self.input(self.norm(x)).to(carry[MEMORY].dtype).chunk(2, -1)
        convolved, window = self.convolution(u, carry[WINDOW], starts)
        convolved = functional.silu(convolved)
        shape = (*x.shape[:2], *self.heads)
        by_head = convolved.reshape(shape)
        drawn = (self.query(by_head), self.key(by_head), self.value(u.reshape(shape)))
        gates = self.gates(torch.cat([each.flatten(2) for each in drawn], -1))
        query, key, value = (each.to(x.dtype).permute(1, 2, 0, 3) for each in drawn)
        gain, forget = gates.to(x.dtype).permute(1, 2, 0).chunk(2, 1)  # (B, A, T) each
        parts = (
            query,
            key * self.heads[1] ** -0.5,
            functional.pad(value, (0, 1), value=1.0),  # its sum is that of the keys
            functional.logsigmoid(forget),
            gain,
        )
        read, (memory, scale) = by_chunks(self._read, parts, (carry[MEMORY], carry[SCALE]), starts)
        y = self.head_norm(read.permute(2, 0, 1, 3)) + self.skip * convolved
        x = x + self.output(y * functional.silu(gate))
        return x, {WINDOW: window, MEMORY: memory, SCALE: scale}

    @staticmethod
    def _read(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        decay: Tensor,
        gain: Tensor,
        *,
        carried: tuple[Tensor, Tensor],
        episode: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        memory, scale = carried
        shares, scales = gated_shares_of(decay, gain, scale, episode)
        read, memory = attend(query, key, value, memory=memory, shares=shares)
        above, below = read[..., :-1], read[..., -1:].abs()
        least = torch.exp(-scales).unsqueeze(-1)  # 1, divided as all else is
        return above / (torch.maximum(below, least) + EPSILON), (memory, scales[..., -1])


class MLSTMCore(StackCore):
    """A stack of blocks with matrix memories.

    State: ``mlstm_window`` (B, K - 1, A D), ``mlstm_memory`` (B, A, D, D + 1), whose last column is
    the norm, and ``mlstm_scale`` (B, A) for one block, else with the blocks after the batch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: blocks on top of each other.
        num_heads: A, memories of their own; by default each is 32 wide.
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
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        heads = require_heads(require_count("expand", expand) * hidden_size, num_heads)
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [
            MLSTMLayer(hidden_size, num_heads=heads, d_conv=d_conv, expand=expand) for _ in count
        ]
        super().__init__(input_size, hidden_size, layers)


class MLSTMWrapper(MemoryWrapper, core=MLSTMCore):
    """A policy with xLSTM's matrix memories between its encoder and its heads."""


class SLSTMLayer(MemoryLayer):
    """A scalar memory with recurrent weights between norms, the identity beside it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, (num_heads, width // num_heads)
        self.norm = nn.LayerNorm(width)
        # Each head's input gates, forget gates, cell inputs and output gates.
        self.input = layer_init(nn.Linear(width, 4 * width), 1.0)
        self.recurrent = HeadLinear(num_heads, self.heads[1], 4 * self.heads[1])
        self.head_norm = HeadNorm(*self.heads)
        nn.init.zeros_(self.recurrent.weight)  # as in the authors' code
        with torch.no_grad():
            bias = self.input.bias.view(num_heads, 4, -1)
            bias[:, 1] = torch.linspace(*SLSTM_FORGET, self.heads[1])

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the hidden features, cells, norms and m, (H,) each.

        Cells and norms are divided by exp(m).
        """
        return dict.fromkeys(SLSTM_STATE, (self.width,))

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the state after the last step."""
        drive = self.input(self.norm(x)).to(x.dtype)
        drive = drive.reshape(*x.shape[:2], self.heads[0], -1)  # (T, B, A, 4 D)
        state = {key: value.reshape(-1, *self.heads) for key, value in carry.items()}
        keep = None if starts is None else (~starts).to(x.dtype)[..., None, None]
        outputs = []
        for t, each in enumerate(drive.unbind(0)):
            if keep is not None and t > 0:
                state = {key: value * keep[t] for key, value in state.items()}
            state = self._step(each, state)
            outputs.append(state[SLSTM_STATE[0]])
        x = x + self.head_norm(torch.stack(outputs))
        return x, {key: value.flatten(-2) for key, value in state.items()}

    def _step(self, drive: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B, A, 4 D), (B, A, D) each -> the state after one step."""
        hidden, cell, norm, scale = (state[key] for key in SLSTM_STATE)
        gain, forget, new, gate = (drive + self.recurrent(hidden).to(drive.dtype)).chunk(4, -1)
        left = functional.logsigmoid(forget) + scale
        # An empty memory has no scale of its own.
        scale = torch.where(norm == 0, gain, torch.maximum(gain, left)).detach()
        gain, left = torch.exp(gain - scale), torch.exp((left - scale).clamp(max=0))
        cell, norm = left * cell + gain * torch.tanh(new), left * norm + gain
        hidden = torch.sigmoid(gate) * cell / norm  # a norm is at least 1
        return dict(zip(SLSTM_STATE, (hidden, cell, norm, scale), strict=True))


class SLSTMCore(StackCore):
    """A stack of scalar memories.

    State: ``slstm_h``, ``slstm_c``, ``slstm_n`` and ``slstm_m``, (B, H) each for one layer, else
    (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other.
        num_heads: A, parts of the width with recurrent weights of their own; by default each is 32
            wide.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
    ) -> None:
        heads = require_heads(hidden_size, num_heads)
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        super().__init__(input_size, hidden_size, [SLSTMLayer(hidden_size, heads) for _ in count])


class SLSTMWrapper(MemoryWrapper, core=SLSTMCore):
    """A policy with xLSTM's scalar memories between its encoder and its heads."""
