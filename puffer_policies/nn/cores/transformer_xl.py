"""Transformer-XL: Dai et al. 2019, https://arxiv.org/abs/1901.02860.

Layers with relative positions and a memory, without gates. It differs from the paper in two ways,
besides those of its attention, which stand in `attention`. Layer norms stand in front of each part,
as in GTrXL, unless ``norm_first=False`` puts them behind each sum, as in the paper. There is no
dropout, under which a policy would compute other probabilities in the update than in the rollout.
The default size is that of reinforcement learning, not of language.

`H` width, `L` layers, `M` memory, `A` heads.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn

from puffer_policies.nn.cores.attention import (
    AttentionCore,
    AttentionLayer,
    RelativeAttention,
    feedforward,
)


class TransformerXLLayer(AttentionLayer):
    """Attention and a two-layer network, each with a residual sum and a layer norm."""

    def __init__(self, width: int, num_heads: int, memory: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RelativeAttention(width, num_heads, memory)
        self.network = feedforward(width)

    def forward(
        self, x: Tensor, past: Tensor, allowed: Tensor, distances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply attention and network; arguments and results are those of `RelativeAttention`."""
        if self.norm_first:
            attended, memory = self.attention(self.attention_norm(x), past, allowed, distances)
            x = x + attended
            return x + self.network(self.network_norm(x)), memory
        attended, memory = self.attention(x, past, allowed, distances)
        x = self.attention_norm(x + attended)
        return self.network_norm(x + self.network(x)), memory


class TransformerXLCore(AttentionCore):
    """A stack of Transformer-XL layers over a window of the last steps.

    State: ``transformer_xl_memory`` (B, L, M, 2 H), each layer's keys and values of the last M
    steps, and ``transformer_xl_valid`` (B, M) bool, which of those belong to the episode.

    Args:
        input_size: width of what comes in.
        hidden_size: width H of every layer, a multiple of `num_heads`.
        num_layers: L; the last layer sees L * M steps back through those below it.
        num_heads: A, parts of the width that attend separately.
        memory: M, the steps before this one that each layer sees.
        norm_first: whether layer norms stand in front of each part; else behind each sum.
    """

    keys = ("transformer_xl_memory", "transformer_xl_valid")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 4,
        num_heads: int = 1,
        memory: int = 16,
        norm_first: bool = True,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            functools.partial(TransformerXLLayer, norm_first=norm_first),
            num_layers=num_layers,
            num_heads=num_heads,
            memory=memory,
        )
