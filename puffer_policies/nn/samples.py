"""Random observations of a space, as tensors that a policy reads."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch

LARGEST = 1e6
"""Numbers beyond this are scaled down."""


def random_observations(space: gymnasium.Space[Any], lead: tuple[int, ...], *, seed: int) -> Any:
    """Return members of `space` in its own dtypes, (*lead, *obs) in every leaf; no generator moves.

    Args:
        space: what is sampled, by a copy of it.
        lead: the axes in front of an observation, such as (B,) or (B, T).
        seed: of the samples.
    """
    space = copy.deepcopy(space)
    space.seed(seed)
    return _stack([space.sample() for _ in range(int(np.prod(lead)))], lead)


def _stack(rows: list[Any], lead: tuple[int, ...]) -> Any:
    first = rows[0]
    if isinstance(first, dict):
        return {key: _stack([row[key] for row in rows], lead) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack([row[i] for row in rows], lead) for i in range(len(first)))
    array = _scale_down(np.stack([np.asarray(row) for row in rows]))
    return torch.from_numpy(array).reshape(*lead, *array.shape[1:])


def _scale_down(array: np.ndarray) -> np.ndarray:
    """Replace numbers that no env sends by their logarithms.

    Bounds such as the largest float, which CartPole has, are sampled evenly: every number would be
    around 1e38. Half precision has none as large.
    """
    if not np.issubdtype(array.dtype, np.floating) or array.dtype.itemsize < 4:
        return array
    size = np.abs(array)
    logarithm = np.sign(array) * np.log10(np.maximum(size, 1))
    return np.where(size > LARGEST, logarithm, array)
