"""The LSTM: Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735.

It is computed as by `torch.nn.LSTM`, with orthogonal gates and zero biases. Its state is the pair
of tensors that PufferLib carries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puffer_policies.contract import LSTM_STATE
from puffer_policies.nn.cores.flush import driven
from puffer_policies.nn.cores.fused import FusedCore, FusedLayers, Parts


class LSTMLayers(FusedLayers):
    """The layers of an LSTM, with gates in torch's order: input, forget, cell, output."""

    torch_mode = "LSTM"
    gates = 4
    keys = LSTM_STATE

    @staticmethod
    def run(x: Tensor, parts: Parts, weights: list[Tensor], *, train: bool) -> tuple[Tensor, Parts]:
        """(B, T, I), h and c (L, B, H) -> (B, T, H), h and c."""
        flags = True, len(weights) // 4, 0.0, train, False, True
        output, h, c = torch.lstm(x, parts, weights, *flags)
        return output, (h, c)

    @staticmethod
    def cell(x: Tensor, parts: Parts, weights: list[Tensor]) -> Parts:
        """(B, I), h and c (B, H) -> h and c."""
        h, c = torch.lstm_cell(x, parts, *weights)
        return h, c

    @staticmethod
    def flush_columns(weights: list[Tensor]) -> Tensor:
        """Close every gate: c = 0 * c + 0 * g and h = 0 * tanh(c). Padding keeps all of c.

        The cell's candidate g needs no flag, as a closed input gate hides it. Padding runs behind
        the last step of a row, and the kernel returns only the last c, so padding must keep it.
        """
        flush = driven((-1, -1, 0, -1), weights[0])
        hold = driven((-1, 1, 0, 0), weights[0])
        return torch.cat([flush, hold], 1)


class LSTMCore(FusedCore):
    """A stack of LSTM layers. State: ``lstm_h`` and ``lstm_c``, (B, H) or (B, L, H)."""

    layers_class = LSTMLayers
