"""The linear recurrence ``h[t] = decay[t] * h[t-1] + drive[t]``, time first, with its gradient.

It is a plain loop of one multiply-add per step, which keeps float32's accuracy at any length. The
popular scan in log space does not, and is slower on CPU. A reset is a decay of 0. Numbers are real
or complex.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LinearScan(torch.autograd.Function):
    """The loop, without autograd's record of each step, which would cost more than the step."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
        states = torch.empty_like(drive)
        h = initial
        for a, b, out in zip(decay.unbind(0), drive.unbind(0), states.unbind(0), strict=True):
            # Written where it stays: stacking T states would copy all of them once more.
            h = torch.addcmul(b, a, h, out=out)
        ctx.save_for_backward(decay, states, initial)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, initial = ctx.saved_tensors
        # Torch's gradient of a complex product takes the conjugate of the other factor.
        decay = decay.conj().resolve_conj()
        grad = grads[0].contiguous()
        flow = torch.empty_like(states)  # gradient of each state, through itself and all later ones
        later = grad[-1]
        flow[-1] = later
        for t in range(len(states) - 2, -1, -1):
            later = torch.addcmul(grad[t], decay[t + 1], later, out=flow[t])
        before = torch.cat([initial.unsqueeze(0), states[:-1]])
        return flow * before.conj(), flow, decay[0] * flow[0]


def linear_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """(T, B, H), (T, B, H), (B, H), all real or all complex -> every state (T, B, H)."""
    scanned: Tensor = _LinearScan.apply(decay, drive, initial)  # type: ignore[no-untyped-call]
    return scanned
