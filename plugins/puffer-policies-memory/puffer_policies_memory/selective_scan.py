"""The recurrence of a selective state space, one step at a time, with its gradient.

``h = exp(-step * rate) * h + step * u * enter``, ``y = h . leave``. What a step works on is
(B, D, N) and stays in a processor's cache; written as operations on (T, B, D, N) the same costs
three times the time and six times the memory.

`T` time, `B` batch, `D` channels, `N` state size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Selected(NamedTuple):
    """What the input selects at each step."""

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
    with torch.autocast(rate.device.type, enabled=False):
        y, last = _SelectiveScan.apply(*selected, rate, before, keep)  # type: ignore[no-untyped-call]
    return y, last


class _SelectiveScan(torch.autograd.Function):
    """The loop without autograd's record of each step: states are kept, decays made again."""

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


def _decay(step: Tensor, rate: Tensor, keep: Tensor | None, t: int) -> Tensor:
    """Return what is left at step t of the state before it: (B, D, N), exactly 0 at a start."""
    decay = torch.mul(step[t].unsqueeze(-1), rate).neg_().exp_()
    return decay if keep is None else decay.mul_(keep[t][:, None, None])
