"""LRU, the linear recurrent unit: Orvieto et al. 2023, https://arxiv.org/abs/2303.06349.

``h = lambda * h + gamma * (B x)``, output ``Re(C h) + D x``, with complex lambda of modulus below 1
by construction and drawn from a ring. It differs from the paper in two ways. In place
of batch norm, gated layer and skip there are a layer norm without weights and a LeakyReLU, as in
popgym (Morad et al. 2023, https://arxiv.org/abs/2303.01859). An episode start is a decay of exactly
0. One layer of width 128 has 66,048 weights.

`T` time, `B` batch, `H` hidden size, which is the size of the complex state too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.contract import LSTM_STATE
from puffer_policies.errors import BuildError
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.stack import (
    MemoryLayer,
    StackCore,
    as_complex,
    as_halves,
    carried_in,
    carried_out,
    polar,
    recur,
    times,
)

KEYS = LSTM_STATE
"""Real and imaginary part: of one layer they fit the two tensors that PufferLib's trainer carries.
"""

MAX_PHASE = 2 * math.pi
"""The largest angle by which a fresh state turns in one step, in radians, as in the paper."""


class RingLayer(MemoryLayer):
    """A layer with complex decays, begun on a ring; a subclass says what they carry on.

    Args:
        squares: (H,), the squares of the decays' first moduli.
    """

    def __init__(self, squares: Tensor) -> None:
        super().__init__()
        self.hidden_size = len(squares)
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(squares)))
        self.theta_log = nn.Parameter(torch.log(MAX_PHASE * (1 - torch.rand(len(squares)))))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the state's real and imaginary parts, (H,) each."""
        return dict.fromkeys(KEYS, (self.hidden_size,))

    def decay(self) -> Any:
        """Return lambda, (H,) complex128."""
        modulus = torch.exp(-self.nu_log.double().exp())
        return polar(modulus, self.theta_log.double().exp())


def squares_on_ring(size: int, r_min: float, r_max: float) -> Tensor:
    """Draw squares of moduli (H,), uniform on the area of a ring.

    Raises:
        BuildError: the bounds are not those of a ring in the unit disk.
    """
    if not 0 <= r_min < r_max <= 1:
        raise BuildError(
            f"r_min={r_min} and r_max={r_max} do not bound a ring in the unit disk.",
            fix="Give 0 <= r_min < r_max <= 1, such as 0 and 1.",
        )
    # Off 0 and off 1, where the logarithms of a layer's parameters would be infinite.
    share = torch.empty(size).uniform_(1e-6, 1 - 1e-6)
    low, high = (torch.tensor(float(each) ** 2) for each in (r_min, r_max))
    # In a narrow ring rounding would reach 0 or 1 all the same.
    return torch.lerp(low, high, share).clamp(1e-30, 1 - 2.0**-23)


class LRULayer(RingLayer):
    """The unit, a layer norm and a LeakyReLU."""

    def __init__(self, hidden_size: int, *, r_min: float, r_max: float) -> None:
        squares = squares_on_ring(hidden_size, r_min, r_max)
        super().__init__(squares)
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squares))
        self.input = nn.Linear(hidden_size, 2 * hidden_size, bias=False)  # Re B above Im B
        self.output = nn.Linear(2 * hidden_size, hidden_size, bias=False)  # Re C beside -Im C
        self.skip = nn.Parameter(torch.randn(hidden_size))
        nn.init.normal_(self.input.weight, std=(2 * hidden_size) ** -0.5)
        nn.init.normal_(self.output.weight, std=hidden_size**-0.5)

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the state after the last step."""
        before = carried_in(carry, KEYS)
        drive = as_complex(self.input(x).to(self.skip.dtype))
        drive = times(drive, torch.exp(self.gamma_log))
        states = recur(self.decay(), drive, before=before, starts=starts)
        y = self.output(as_halves(states)) + self.skip * x
        y = functional.leaky_relu(functional.layer_norm(y, y.shape[-1:]))
        return y, carried_out(states, KEYS)


class LRUCore(StackCore):
    """A stack of linear recurrent units.

    State: ``lstm_h`` and ``lstm_c``, the real and the imaginary parts, (B, H) for one layer, else
    (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: units on top of each other.
        r_min: smallest modulus of a fresh decay.
        r_max: largest modulus of a fresh decay; 0.999 remembers for about a thousand steps.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        r_min: float = 0.0,
        r_max: float = 1.0,
    ) -> None:
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [LRULayer(hidden_size, r_min=r_min, r_max=r_max) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class LRUWrapper(MemoryWrapper, core=LRUCore):
    """A policy with linear recurrent units between its encoder and its heads."""
