"""The recurrence ``h[t] = decay[t] * h[t-1] + drive[t]``, time first, with its gradient.

It is a plain loop of one multiply-add per step, which keeps float32's accuracy at any length. The
popular scan in log space does not, and is slower on CPU. A reset is a decay of 0. Numbers are real
or complex. A rectified scan puts a ReLU around each step, for which there is no other way than a
loop; of a complex number it rectifies both parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Scan(torch.autograd.Function):
    """The loop, without autograd's record of each step, which would cost more than the step."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor, rectified: bool) -> Tensor:
        states = torch.empty_like(drive)
        h = initial
        for a, b, out in zip(decay.unbind(0), drive.unbind(0), states.unbind(0), strict=True):
            # Written where it stays: stacking T states would copy all of them once more.
            h = torch.addcmul(b, a, h, out=out)
            if rectified:
                _parts(h).relu_()
        ctx.save_for_backward(decay, states, initial)
        ctx.rectified = rectified
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        decay, states, initial = ctx.saved_tensors
        # Torch's gradient of a complex product takes the conjugate of the other factor.
        decay = decay.conj().resolve_conj()
        grad = grads[0].contiguous()
        flow = torch.empty_like(states)  # gradient of each sum, through its state and later ones
        open_parts = _parts(states) > 0 if ctx.rectified else None
        last = len(states) - 1
        later = flow[last].copy_(grad[last])
        for t in range(last, -1, -1):
            if t < last:
                later = torch.addcmul(grad[t], decay[t + 1], later, out=flow[t])
            if open_parts is not None:
                _parts(later).mul_(open_parts[t])
        before = torch.cat([initial.unsqueeze(0), states[:-1]])
        return flow * before.conj(), flow, decay[0] * flow[0], None


def linear_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """(T, B, H), (T, B, H), (B, H), all real or all complex -> every state (T, B, H)."""
    scanned: Tensor = _Scan.apply(decay, drive, initial, False)  # type: ignore[no-untyped-call]
    return scanned


def rectified_scan(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Return every state of ``h[t] = relu(decay[t] * h[t-1] + drive[t])``, as `linear_scan`."""
    scanned: Tensor = _Scan.apply(decay, drive, initial, True)  # type: ignore[no-untyped-call]
    return scanned


def rectify(numbers: Tensor) -> Tensor:
    """Return the ReLU of real numbers, or of both parts of complex ones."""
    if not numbers.is_complex():
        return torch.relu(numbers)
    return torch.view_as_complex(torch.relu(torch.view_as_real(numbers)))


def _parts(numbers: Tensor) -> Tensor:
    """Return a view of the real numbers of which `numbers` are made."""
    return torch.view_as_real(numbers) if numbers.is_complex() else numbers
