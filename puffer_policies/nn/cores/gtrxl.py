"""GTrXL: Parisotto et al. 2020, https://arxiv.org/abs/1910.06764.

Transformer-XL layers with layer norms in front of each part, and GRU gates, nearly closed at first,
in place of residual sums. Its differences from the paper are those of its attention, which stand in
`attention`.

`B` batch, `T` time, `L` layers, `M` memory, `H` width, `A` heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.attention import (
    AttentionCore,
    AttentionLayer,
    RelativeAttention,
    feedforward,
)
from puffer_policies.nn.init import layer_init

GATE_BIAS = 2.0
"""The paper's: at first the gates let a layer's input through, so that a fresh stack is nearly the
identity. The paper finds that this speeds up learning greatly."""


class GRUGate(nn.Module):
    """Mixes the output of a layer into its input, as a GRU mixes input into state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The names of these two are part of the checkpoint format: `said` reads the layer's output,
        # `came` its input.
        self.said = layer_init(nn.Linear(width, 3 * width, bias=False), 1.0)
        self.came = layer_init(nn.Linear(width, 2 * width, bias=False), 1.0)
        self.reset = layer_init(nn.Linear(width, width, bias=False), 1.0)
        self.bias = nn.Parameter(torch.full((width,), GATE_BIAS))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The input and the output of a layer, (..., H) both -> (..., H)."""
        reset, update, new = self.said(output).chunk(3, -1)
        reset_x, update_x = self.came(x).chunk(2, -1)
        share = torch.sigmoid(update + update_x - self.bias)
        candidate = torch.tanh(new + self.reset(torch.sigmoid(reset + reset_x) * x))
        # Under autocast the bias, and so the share, stays in float32.
        return torch.lerp(x, candidate.to(x.dtype), share.to(x.dtype))


class GTrXLLayer(AttentionLayer):
    """Attention and a two-layer network, each behind a layer norm and a gate."""

    def __init__(self, width: int, num_heads: int, memory: int) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RelativeAttention(width, num_heads, memory)
        self.attention_gate, self.network_gate = GRUGate(width), GRUGate(width)
        self.network = feedforward(width)

    def forward(
        self, x: Tensor, past: Tensor, allowed: Tensor, distances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply attention and network; arguments and results are those of `RelativeAttention`."""
        attended, memory = self.attention(self.attention_norm(x), past, allowed, distances)
        # The ReLU in front of a gate is the paper's: what enters a gate is never negative.
        x = self.attention_gate(x, torch.relu(attended))
        return self.network_gate(x, torch.relu(self.network(self.network_norm(x)))), memory


class GTrXLCore(AttentionCore):
    """A stack of GTrXL layers over a window of the last steps.

    State: ``gtrxl_memory`` (B, L, M, 2 H), each layer's keys and values of the last M steps, and
    ``gtrxl_valid`` (B, M) bool, which of those belong to the episode.

    Args:
        input_size: width of what comes in.
        hidden_size: width H of every layer, a multiple of `num_heads`.
        num_layers: L; the last layer sees L * M steps back through those below it.
        num_heads: A, parts of the width that attend separately; by default each is 32 wide.
        memory: M, the steps before this one that each layer sees.
    """

    keys = ("gtrxl_memory", "gtrxl_valid")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 2,
        num_heads: int | None = None,
        memory: int = 64,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            GTrXLLayer,
            num_layers=num_layers,
            num_heads=num_heads,
            memory=memory,
        )
