"""Observations at the edges of their space: ones, zeros, lowest and highest numbers and codes.

Random samples of a space hardly ever show them, and an env sends them all the time: an empty set,
a sensor that is off, the last code of a Discrete.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym

from puffer_policies.checks.probes.subject import Subject
from puffer_policies.spaces.nested import map_nested

MODERATE = 50.0
"""Stands for the edge of what has no bound; N2 tries larger numbers."""

EDGES = {
    "ones": 1.0,
    "zeros": 0.0,
    "the lowest numbers": -MODERATE,
    "the highest numbers": MODERATE,
}
"""Ones are the darkest pixels that are not black: who guesses from them alone whether pixels are
bytes or shares of one guesses wrong, and so they come first."""


@singledispatch
def bounds_of(space: Any) -> tuple[Any, Any] | None:
    """Return the smallest and the largest number of a leaf's space; None if it has no numbers."""
    return None


@bounds_of.register
def _(space: gym.Box) -> tuple[Any, Any] | None:
    return space.low, space.high


@bounds_of.register
def _(space: gym.Discrete) -> tuple[Any, Any] | None:
    return space.start, space.start + space.n - 1


@bounds_of.register
def _(space: gym.MultiDiscrete) -> tuple[Any, Any] | None:
    start = np.asarray(getattr(space, "start", 0))  # it came after gymnasium 0.29
    return start + np.zeros_like(space.nvec), start + space.nvec - 1


@bounds_of.register
def _(space: gym.MultiBinary) -> tuple[Any, Any] | None:
    return np.zeros(space.shape), np.ones(space.shape)


def filled(space: Any, observations: Any, value: float) -> Any:
    """Fill every leaf with `value`, or with the bound of its space if that is nearer."""
    parts = getattr(space, "spaces", None)
    if parts is not None:
        if isinstance(observations, dict):
            return {key: filled(parts[key], each, value) for key, each in observations.items()}
        pairs = zip(parts, observations, strict=True)
        return tuple(filled(part, each, value) for part, each in pairs)
    bounds = bounds_of(space)
    if bounds is None:
        return observations
    number = np.clip(np.full(np.shape(bounds[0]), value), *bounds)
    return torch.as_tensor(number).to(observations.dtype).expand_as(observations).clone()


def with_edges(subject: Subject, observations: Any) -> Any:
    """Return observations (B, ...) whose first rows are at the edges; the others stay."""
    for row, value in enumerate(EDGES.values()):
        edge = subject.admit(filled(subject.spaces.observation, observations, value))
        observations = map_nested(lambda leaf, at: _put(leaf, at, row), observations, edge)  # noqa: B023
    return observations


def _put(leaf: torch.Tensor, edge: torch.Tensor, row: int) -> torch.Tensor:
    leaf = leaf.clone()
    leaf[row] = edge[row]
    return leaf
