"""Running mean and variance: the moments of batches, merged into the buffers of a module.

Chan, Golub and LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115: two samples' moments
merge without a difference of large sums, so batches and processes can be merged in any grouping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puffer_policies.errors import IncompatibleSpace, TrainingError
from puffer_policies.nn.collective import several_processes, sum_

CHUNK = 1 << 20
"""Numbers that are widened to float64 at a time, which bounds the memory of a large rollout."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and spread of a sample, element by element; float64."""

    count: Tensor
    """()."""
    mean: Tensor
    """(*shape)."""
    m2: Tensor
    """(*shape): the sum of squared distances from the mean."""


def moments_of(sample: Tensor, shape: Shape) -> Moments:
    """(..., *shape) of any dtype -> the moments over all leading axes.

    Raises:
        TrainingError: a number that is not finite.
    """
    rows = sample.detach().reshape(-1, *shape)
    first, *others = torch.split(rows, max(CHUNK // max(math.prod(shape), 1), 1))
    merged = _moments(first)
    for chunk in others:
        merged = merge_moments(merged, _moments(chunk))
    if not merged.m2.isfinite().all():
        raise TrainingError(
            "The observations hold a number that is not finite, so their statistics would, too.",
            fix="Find the step at which the environment returns it.",
        )
    return merged


def merge_moments(one: Moments, other: Moments) -> Moments:
    """Return the moments of both samples together."""
    count = one.count + other.count
    share = other.count / count.clamp(min=1)
    delta = other.mean - one.mean
    m2 = one.m2 + other.m2 + delta.square() * one.count * share
    return Moments(count, one.mean + delta * share, m2)


def of_all_processes(moments: Moments) -> Moments:
    """Return the moments of the samples of all processes together, the same in each of them."""
    if not several_processes():
        return moments
    count = sum_(moments.count.clone())
    mean = sum_(moments.mean * moments.count) / count.clamp(min=1)
    m2 = sum_(moments.m2 + (moments.mean - mean).square() * moments.count)
    return Moments(count, mean, m2)


class RunningMoments(nn.Module):
    """The moments of all samples so far, as buffers; mean 0 and variance 1 before the first.

    They are float64: in float32 counts beyond 2**24, and means far from 0, would stop changing.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    def merge(self, moments: Moments) -> None:
        """Merge the moments of a sample."""
        own = Moments(self.count, self.mean, self.var * self.count)
        both = merge_moments(own, moments)
        # In place: compiled graphs and other processes hold these very tensors.
        self.count.copy_(both.count)
        self.mean.copy_(both.mean)
        self.var.copy_(both.m2 / both.count.clamp(min=1))

    def normalize(self, sample: Tensor, *, epsilon: float) -> Tensor:
        """(..., *shape) -> (sample - mean) / sqrt(var + epsilon), float32 or float64.

        Raises:
            IncompatibleSpace: another shape, which broadcasting would hide.
        """
        if sample.shape[sample.ndim - len(self.shape) :] != self.shape:
            raise IncompatibleSpace(
                f"Observations have shape {tuple(sample.shape)}; expected (B, *obs) or "
                f"(B, T, *obs), obs = {self.shape}.",
                fix="Build the policy for the env that it meets.",
            )
        wide = sample if sample.dtype is torch.float64 else sample.float()
        scale = (self.var + epsilon).rsqrt().to(wide.dtype)
        return (wide - self.mean.to(wide.dtype)) * scale


def _moments(rows: Tensor) -> Moments:
    rows = rows.double()
    count = torch.full((), len(rows), dtype=torch.float64, device=rows.device)
    mean = rows.sum(0) / count.clamp(min=1)
    return Moments(count, mean, (rows - mean).square().sum(0))
