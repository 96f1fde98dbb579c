"""FFM, fast and forgetful memory: Morad et al. 2023, https://arxiv.org/abs/2310.04128.

Each of M traces of the input fades at its own rate and turns at C frequencies,
``S[m, c] = exp(-rate[m] + i frequency[c]) * S[m, c] + x[m]``, behind an input gate; a linear layer
reads all of them, and an output gate mixes its output with the input. It differs from the paper
in four ways. The sum over time is a plain scan, where the paper multiplies by growing exponentials
in float64 and must bound rates and lengths. Rates are positive by construction. Fresh periods are
spaced by ratio, as the paper's 1, 342, 683 and 1024 do not distinguish two recent steps. An episode
start is a decay of exactly 0. Width 128 has 74,212 weights.

`T` time, `B` batch, `H` hidden size, `M` memory size, `C` context size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.errors import BuildError
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.stack import (
    MemoryLayer,
    StackCore,
    as_halves,
    carried_in,
    carried_out,
    from_real,
    polar,
    recur,
)

KEYS = ("ffm_real", "ffm_imag")

MIN_PERIOD = 4
"""Steps in which the fastest fresh trace turns once."""

MAX_PERIOD = 1024
"""Steps in which the slowest fresh trace turns once and is forgotten, as in the authors' code."""

FORGOTTEN = 0.01
"""The share of an input that counts as forgotten, as in the authors' code."""

FASTEST = math.log(2)
"""A fresh layer's fastest rate halves a trace in one step, about as in the authors' code."""


class FFMLayer(MemoryLayer):
    """Input gate, traces, a linear layer, a layer norm without weights, output gate."""

    def __init__(self, hidden_size: int, memory_size: int, context_size: int) -> None:
        super().__init__()
        self.sizes = (memory_size, hidden_size, memory_size, hidden_size)
        self.traces = (memory_size, context_size)
        self.input = layer_init(nn.Linear(hidden_size, sum(self.sizes)), 1.0)
        slowest = -math.log(FORGOTTEN) / MAX_PERIOD
        self.log_rate = nn.Parameter(torch.linspace(FASTEST, slowest, memory_size).log())
        periods = torch.logspace(math.log2(MIN_PERIOD), math.log2(MAX_PERIOD), context_size, base=2)
        self.frequency = nn.Parameter(2 * math.pi / periods)
        self.output = layer_init(nn.Linear(2 * memory_size * context_size, hidden_size), 1.0)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the traces' real and imaginary parts, (M, C) each."""
        return dict.fromkeys(KEYS, self.traces)

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the traces after the last step."""
        values, skip, gate_in, gate_out = self.input(x).split(self.sizes, -1)
        before = carried_in(carry, KEYS)
        drive = from_real(values * torch.sigmoid(gate_in), before)  # (T, B, M)
        drive = drive.unsqueeze(-1).expand(*values.shape, self.traces[1])  # (T, B, M, C)
        states = recur(self.decay(), drive, before=before, starts=starts)
        output = self.output(as_halves(states.flatten(2)))  # (T, B, H)
        output = functional.layer_norm(output, output.shape[-1:])
        return torch.lerp(skip, output, torch.sigmoid(gate_out)), carried_out(states, KEYS)

    def decay(self) -> Any:
        """Return the factor of every trace over one step, (M, C) complex128."""
        # In float64: an error of one rounding in a phase is a thousand roundings 1,000 steps later.
        modulus = torch.exp(-self.log_rate.double().exp()).unsqueeze(-1).expand(self.traces)
        return polar(modulus, self.frequency.double().expand(self.traces))


class FFMCore(StackCore):
    """A stack of fast and forgetful memories.

    State: ``ffm_real`` and ``ffm_imag``, (B, M, C) for one layer, else (B, L, M, C).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: memories on top of each other.
        memory_size: M, the traces of each memory, which fade at rates of their own.
        context_size: C, the frequencies at which each trace turns.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        memory_size: int = 32,
        context_size: int = 4,
    ) -> None:
        if memory_size < 1 or context_size < 1:
            raise BuildError(
                f"memory_size={memory_size}, context_size={context_size}; an FFM has at least one "
                "trace.",
                fix="Give positive numbers, such as 32 and 4.",
            )
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [FFMLayer(hidden_size, memory_size, context_size) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class FFMWrapper(MemoryWrapper, core=FFMCore):
    """A policy with fast and forgetful memories between its encoder and its heads."""
