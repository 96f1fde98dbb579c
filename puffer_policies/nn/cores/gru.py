"""The GRU: Cho et al. 2014, https://arxiv.org/abs/1406.1078.

It is computed as by `torch.nn.GRU`, which applies the reset gate after the hidden weights, where
the paper applies it before; gates are orthogonal and biases zero. Its state is one tensor, under
PufferLib's key ``lstm_h``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puffer_policies.contract import LSTM_STATE
from puffer_policies.nn.cores.flush import driven
from puffer_policies.nn.cores.fused import FusedCore, FusedLayers, Parts


class GRULayers(FusedLayers):
    """The layers of a GRU, with gates in torch's order: reset, update, new."""

    torch_mode = "GRU"
    gates = 3
    keys = LSTM_STATE[:1]
    flush_share = 0.05

    @staticmethod
    def run(x: Tensor, parts: Parts, weights: list[Tensor], *, train: bool) -> tuple[Tensor, Parts]:
        """(B, T, I), h (L, B, H) -> (B, T, H), h."""
        flags = True, len(weights) // 4, 0.0, train, False, True
        output, h = torch.gru(x, parts[0], weights, *flags)
        return output, (h,)

    @staticmethod
    def cell(x: Tensor, parts: Parts, weights: list[Tensor]) -> Parts:
        """(B, I), h (B, H) -> h."""
        return (torch.gru_cell(x, parts[0], *weights),)

    @staticmethod
    def flush_columns(weights: list[Tensor]) -> Tensor:
        """Close both gates and cancel the input bias: h = tanh(b - b + 0 * h) + 0 * h = 0.

        The closed reset gate removes the hidden weights and their bias, the closed update gate the
        state itself. Padding has no column of its own, as the outputs hold all of the state.
        """
        gates = driven((-1, -1, 0), weights[0])
        rows = len(weights[2]) // 3
        cancel = torch.cat([weights[2].new_zeros(2 * rows), weights[2][2 * rows :]])  # (3*H,)
        flush = gates - cancel.unsqueeze(1)
        return torch.cat([flush, torch.zeros_like(flush)], 1)


class GRUCore(FusedCore):
    """A stack of GRU layers. State: ``lstm_h``, (B, H) or (B, L, H)."""

    layers_class = GRULayers
