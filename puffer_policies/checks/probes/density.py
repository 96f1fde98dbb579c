"""Integrate a distribution's density over a grid, and compare it with its samples.

`B` rows, `D` dimensions, `G` points. Only dimensions that are independent given the observation
can be done one by one: then log p(x) is a sum over dimensions. With I_d the integral along
dimension d through a point x, the product of all I_d is p(x)^(D-1) iff p integrates to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from puffer_policies.checks.probes.outputs import draw
from puffer_policies.checks.probes.parts import bounds_of_columns
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

POINTS = 201
"""Points of a grid over three times the range of the samples: about 10 for a standard deviation,
where the trapezoid rule is exact to float32 for a Gaussian."""

SAMPLES = 2000
"""Samples of each row; `tolerances.SAMPLING_GAP` depends on their number."""

FAR = 8.0
"""Where tanh is 1 within float32: grids of a bounded density end there."""


class InterdependentError(Exception):
    """The log-density is not a sum over the dimensions."""


class Slices:
    """The density along every dimension, through one sample of each row.

    Args:
        dist: the distribution of `B` rows.
        layout: the action space.
        score: the log-probabilities (G, B) of actions (G, B, ...), if they can be had faster than
            one by one.
    """

    def __init__(
        self,
        dist: Distribution,
        layout: ActionLayout,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.shape = layout.shape
        self.score = score or (lambda many: torch.stack([dist.log_prob(each) for each in many]))
        samples = draw(dist, SAMPLES)
        self.samples = samples.reshape(*samples.shape[:2], -1).double()  # (S, B, D)
        self.point = self.samples[0]  # (B, D)
        self.low, self.high = (each.double() for each in bounds_of_columns(layout))

    def log_prob(self, actions: Tensor) -> Tensor:
        """(G, B, D) float64 -> (G, B) float64; a point where it is NaN has no density."""
        log_prob = self.score(actions.float().reshape(*actions.shape[:2], *self.shape))
        log_prob = log_prob.detach().double()
        return log_prob.nan_to_num(nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    @cached_property
    def curves(self) -> list[tuple[Tensor, Tensor]]:
        """Points (G, B) of each dimension, and the integral up to each point, (G, B)."""
        return [self._along(dim) for dim in range(self.point.shape[1])]

    def _along(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return points (G, B) of dimension `dim`, and the integral up to each, (G, B)."""
        points, slopes = self._grid(dim)
        actions = self.point.repeat(len(points), 1, 1)
        actions[:, :, dim] = points
        density = self.log_prob(actions).exp() * slopes  # (G, B), by the grid's own coordinate
        steps = (density[1:] + density[:-1]) / 2
        return points, torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])

    def _grid(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return points (G, B), and what a step of the grid is worth at each."""
        samples, low, high = self.samples[:, :, dim], self.low[dim], self.high[dim]
        if not bool(((samples > low) & (samples < high)).all()) or not bool(
            torch.isfinite(high - low)
        ):
            points = _spread(samples)
            return points, (points[1] - points[0]).expand_as(points)
        middle, half = (low + high) / 2, (high - low) / 2
        inner = _spread(torch.atanh(((samples - middle) / half).clamp(-1 + 1e-7, 1 - 1e-7)))
        inner = inner.clamp(-FAR, FAR)
        # The ends are clamped to the same point, where a step of the grid is worth nothing.
        gaps = torch.diff(inner, dim=0).amax(0)
        moving = torch.diff(inner, dim=0, prepend=inner[:1] - 1).abs() > 0
        slopes = half * (1 - torch.tanh(inner) ** 2) * gaps * moving
        return middle + half * torch.tanh(inner), slopes


def _spread(samples: Tensor) -> Tensor:
    """(S, B) -> (G, B): a grid that reaches one range beyond the samples on both sides."""
    first, last = samples.amin(0), samples.amax(0)
    reach = (last - first).clamp(min=1e-6)
    grid = torch.linspace(0, 1, POINTS, dtype=torch.float64).unsqueeze(1)
    return first - reach + grid * 3 * reach


def total_mass(slices: Slices) -> float:
    """Return the log of the integral of exp(log_prob), of the row where it is furthest from 0.

    Raises:
        InterdependentError: the dimensions depend on each other.
    """
    _require_sum(slices)
    logs = [integral[-1].log() for _, integral in slices.curves]
    total = torch.stack(logs).sum(0) - (len(logs) - 1) * slices.log_prob(slices.point[None])[0]
    return float(total[total.abs().argmax()])


def sampling_gap(slices: Slices) -> float:
    """Return the largest gap between the cumulative distribution of density and of samples."""
    gaps = [0.0]
    for dim, (points, integral) in enumerate(slices.curves):
        expected = integral / integral[-1]
        for row in range(points.shape[1]):
            samples = slices.samples[:, row, dim].sort().values
            reached = torch.searchsorted(samples, points[:, row].contiguous(), right=True)
            gaps.append(float((reached / len(samples) - expected[:, row]).abs().max()))
    return max(gaps)


def largest_correlation(slices: Slices) -> float:
    """Return the largest correlation of two dimensions over the samples of one row, absolute."""
    centered = slices.samples - slices.samples.mean(0)
    unit = centered / centered.norm(dim=0).clamp(min=1e-12)  # (S, B, D)
    correlations = torch.einsum("sbi,sbj->bij", unit, unit).abs()
    return float(correlations.triu(diagonal=1).max())


def _require_sum(slices: Slices) -> None:
    """Compare log p(x) + log p(y) with the same after x and y exchanged a dimension."""
    x, y = slices.point, slices.samples[1]
    if x.shape[1] < 2:
        return
    crossed, back = x.clone(), y.clone()
    crossed[:, 0], back[:, 0] = y[:, 0], x[:, 0]
    one, two, three, four = slices.log_prob(torch.stack([x, y, crossed, back]))
    straight = one + two
    gap = (straight - three - four).abs().max()
    if not gap <= 1e-3 * max(1.0, float(straight.abs().max())):
        raise InterdependentError
