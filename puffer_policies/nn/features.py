"""Features: observations of any space as one row of numbers.

`N` rows, `B` batch, `T` time. Observations of Dict and Tuple spaces are nested dicts and tuples of
tensors. A package with a space of its own registers it with ``make_features.register``, and with
``puffer_policies.nn.observations.batch_layout.register`` if its observations are not one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.observations import (
    Shape,
    require_keys,
    require_members,
    require_shape,
)
from puffer_policies.spaces import action_layout, at_part, image_layout, sorted_keys

MAX_PIXEL = 255.0


class Features(nn.Module):
    """(N, *obs) of one space -> (N, size) float32, as `gymnasium.spaces.flatten` orders them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def scales(self) -> Tensor:
        """Return (size,), by what `gymnasium.spaces.flatten`'s numbers are multiplied: here 1."""
        return torch.ones(self.size)


class BoxFeatures(Features):
    """A Box, flattened; pixels of an image are scaled from 0..255 to 0..1."""

    def __init__(self, space: gym_spaces.Box) -> None:
        super().__init__(math.prod(space.shape))
        self.shape = space.shape
        self.scaled = bool(image_layout(space)) and holds_pixels(space)
        self._are_rows = len(space.shape) == 1 and not self.scaled

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, size) float32."""
        observations = require_shape(observations, self.shape)
        if self._are_rows and observations.dtype is torch.float32:
            return observations  # calls of torch that change nothing cost a microsecond each
        rows = observations.reshape(observations.shape[0], self.size)
        # The one place where a flattened image is scaled; PufferLib's Default leaves it at 0..255.
        return (rows / MAX_PIXEL).float() if self.scaled else rows.float()

    def scales(self) -> Tensor:
        """Return (size,), 1 / 255 for pixels."""
        return torch.full((self.size,), 1 / MAX_PIXEL if self.scaled else 1.0)


class OneHotFeatures(Features):
    """Choices as one-hot codes side by side; an option outside the space is all zeros."""

    options: Tensor
    choice: Tensor

    def __init__(self, shape: Shape, nvec: Sequence[int], start: np.ndarray) -> None:
        super().__init__(sum(nvec))
        self.shape = shape
        self.num_choices = len(nvec)
        pairs = zip(nvec, start.reshape(-1), strict=True)
        options = [np.arange(n) + s for n, s in pairs] or [np.arange(0)]
        choice = np.repeat(np.arange(len(nvec)), nvec)
        # Constants of the space: a checkpoint need not hold them.
        self.register_buffer("options", torch.from_numpy(np.concatenate(options)), persistent=False)
        self.register_buffer("choice", torch.from_numpy(choice), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, size) float32."""
        observations = require_shape(observations, self.shape)
        options = observations.reshape(observations.shape[0], self.num_choices)
        if self.num_choices > 1:
            options = options.index_select(1, self.choice)  # (N, size)
        # Compared, not scattered: a number outside the space gives zeros instead of an error that
        # would need a read-back from an accelerator.
        return (options == self.options).float()


class BinaryFeatures(Features):
    """A MultiBinary, flattened."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(math.prod(shape))
        self.shape = shape

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, size) float32."""
        observations = require_shape(observations, self.shape)
        return observations.reshape(observations.shape[0], self.size).float()


class DictFeatures(Features):
    """The features of every key side by side, in the order of `keys`: sorted, not as inserted."""

    def __init__(self, space: gym_spaces.Dict) -> None:
        keys = sorted_keys(space)
        parts = [_features_at(key, space.spaces[key]) for key in keys]
        super().__init__(sum(part.size for part in parts))
        self.keys = keys
        self.parts = nn.ModuleList(parts)

    def forward(self, observations: Mapping[str, Any]) -> Tensor:
        """A dict of (N, *obs) with exactly these keys -> (N, size) float32."""
        require_keys(observations, self.keys)
        pairs = zip(self.keys, self.parts, strict=True)
        # An empty part may be a dict without a tensor, which does not tell how many rows there are.
        return torch.cat([part(observations[key]) for key, part in pairs if part.size], -1)

    def scales(self) -> Tensor:
        """Return (size,), those of each part."""
        return _scales_of(self.parts)


class TupleFeatures(Features):
    """The features of every member side by side."""

    def __init__(self, space: gym_spaces.Tuple[Any]) -> None:
        parts = [_features_at(place, member) for place, member in enumerate(space.spaces)]
        super().__init__(sum(part.size for part in parts))
        self.parts = nn.ModuleList(parts)

    def forward(self, observations: Sequence[Any]) -> Tensor:
        """A tuple of (N, *obs) with a member for each space -> (N, size) float32."""
        require_members(observations, len(self.parts))
        pairs = zip(self.parts, observations, strict=True)
        return torch.cat([part(member) for part, member in pairs if part.size], -1)

    def scales(self) -> Tensor:
        """Return (size,), those of each member."""
        return _scales_of(self.parts)


def _scales_of(parts: nn.ModuleList) -> Tensor:
    return torch.cat([torch.ones(0), *(part.scales() for part in parts)])  # type: ignore[operator]


def _features_at(key: object, space: Any) -> Features:
    with at_part(key):
        return make_features(space)


@singledispatch
def make_features(space: Any) -> Features:
    """Return the module that turns observations of `space` into one row of numbers.

    Raises:
        IncompatibleSpace: no features are registered for the space.
    """
    raise IncompatibleSpace(
        f"Observation space {space} is of a kind that no encoder reads.",
        fix="Known are Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple. Register others "
        "with puffer_policies.nn.features.make_features.register.",
    )


@make_features.register
def _(space: gym_spaces.Box) -> Features:
    return BoxFeatures(space)


@make_features.register(gym_spaces.Discrete)
@make_features.register(gym_spaces.MultiDiscrete)
def _(space: Any) -> Features:
    # A choice is laid out alike whether it is observed or made.
    layout = action_layout(space)
    assert layout.start is not None
    return OneHotFeatures(layout.shape, layout.nvec, layout.start)


@make_features.register
def _(space: gym_spaces.MultiBinary) -> Features:
    return BinaryFeatures(space.shape)


@make_features.register
def _(space: gym_spaces.Dict) -> Features:
    return DictFeatures(space)


@make_features.register(gym_spaces.Tuple)
def _(space: gym_spaces.Tuple[Any]) -> Features:
    return TupleFeatures(space)


def holds_pixels(space: gym_spaces.Box) -> bool:
    """Return whether every bound of the Box is 0 below and 255 above."""
    return bool(np.all(space.low == 0) and np.all(space.high == MAX_PIXEL))
