"""Mamba: Gu and Dao 2023, https://arxiv.org/abs/2312.00752.

A convolution over the last steps, then a state space whose step sizes, inputs and outputs are
selected by the input, behind a gate. It differs from the authors' mamba_ssm in three ways. The scan
is a plain loop, the convolution's window is part of the state, and at an episode's start the window
is empty and the decay exactly 0. Width 128 has 116,608 weights.

`T` time, `B` batch, `H` hidden size, `D` = expand * H inner size, `N` state size, `K` width of the
convolution, `R` rank of the step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.nn.trace import is_exporting
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.convolution import WindowConvolution
from puffer_policies_memory.stack import MemoryLayer, StackCore


class Selected(NamedTuple):
    """The quantities that the input selects at each step."""

    step: Tensor
    """(T, B, D): step sizes."""
    u: Tensor
    """(T, B, D): what enters."""
    enter: Tensor
    """(T, B, N): where it enters the state."""
    leave: Tensor
    """(T, B, N): where it leaves the state."""


def selective_scan(
    selected: Selected, rate: Tensor, *, before: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run the recurrence; where an episode starts, nothing is left of the state.

    Args:
        selected: of every step.
        rate: (D, N), above 0.
        before: (B, D, N), the state before the first step.
        starts: bool (T, B), true where an episode starts.

    Returns:
        y (T, B, D) and the state after the last step (B, D, N).
    """
    keep = None if starts is None else (~starts).to(rate.dtype)
    if is_exporting():
        return _unrolled(selected, rate, before, keep)
    with torch.autocast(rate.device.type, enabled=False):
        y, last = _SelectiveScan.apply(*selected, rate, before, keep)  # type: ignore[no-untyped-call]
    return y, last


class _SelectiveScan(torch.autograd.Function):
    """The loop, without autograd's record of each step.

    One step works on (B, D, N), which stays in a processor's cache. As operations on (T, B, D, N)
    the same takes three times the time and six times the memory. So states are saved for the
    backward pass, and decays are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        step: Tensor,
        u: Tensor,
        enter: Tensor,
        leave: Tensor,
        rate: Tensor,
        before: Tensor,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        entering, y, h = step * u, torch.empty_like(u), before
        states = before.new_empty(len(u), *before.shape)
        for t, out in enumerate(states.unbind(0)):
            torch.mul(_decay(step, rate, keep, t), h, out=out)
            h = out.addcmul_(entering[t].unsqueeze(-1), enter[t].unsqueeze(-2))
            torch.matmul(h, leave[t].unsqueeze(-1), out=y[t].unsqueeze(-1))
        ctx.save_for_backward(step, u, enter, leave, rate, before, keep, states)
        return y, h.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        step, u, enter, leave, rate, before, keep, states = ctx.saved_tensors
        d_y, flow = grads[0], grads[1].clone()  # flow: the gradient of the state, step by step
        d_step, d_u, d_enter, d_leave = map(torch.empty_like, (step, u, enter, leave))
        by_rate = torch.zeros_like(before)
        for t in range(len(u) - 1, -1, -1):
            flow.addcmul_(d_y[t].unsqueeze(-1), leave[t].unsqueeze(-2))
            d_leave[t] = (d_y[t].unsqueeze(-2) @ states[t]).squeeze(-2)
            d_enter[t] = ((step[t] * u[t]).unsqueeze(-2) @ flow).squeeze(-2)
            entered = (flow @ enter[t].unsqueeze(-1)).squeeze(-1)  # (B, D), of step * u
            flow.mul_(_decay(step, rate, keep, t))
            decayed = flow * (states[t - 1] if t else before)  # (B, D, N), of the decay's logarithm
            d_u[t] = entered * step[t]
            d_step[t] = entered * u[t] - (decayed * rate).sum(-1)
            by_rate.addcmul_(decayed, step[t].unsqueeze(-1))
        return d_step, d_u, d_enter, d_leave, -by_rate.sum(0), flow, None


def _unrolled(
    selected: Selected, rate: Tensor, before: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what `selective_scan` does, without writing in place, which would fix the rows."""
    step, u, enter, leave = selected
    outputs, h = [], before
    for t in range(u.shape[0]):
        entering = (step[t] * u[t]).unsqueeze(-1) * enter[t].unsqueeze(-2)
        h = _decay(step, rate, keep, t) * h + entering
        outputs.append((h @ leave[t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs), h


def _decay(step: Tensor, rate: Tensor, keep: Tensor | None, t: int) -> Tensor:
    """Return the decay of the state at step t, (B, D, N): exactly 0 at a start."""
    decay = torch.mul(step[t].unsqueeze(-1), rate).neg_().exp_()
    return decay if keep is None else decay.mul_(keep[t][:, None, None])


WINDOW, STATE = "mamba_window", "mamba_state"

STEPS = (0.001, 0.1)
"""Bounds of a fresh block's step sizes, drawn log-uniformly, as in the paper."""

RANK = 16
"""The authors' code has one rank of the step sizes for every 16 of the width."""


RATES = (1.0, 16.0)
"""Bounds of the rate at which a fresh head decays, as in the paper of Mamba-2."""


def fresh_step_bias(size: int) -> Tensor:
    """Return biases (size,) that softplus turns into step sizes between the bounds of `STEPS`."""
    low, high = (math.log(each) for each in STEPS)
    steps = torch.exp(torch.empty(size).uniform_(low, high))
    return steps + torch.log(-torch.expm1(-steps))


def fresh_log_rate(num_heads: int) -> Tensor:
    """Return logarithms (num_heads,) of rates of decay, drawn uniformly between `RATES`."""
    return torch.empty(num_heads).uniform_(*RATES).log()


class SelectiveSpace(nn.Module):
    """``h = exp(step * A) * h + step * B u``, output ``C h + D u``; step, B and C depend on u."""

    def __init__(self, size: int, state_size: int, rank: int) -> None:
        super().__init__()
        self.sizes = (rank, state_size, state_size)
        self.select = nn.Linear(size, sum(self.sizes), bias=False)
        self.step_size = nn.Linear(rank, size)
        rates = torch.arange(1, state_size + 1, dtype=torch.float32)
        self.log_rate = nn.Parameter(rates.log().repeat(size, 1))
        self.skip = nn.Parameter(torch.ones(size))
        nn.init.uniform_(self.step_size.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.step_size.bias.copy_(fresh_step_bias(size))

    def forward(self, u: Tensor, before: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """(T, B, D), (B, D, N) -> outputs (T, B, D), the last state (B, D, N)."""
        low, enter, leave = self.select(u).to(self.skip.dtype).split(self.sizes, -1)
        step = functional.softplus(self.step_size(low).to(self.skip.dtype))
        selected, rate = Selected(step, u, enter, leave), self.log_rate.exp()
        y, last = selective_scan(selected, rate, before=before, starts=starts)
        return y + self.skip * u, last


class MambaLayer(MemoryLayer):
    """RMS norm, convolution and selective state space behind a gate, the identity beside them."""

    def __init__(self, hidden_size: int, *, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        inner = expand * hidden_size
        self.shapes = {WINDOW: (d_conv - 1, inner), STATE: (inner, d_state)}
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)
        self.input = layer_init(nn.Linear(hidden_size, 2 * inner, bias=False), 1.0)
        self.convolution = WindowConvolution(inner, d_conv)
        self.space = SelectiveSpace(inner, d_state, math.ceil(hidden_size / RANK))
        self.output = layer_init(nn.Linear(inner, hidden_size, bias=False), 1.0)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the convolution's window, (K - 1, D), and the state, (D, N)."""
        return dict(self.shapes)

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with window and state after the last step."""
        u, gate = self.input(self.norm(x)).to(carry[STATE].dtype).chunk(2, -1)
        u, window = self.convolution(u, carry[WINDOW], starts)
        y, last = self.space(functional.silu(u), carry[STATE], starts)
        x = x + self.output(y * functional.silu(gate))
        return x, {WINDOW: window, STATE: last}


class MambaCore(StackCore):
    """A stack of Mamba blocks.

    State: ``mamba_window`` (B, K - 1, D) and ``mamba_state`` (B, D, N) for one block, else with the
    blocks after the batch.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: blocks on top of each other.
        d_state: N, the size of each inner channel's state.
        d_conv: K, the steps that the convolution sees.
        expand: how many times as wide a block is inside.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        require_count("d_state", d_state)
        require_count("expand", expand)
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [
            MambaLayer(hidden_size, d_state=d_state, d_conv=d_conv, expand=expand) for _ in count
        ]
        super().__init__(input_size, hidden_size, layers)


class MambaWrapper(MemoryWrapper, core=MambaCore):
    """A policy with Mamba blocks between its encoder and its heads."""
