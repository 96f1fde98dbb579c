"""The uncertainty of a mean: a bootstrap interval, or the range of a few values.

Percentile bootstrap: Efron 1979, https://doi.org/10.1214/aos/1176344552; for few runs of
reinforcement learning see Agarwal et al. 2021, https://arxiv.org/abs/2108.13264. Unlike Student's
interval, it never leaves the range of the values, which matters for returns with a ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
"""Share of the resampled means inside an interval."""
MIN_RESAMPLED = 6
"""Fewer values are described by their range.

Their bootstrap interval lies within the range, and the range of n values misses the median of their
distribution whenever all of them fall on one side of it, which has probability 2 / 2**n: 25 % with
three seeds, 6 % with five. Only from six values on can an interval within the range hold 95 %.
"""
RESAMPLES = 5_000
_BLOCK = 4_000_000
"""Numbers in memory at once, 32 MB: with many episodes, all resamples together take gigabytes."""


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of `values`, or the range of fewer than six.

    `interval_kind` names which of them it is. A single value has neither: None.
    """
    if len(values) < 2:
        return None
    low, high = mean_band(np.asarray(values, dtype=np.float64)[:, None])
    return float(low[0]), float(high[0])


def mean_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `mean_interval` for each column of `curves` (N, K), as (K,) and (K,).

    Whole rows are resampled, as the points of one curve are not independent.
    """
    smallest, largest = curves.min(0), curves.max(0)
    if len(curves) < MIN_RESAMPLED:
        return smallest, largest
    # A fixed seed: the same episodes give the same numbers every time.
    generator = np.random.default_rng(0)
    means = _resampled_means(curves, generator)  # (R, K)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    # Rounding may carry a mean of equal numbers an ulp away from them.
    return np.clip(low, smallest, largest), np.clip(high, smallest, largest)


def interval_kind(number: int) -> str | None:
    """Return what `mean_interval` gives for so many values: ``95 % CI``, ``range``, or None."""
    if number < 2:
        return None
    return "range" if number < MIN_RESAMPLED else f"{LEVEL:.0%} CI".replace("%", " %")


def mean_text(mean: float, interval: tuple[float, float] | None, number: int) -> str:
    """Return a mean of `number` values with its interval: ``12.10, range [11.90, 12.80]``."""
    if interval is None:
        return f"{mean:,.2f}"
    return f"{mean:,.2f}, {interval_kind(number)} [{interval[0]:,.2f}, {interval[1]:,.2f}]"


def _resampled_means(curves: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    number = len(curves)
    block = max(1, _BLOCK // curves.size)
    means = [
        curves[generator.integers(number, size=(min(block, RESAMPLES - start), number))].mean(1)
        for start in range(0, RESAMPLES, block)
    ]
    return np.concatenate(means)
