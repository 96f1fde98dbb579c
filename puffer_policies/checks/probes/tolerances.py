"""The tolerances of all checks, each with its reason, and the comparisons that use them.

A tolerance is relative to the larger of 1 and the largest expected number, unless its text says
otherwise. They are float32's: a policy is compared with itself along two paths of computation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puffer_policies.checks.model import CheckFailed

ROUNDING = 1e-5
"""Equal but for rounding. Another order of summation over some hundred terms moves float32 results
by about 1e-6."""

CHANGE = 1e-6
"""A difference above this is an answer to a change of inputs. Rounding is the same on both sides
here, as the same path is run twice."""

KERNELS = 1e-4
"""Two kernels of one convolution, as strided images or another batch get another one."""

PRECISION = 1e-4
"""Float32 against float64: tens of layers lose about two digits of seven."""

HALF_PRECISION = 0.05
"""The same for a policy that computes in half precision on purpose: bfloat16 has 8 bits."""

PROBABILITY = 1e-4
"""Probabilities, which are exp of a difference of logarithms, from a step and from a sequence."""

ENTROPY = 1e-3
"""An entropy that is summed up from probabilities, against the one that the policy gives."""

DENSITY = 1e-3
"""Two formulas of one log-density, such as one with a Jacobian in another form."""

LIMIT = 1e-3
"""The answers to infinity and to 1e30, of which the second has not quite reached its limit."""

ORTHOGONALITY = 1e-3
"""A product with its own transpose against the identity, after a QR decomposition in float32."""

GAIN = 0.5
"""Share by which a head's gain, measured at one random point, may miss the declared one. What it is
to find, an actor of gain 1 instead of 0.01, is off by a factor of a hundred."""

MASS = 0.03
"""The logarithm of a density's integral over a grid of 401 points in float32, absolute."""

SAMPLING_GAP = 0.06
"""The largest gap of two cumulative distributions, absolute. At 2000 draws chance explains 0.04
in 999 of 1000 rows (Kolmogorov-Smirnov)."""

CORRELATION = 0.15
"""Of two dimensions of 2000 samples, absolute. Chance explains 0.1 in 99999 of 100000 pairs."""

ATOM = 0.01
"""Share of samples on the very bounds of a Box that a density without atoms can't have."""


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference; infinite where shapes differ, or one is NaN.

    Equal infinities do not differ.
    """
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    dtype = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.to(dtype), b.to(dtype)
    gap = torch.where(a == b, 0.0, (a - b).abs()).max()
    return float("inf") if torch.isnan(gap) else float(gap)


def is_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in every number; a NaN equals a NaN in its place."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def magnitude(values: Tensor) -> float:
    """Return the largest finite absolute value, and at least 1: what a tolerance is relative to."""
    finite = values[torch.isfinite(values)]
    return max(1.0, float(finite.abs().max())) if finite.numel() else 1.0


def is_same(actual: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> bool:
    """Whether two results agree within a tolerance."""
    return difference(actual, expected) <= tolerance * magnitude(expected)


def require_same(
    actual: Tensor,
    expected: Tensor,
    promise: str,
    *,
    where: str,
    example: str = "",
    tolerance: float = ROUNDING,
) -> None:
    """Raise `CheckFailed` unless two results agree; of outputs (B, T, n) it names the first step.

    Args:
        actual: what the policy gave.
        expected: what the promise says that it gives.
        promise: the promise as a statement, such as "forward equals forward_eval".
        where: completes "a difference of 0.3 ...", such as "in a new process".
        example: lines that show it; see `snippets.example`.
        tolerance: one of this file.
    """
    if is_same(actual, expected, tolerance):
        return
    limit = tolerance * magnitude(expected)
    text = f"a difference of {difference(actual, expected):.2g} {where}"
    if actual.ndim == 3 and actual.shape == expected.shape:
        by_step = (actual - expected).abs().amax((0, 2))
        first = int((~(by_step <= limit)).nonzero()[0])
        text += f", first at step {first} of {actual.shape[1]}"
    raise CheckFailed(f"{promise}, to {limit:.1g}", text, example=example)
