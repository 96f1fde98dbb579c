"""How the last observations of one leaf stand side by side, and the space of what that gives.

Images are stacked along their channels, other numbers flattened, choices become a MultiDiscrete
whose option 0 says that nothing was there yet. A package with a space of its own registers it:
``make_frames.register``, which gives a `Frames`.

`B` batch, `T` time, `K` frames, `S` the leaf's own shape.
"""

from __future__ import annotations

from functools import partial, singledispatch
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nested import map_nested
from puffer_policies.nn.leaves import leaf_spaces, space_of_leaves
from puffer_policies.spaces import Image, described, image_layout

Space = gymnasium.Space[Any]


class Frames(nn.Module):
    """How observations of one leaf are kept and stacked; a frame of zeros is none at all.

    Args:
        shape: S.
        dtype: of the frames that are kept.
        space: what K frames together are an observation of.
        axis: the axis of S along which frames are stacked; None: they are flattened.
        first: first option of each choice, shaped S, if the leaf holds choices.
    """

    first: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        space: Space,
        *,
        axis: int | None = None,
        first: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.dtype, self.space, self.axis = shape, dtype, space, axis
        # A constant of the space: a checkpoint need not hold it.
        self.register_buffer("first", first, persistent=False)

    def none(self, *batch: int, device: torch.device | str | None) -> Tensor:
        """Return frames before an episode's first: zeros (*batch, *S)."""
        return torch.zeros(*batch, *self.shape, dtype=self.dtype, device=device)

    def frame(self, leaf: Tensor) -> Tensor:
        """Return observations as frames: choices count from 1. (B, T, *S) -> the same."""
        return leaf if self.first is None else leaf.to(self.dtype) - self.first + 1

    def together(self, frames: list[Tensor]) -> Tensor:
        """K times (B, T, *S), the newest last -> (B, T, *stacked)."""
        if self.axis is None:
            return torch.cat([each.reshape(*each.shape[:2], -1) for each in frames], -1)
        return torch.cat(frames, 2 + self.axis)


def frames_of(space: Space, count: int) -> Any:
    """Return the `Frames` of each leaf of a space, in dicts and tuples as its observations are.

    Raises:
        IncompatibleSpace: a leaf of which frames can't be stacked.
    """
    return map_nested(partial(make_frames, count=count), leaf_spaces(space))


def stacked_space(space: Space, count: int) -> Space:
    """Return the space of `count` frames of each leaf of a space."""
    stacked: Space = space_of_leaves(map_nested(lambda each: each.space, frames_of(space, count)))
    return stacked


@singledispatch
def make_frames(leaf: Any, count: int) -> Frames:
    """Return how frames of a leaf are stacked.

    Raises:
        IncompatibleSpace: nothing is registered for the space.
    """
    raise IncompatibleSpace(
        f"'FrameStackWrapper' does not fit the observation space {described(leaf)}: how its frames "
        "stand side by side is not known.",
        fix="Use a memory, such as GRUWrapper, which reads what the policy encodes, or register "
        "the space with puffer_policies.nn.frames.make_frames.register.",
    )


@make_frames.register
def _(leaf: gym_spaces.Box, count: int) -> Frames:
    layout = image_layout(leaf)
    axis = {"HWC": 2, "CHW": 0}.get(layout)
    low, high = (_side_by_side([each] * count, axis) for each in (leaf.low, leaf.high))
    box = partial(Image, layout=layout) if layout else gym_spaces.Box
    stacked = box(low, high, dtype=leaf.dtype.type)
    dtype = torch.from_numpy(np.zeros(0, dtype=leaf.dtype)).dtype
    # Trainers cast float64 to what policies are given.
    kept = torch.float32 if dtype is torch.float64 else dtype
    return Frames(leaf.shape, kept, stacked, axis=axis)


@make_frames.register
def _(leaf: gym_spaces.Discrete, count: int) -> Frames:
    return _choices((), np.asarray(leaf.n), leaf.start, count)


@make_frames.register
def _(leaf: gym_spaces.MultiDiscrete, count: int) -> Frames:
    # `start` came after gymnasium 0.29.
    return _choices(leaf.shape, leaf.nvec, getattr(leaf, "start", 0), count)


@make_frames.register
def _(leaf: gym_spaces.MultiBinary, count: int) -> Frames:
    size = int(np.prod(leaf.shape))
    return Frames(leaf.shape, torch.int8, gym_spaces.MultiBinary(count * size))


def _choices(shape: tuple[int, ...], nvec: np.ndarray, start: Any, count: int) -> Frames:
    stacked = gym_spaces.MultiDiscrete(np.tile(nvec.reshape(-1) + 1, count))
    first = np.broadcast_to(np.asarray(start, dtype=np.int64), shape).copy()
    return Frames(shape, torch.int64, stacked, first=torch.from_numpy(first))


def _side_by_side(frames: list[np.ndarray], axis: int | None) -> np.ndarray:
    if axis is None:
        return np.concatenate([each.reshape(-1) for each in frames])
    return np.concatenate(frames, axis)
