"""RTU, recurrent trace units: Elelimy et al. 2024, https://arxiv.org/abs/2409.01449.

Each of H units turns and fades a pair of numbers and rectifies both:
``c1 = relu(r cos(theta) c1 - r sin(theta) c2 + gamma W1 x)`` and
``c2 = relu(r sin(theta) c1 + r cos(theta) c2 + gamma W2 x)``, with ``r = exp(-exp(nu))`` below 1.
The factor ``gamma = sqrt(1 - r * r)`` follows from r, where an LRU learns it. The paper's linear
units are rectified outside of the recurrence. It differs from the paper in three ways. Units are
trained through time, not by real-time recurrent learning. A linear layer brings their 2H numbers to
the width of the policy. An episode start is a decay of exactly 0. One layer of width 128 has 65,920
weights.

`T` time, `B` batch, `H` hidden size, which is the number of units too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.lru import KEYS, RingLayer, squares_on_ring
from puffer_policies_memory.stack import (
    StackCore,
    as_complex,
    as_halves,
    carried_in,
    carried_out,
    recur,
    times,
)


class RTULayer(RingLayer):
    """The units and a linear layer. Each pair of numbers is computed as one complex number."""

    def __init__(self, hidden_size: int, *, linear: bool, r_min: float, r_max: float) -> None:
        super().__init__(squares_on_ring(hidden_size, r_min, r_max))
        self.linear = linear
        self.input = nn.Linear(hidden_size, 2 * hidden_size, bias=False)  # W1 above W2
        self.output = layer_init(nn.Linear(2 * hidden_size, hidden_size), 1.0)
        nn.init.normal_(self.input.weight, std=hidden_size**-0.5)

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the state after the last step."""
        before = carried_in(carry, KEYS)
        drive = times(as_complex(self.input(x).to(self.nu_log.dtype)), self.gamma())
        rectified = not self.linear
        states = recur(self.decay(), drive, before=before, starts=starts, rectified=rectified)
        halves = as_halves(states)  # (T, B, 2H)
        return self.output(halves.relu() if self.linear else halves), carried_out(states, KEYS)

    def gamma(self) -> Tensor:
        """Return the factor of the input, (H,), under which a state keeps its size."""
        # sqrt(1 - r * r) without the rounding of the difference, where r is nearly 1.
        return torch.sqrt(-torch.expm1(-2 * self.nu_log.exp()))


class RTUCore(StackCore):
    """A stack of recurrent trace units.

    State: ``lstm_h`` and ``lstm_c``, the first and the second number of each unit, (B, H) for one
    layer, else (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other.
        linear: whether the recurrence is linear, and rectified only where it is read.
        r_min: smallest r of fresh units.
        r_max: largest r of fresh units.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        linear: bool = False,
        r_min: float = 0.0,
        r_max: float = 1.0,
    ) -> None:
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [RTULayer(hidden_size, linear=linear, r_min=r_min, r_max=r_max) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class RTUWrapper(MemoryWrapper, core=RTUCore):
    """A policy with recurrent trace units between its encoder and its heads."""
