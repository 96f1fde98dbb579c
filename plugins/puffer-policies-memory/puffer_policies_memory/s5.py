"""S5 for reinforcement learning: Lu et al. 2023, https://arxiv.org/abs/2303.03982.

The state space of Smith et al. 2022, https://arxiv.org/abs/2208.04933, diagonal, begun as HiPPO and
held over each step (``lambda_bar = exp(lambda * step)``), in the block of the authors' popjaxrl:
layer norm, state space, layer norm, GELU, full gated linear unit, skip. It differs from theirs in
this: the real parts of lambda are negative by construction, so that no state can grow without
bound; the second norm has weights of its own; and an episode start is a decay of exactly 0 in a
plain scan. Theirs is the large setting, width 256, state 256 and four layers: 1,057,280 weights.

`T` time, `B` batch, `H` hidden size, `P` half the state size: the other half is conjugate.
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
    as_complex,
    as_halves,
    carried_in,
    carried_out,
    complex_of,
    exp,
    held,
    recur,
    times,
)

RATE = 0.5
"""Every eigenvalue of the normal part of HiPPO-LegS has the real part -1/2."""


def hippo_basis(size: int) -> tuple[Tensor, Tensor]:
    """Return the positive imaginary parts of HiPPO's eigenvalues, with their eigenvectors.

    The matrix is the normal part of HiPPO-LegS, Gu et al. 2020, https://arxiv.org/abs/2008.07669.
    The other eigenvalues are conjugates of these, which a real output does not need.

    Args:
        size: of the matrix, an even number.

    Returns:
        (size/2,) float64 and (size, size/2) complex128.
    """
    roots = torch.sqrt(torch.arange(size, dtype=torch.float64) + 0.5)
    lower = torch.outer(roots, roots).tril(-1)
    frequencies, vectors = torch.linalg.eigh(1j * (lower - lower.T))
    return frequencies[size // 2 :], vectors[:, size // 2 :]


KEYS = ("s5_real", "s5_imag")

STEPS = (0.001, 0.1)
"""Bounds of a fresh layer's steps in time, drawn log-uniformly, as in the paper."""


class StateSpace(nn.Module):
    """``h = lambda_bar * h + B_bar u``, output ``2 Re(C h) + D u``."""

    def __init__(self, hidden_size: int, state_size: int) -> None:
        super().__init__()
        frequency, vectors = hippo_basis(state_size)
        half = len(frequency)
        self.log_rate = nn.Parameter(torch.full((half,), math.log(RATE)))
        self.frequency = nn.Parameter(frequency.float())
        low, high = (math.log(each) for each in STEPS)
        self.log_step = nn.Parameter(torch.empty(half).uniform_(low, high))
        self.input = nn.Linear(hidden_size, 2 * half, bias=False)  # Re B above Im B
        self.output = nn.Linear(2 * half, hidden_size, bias=False)  # Re C beside -Im C
        self.skip = nn.Parameter(torch.randn(hidden_size))
        self._begin(vectors.to(torch.complex64))

    def forward(self, u: Tensor, before: Any, starts: Tensor | None) -> tuple[Tensor, Any]:
        """(T, B, H), (B, P) complex -> outputs (T, B, H), states (T, B, P) complex."""
        decay, scale = self.discrete()
        drive = as_complex(self.input(u).to(self.skip.dtype))
        drive = times(drive, scale.to(drive.dtype))
        states = recur(decay, drive, before=before, starts=starts)
        return 2 * self.output(as_halves(states)) + self.skip * u, states

    def discrete(self) -> tuple[Any, Any]:
        """Return lambda_bar and the factor of B, (P,) complex128, by zero-order hold."""
        rates = complex_of(-self.log_rate.double().exp(), self.frequency.double())
        decay = exp(times(rates, self.log_step.double().exp()))
        return decay, held(decay, rates)

    @torch.no_grad()
    def _begin(self, vectors: Tensor) -> None:
        """Draw B and C for the whole state and turn them into HiPPO's basis."""
        size, hidden = len(vectors), len(self.skip)
        real = torch.randn(size, hidden) * hidden**-0.5
        turned = vectors.mH @ real.to(vectors.dtype)  # (P, H)
        self.input.weight.copy_(as_halves(turned.mT).mT)
        output = torch.complex(torch.randn(hidden, size), torch.randn(hidden, size)) * size**-0.5
        self.output.weight.copy_(as_halves((output @ vectors).conj()))


class S5Layer(MemoryLayer):
    """A state space between norms, a gate, and the identity beside them."""

    def __init__(self, hidden_size: int, state_size: int) -> None:
        super().__init__()
        self.pairs = state_size // 2
        self.norm = nn.LayerNorm(hidden_size)
        self.space = StateSpace(hidden_size, state_size)
        self.gate_norm = nn.LayerNorm(hidden_size)
        self.gate = layer_init(nn.Linear(hidden_size, 2 * hidden_size), 1.0)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the state's real and imaginary parts, (P,) each."""
        return dict.fromkeys(KEYS, (self.pairs,))

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the state after the last step."""
        y, states = self.space(self.norm(x), carried_in(carry, KEYS), starts)
        gated = functional.glu(self.gate(functional.gelu(self.gate_norm(y))))
        return x + gated, carried_out(states, KEYS)


class S5Core(StackCore):
    """A stack of S5 layers.

    State: ``s5_real`` and ``s5_imag``, (B, P) for one layer, else (B, L, P).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other; popjaxrl has 4.
        state_size: size of each layer's state, an even number; popjaxrl has 256.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, state_size: int = 64
    ) -> None:
        if state_size < 2 or state_size % 2:
            raise BuildError(
                f"state_size={state_size}; the states of an S5 come in conjugate pairs.",
                fix="Give an even number, such as 64.",
            )
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        super().__init__(input_size, hidden_size, [S5Layer(hidden_size, state_size) for _ in count])


class S5Wrapper(MemoryWrapper, core=S5Core):
    """A policy with S5 layers between its encoder and its heads."""
