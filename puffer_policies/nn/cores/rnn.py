"""The plain recurrent network: Elman 1990, https://doi.org/10.1207/s15516709cog1402_1.

It is computed as by `torch.nn.RNN` with tanh, with orthogonal weights and zero biases. Its state is
one tensor, under PufferLib's key ``lstm_h``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puffer_policies.contract import LSTM_STATE
from puffer_policies.nn.cores.flush import driven
from puffer_policies.nn.cores.fused import FusedCore, FusedLayers, Parts


class RNNLayers(FusedLayers):
    """The layers of a plain recurrent network, which has no gates to close."""

    torch_mode = "RNN_TANH"
    gates = 1
    keys = LSTM_STATE[:1]
    flush_share = 0.05
    flush_parts = 2

    @staticmethod
    def run(x: Tensor, parts: Parts, weights: list[Tensor], *, train: bool) -> tuple[Tensor, Parts]:
        """(B, T, I), h (L, B, H) -> (B, T, H), h."""
        flags = True, len(weights) // 4, 0.0, train, False, True
        output, h = torch.rnn_tanh(x, parts[0], weights, *flags)
        return output, (h,)

    @staticmethod
    def cell(x: Tensor, parts: Parts, weights: list[Tensor]) -> Parts:
        """(B, I), h (B, H) -> h."""
        return (torch.rnn_tanh_cell(x, parts[0], *weights),)

    @staticmethod
    def flush_columns(weights: list[Tensor]) -> Tensor:
        """Drive h to 1 whatever it was, then cancel what weights and biases make of an h of ones.

        Without a gate this ends at rounding's distance from 0, not at 0; the gradient is cut
        exactly by the first part, as tanh is flat there.
        """
        _, hidden, bias_in, bias_hidden = weights
        drive = driven((1,), weights[0])
        cancel = -(hidden.sum(1) + bias_in + bias_hidden).unsqueeze(1)  # (H, 1)
        return torch.cat([drive, cancel, torch.zeros_like(drive)], 1)


class RNNCore(FusedCore):
    """A stack of tanh layers. State: ``lstm_h``, (B, H) or (B, L, H)."""

    layers_class = RNNLayers
