"""Which axes of an observation are batch and time, for tensors and for nested dicts and tuples.

`B` batch, `T` time, `N` = B or B*T. A layout is made once from a space and then only compares
shapes, so that a policy's forward compiles without a break.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import singledispatch
from typing import Any, Protocol

from gymnasium import spaces as gym_spaces
from torch import Tensor

from puffer_policies.errors import IncompatibleSpace

Shape = tuple[int, ...]


class BatchLayout(Protocol):
    """The observations of one space, seen as a tree of tensors."""

    def flatten(self, observations: Any) -> tuple[Any, Shape]:
        """Merge batch and time: (B, *obs) or (B, T, *obs) -> (N, *obs), with (B,) or (B, T).

        Row b at time t becomes row b*T + t.

        Raises:
            IncompatibleSpace: another shape than the space's, or unequal axes in front of it.
        """
        ...


class TensorLayout:
    """A space whose observations are one tensor."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def flatten(self, observations: Tensor) -> tuple[Tensor, Shape]:
        """Return the tensor with one axis in front, and the axes that it had there."""
        axes = observations.ndim - len(self.shape)
        if axes not in (1, 2) or observations.shape[axes:] != self.shape:
            raise _wrong_shape(observations, self.shape, "(B, *obs) or (B, T, *obs)")
        batch = tuple(observations.shape[:axes])
        if axes == 1:
            return observations, batch
        return observations.reshape(math.prod(batch), *self.shape), batch  # (N, *obs)


class DictLayout:
    """A Dict space: a dict of layouts."""

    def __init__(self, space: gym_spaces.Dict) -> None:
        self.keys = sorted_keys(space)
        self.parts = {key: batch_layout(space.spaces[key]) for key in self.keys}

    def flatten(self, observations: Mapping[Any, Any]) -> tuple[dict[Any, Any], Shape]:
        """Flatten every value."""
        require_keys(observations, self.keys)
        found = [self.parts[key].flatten(observations[key]) for key in self.keys]
        rows = {key: leaf for key, (leaf, _) in zip(self.keys, found, strict=True)}
        return rows, _common([batch for _, batch in found])


class TupleLayout:
    """A Tuple space: a tuple of layouts."""

    def __init__(self, space: gym_spaces.Tuple[Any]) -> None:
        self.parts = tuple(batch_layout(member) for member in space.spaces)

    def flatten(self, observations: tuple[Any, ...]) -> tuple[tuple[Any, ...], Shape]:
        """Flatten every member."""
        require_members(observations, len(self.parts))
        pairs = zip(self.parts, observations, strict=True)
        found = [part.flatten(member) for part, member in pairs]
        return tuple(leaf for leaf, _ in found), _common([batch for _, batch in found])


@singledispatch
def batch_layout(space: Any) -> BatchLayout:
    """Return the layout of a space's observations."""
    return TensorLayout(tuple(space.shape))


batch_layout.register(gym_spaces.Dict, DictLayout)
batch_layout.register(gym_spaces.Tuple, TupleLayout)


def sorted_keys(space: gym_spaces.Dict) -> tuple[Any, ...]:
    """Return the keys in the one order that does not depend on how the space was written."""
    return tuple(sorted(space.spaces, key=str))


def require_shape(observations: Tensor, shape: Shape) -> None:
    """Refuse anything but (N, *shape)."""
    if observations.shape[1:] != shape or not observations.ndim:
        raise _wrong_shape(observations, shape, "(N, *obs)")


def require_keys(observations: Any, keys: tuple[Any, ...]) -> None:
    """Refuse a dict observation that lacks a key or has one too many."""
    if not isinstance(observations, Mapping):
        raise IncompatibleSpace(
            f"Expected a dict of tensors with the keys {list(keys)}, got "
            f"{type(observations).__name__!r}."
        )
    if len(observations) != len(keys) or any(key not in observations for key in keys):
        missing = [key for key in keys if key not in observations]
        unknown = [key for key in observations if key not in keys]
        raise IncompatibleSpace(
            f"The observation has the keys {list(observations)}, its space {list(keys)}: "
            f"missing {missing}, unknown {unknown}."
        )


def require_members(observations: Any, members: int) -> None:
    """Refuse a tuple observation of another length."""
    if not isinstance(observations, tuple | list) or len(observations) != members:
        length = f" of length {len(observations)}" if hasattr(observations, "__len__") else ""
        raise IncompatibleSpace(
            f"Expected a tuple of {members} tensors, got {type(observations).__name__!r}{length}."
        )


def _common(batches: list[Shape]) -> Shape:
    if any(each != batches[0] for each in batches):
        raise IncompatibleSpace(f"The parts of one observation batch differ in length: {batches}.")
    return batches[0]


def _wrong_shape(observations: Tensor, shape: Shape, wanted: str) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"Observations have shape {tuple(observations.shape)}; expected {wanted}, obs = {shape}.",
        fix="The policy was built for this observation space: build it for the env that it meets.",
    )
