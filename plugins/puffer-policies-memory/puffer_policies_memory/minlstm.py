"""MinLSTM: Feng et al. 2024, https://arxiv.org/abs/2410.01201.

Forget gate, input gate and candidate depend on the input alone, and the two gates are normalized to
the sum 1. So the state is a linear recurrence, ``h = decay * h + (1 - decay) * g(candidate)`` with
``decay = f / (f + i)``. It differs from the paper in that the recurrence runs in plain float32, not
in log space, and an episode start is a decay of exactly 0. The paper's blocks have a norm in front
and the identity beside them, which ``residual=True`` adds. One layer of width 128 has 49,536
weights without.

`T` time, `B` batch, `H` hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.contract import LSTM_STATE
from puffer_policies.nn.cores.mingru import positive
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import orthogonal_gates
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.stack import MemoryLayer, StackCore, recur

KEY = LSTM_STATE[0]


class MinLSTMLayer(MemoryLayer):
    """One linear layer for gates and candidate, and the recurrence, behind a norm or not."""

    def __init__(self, hidden_size: int, *, residual: bool) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.norm = nn.LayerNorm(hidden_size) if residual else None
        self.linear = nn.Linear(hidden_size, 3 * hidden_size)
        orthogonal_gates(self.linear.weight, 3)
        nn.init.zeros_(self.linear.bias)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the state's shape, (H,)."""
        return {KEY: (self.hidden_size,)}

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the state after the last step."""
        before = carry[KEY]
        u = x if self.norm is None else self.norm(x)
        forget, enter, candidate = self.linear(u).to(before.dtype).chunk(3, -1)
        # f / (f + i) is a sigmoid of log f - log i, which no quotient of vanishing gates disturbs.
        ratio = functional.softplus(-enter) - functional.softplus(-forget)
        drive = torch.sigmoid(-ratio) * positive(candidate)
        states = recur(torch.sigmoid(ratio), drive, before=before, starts=starts)
        return states if self.norm is None else x + states, {KEY: states[-1]}


class MinLSTMCore(StackCore):
    """A stack of MinLSTM layers. State: ``lstm_h``, (B, H) for one layer, else (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other.
        residual: whether each layer has a norm in front and the identity beside it.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, residual: bool = False
    ) -> None:
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [MinLSTMLayer(hidden_size, residual=residual) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class MinLSTMWrapper(MemoryWrapper, core=MinLSTMCore):
    """A policy with MinLSTM layers between its encoder and its heads.

    One layer can only fade, at rates that the input sets. To count steps it takes several, best
    with residual sums.
    """
