"""Linear recurrences with exact resets, and the complex numbers in them as real parameters.

Parameters and carried states are real: a complex tensor exists only inside a forward pass, so that
checkpoints, optimisers and trainers meet float32 alone.

`T` time, `B` batch, `N` state size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from puffer_policies.nn.cores.scan import linear_scan


def recur(decay: Tensor, drive: Tensor, *, before: Tensor, starts: Tensor | None) -> Tensor:
    """Return every state of ``h = decay * h + drive``, or of ``h = drive`` where `starts`.

    Args:
        decay: as `drive`, or without its first axes where it is the same for all. One that turns is
            best made in float64 and is rounded once, here: a phase that is wrong by one rounding
            is wrong by a thousand after a thousand steps.
        drive: (T, B, ...), real or complex.
        before: (B, ...) in the dtype of `drive`, the state before the first step.
        starts: bool (T, B), true where an episode starts: the decay there is exactly 0.

    Returns:
        (T, B, ...)
    """
    decay = decay.to(drive.dtype).expand_as(drive)
    if starts is not None:
        decay = decay * ~starts.reshape(*starts.shape, *[1] * (drive.ndim - 2))
    if len(drive) == 1:
        return torch.addcmul(drive, decay, before)
    return linear_scan(decay, drive, before)


def as_complex(halves: Tensor) -> Tensor:
    """(..., 2N) real -> (..., N) complex: the real parts stand before the imaginary ones."""
    return torch.complex(*halves.chunk(2, -1))


def as_halves(numbers: Tensor) -> Tensor:
    """(..., N) complex -> (..., 2N) real, as `as_complex` takes them."""
    return torch.cat([numbers.real, numbers.imag], -1)


def carried_in(carry: Mapping[str, Tensor], keys: tuple[str, str]) -> Tensor:
    """Return the complex state whose parts `carry` holds under two keys."""
    return torch.complex(carry[keys[0]], carry[keys[1]])


def carried_out(states: Tensor, keys: tuple[str, str]) -> dict[str, Tensor]:
    """Return the parts of the last of complex states (T, B, ...), as tensors of their own."""
    last = states[-1]
    return {keys[0]: last.real.contiguous(), keys[1]: last.imag.contiguous()}
