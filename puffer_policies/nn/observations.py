"""Observations as trees of tensors: their batch axes, their keys, and the leaves of their spaces.

A leaf is a space whose observations are one tensor; Dict and Tuple spaces are trees of leaves. An
empty leaf or tree holds no numbers and adds nothing to the rest; nothing else is refused for it. A
layout is made once from a space and then only compares shapes, so that a policy's forward pass
compiles without a graph break. A package with a space of its own registers it with
``batch_layout.register``, ``leaf_spaces.register`` and ``holds_reals.register``.

`B` batch, `T` time, `N` = B or B*T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from puffer_policies.errors import IncompatibleSpace, did_you_mean
from puffer_policies.spaces import described, image_layout, sorted_keys
from puffer_policies.spaces.nested import leaves, map_nested

Shape = tuple[int, ...]

# torch adds, compares and fills no wider unsigned integers.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_NUMPY_SIGNED = {"u2": "i4", "u4": "i8", "u8": "i8"}
_LARGEST = 2**63 - 1


def to_tensor(array: Any) -> Tensor:
    """Return a leaf, of NumPy or a tensor, as a tensor of the dtype that policies see.

    float64 and wider become float32, unsigned integers of 16 bits and more become signed and wider.
    Else the tensor shares the memory of the array where torch can do so. A tensor stays on its
    device.

    Raises:
        IncompatibleSpace: the array holds no numbers.
    """
    if isinstance(array, Tensor):
        return array.float() if array.dtype is torch.float64 else signed(array)
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise IncompatibleSpace(
            f"An observation is an array of {array.dtype}, which no policy reads.",
            fix="Observe bools, integers or real numbers.",
        )
    kind = array.dtype.str[1:]
    dtype = np.dtype(_NUMPY_SIGNED.get(kind, kind if array.dtype.itemsize <= 8 else "f8"))
    array = array.astype(dtype, copy=False)  # in the byte order of this machine, as torch wants it
    # torch.from_numpy refuses negative strides, and warns of memory that must not be written.
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.float() if tensor.dtype is torch.float64 else tensor


def signed(observations: Tensor) -> Tensor:
    """Return unsigned integers of 16 bits and more as signed ones; others as they are."""
    dtype = _SIGNED.get(observations.dtype)
    return observations if dtype is None else observations.to(dtype)


class BatchLayout(Protocol):
    """The batch axes of the observations of one space."""

    def flatten(self, observations: Any) -> tuple[Any, Shape]:
        """Merge batch and time: (B, *obs) or (B, T, *obs) -> (N, *obs), with (B,) or (B, T).

        Row b at time t becomes row b*T + t. The batch axes of a tree without leaves are ().

        Raises:
            IncompatibleSpace: another shape than the space's, or unequal axes in front of it.
        """
        ...


class TensorLayout:
    """The layout of a space whose observations are one tensor."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def flatten(self, observations: Tensor) -> tuple[Tensor, Shape]:
        """Return the tensor with one axis in front, `signed`, and the axes that it had there."""
        require_tensor(observations)
        axes = observations.ndim - len(self.shape)
        if axes not in (1, 2) or observations.shape[axes:] != self.shape:
            raise _wrong_shape(observations, self.shape, "(B, *obs) or (B, T, *obs)")
        batch = tuple(observations.shape[:axes])
        observations = signed(observations)
        if axes == 1:
            return observations, batch
        return observations.reshape(math.prod(batch), *self.shape), batch  # (N, *obs)


class DictLayout:
    """The layout of a Dict space, with a layout for each key."""

    def __init__(self, space: gym_spaces.Dict) -> None:
        self.keys = sorted_keys(space)
        self.parts = {key: batch_layout(space.spaces[key]) for key in self.keys}

    def flatten(self, observations: Mapping[Any, Any]) -> tuple[dict[Any, Any], Shape]:
        """Flatten every value, with the keys sorted."""
        require_keys(observations, self.keys)
        pairs = [self.parts[key].flatten(observations[key]) for key in self.keys]
        rows = {key: leaf for key, (leaf, _) in zip(self.keys, pairs, strict=True)}
        return rows, _common([batch for _, batch in pairs])


class TupleLayout:
    """The layout of a Tuple space, with a layout for each member."""

    def __init__(self, space: gym_spaces.Tuple[Any]) -> None:
        self.parts = tuple(batch_layout(member) for member in space.spaces)

    def flatten(self, observations: tuple[Any, ...]) -> tuple[tuple[Any, ...], Shape]:
        """Flatten every member."""
        require_members(observations, len(self.parts))
        members = zip(self.parts, observations, strict=True)
        pairs = [part.flatten(member) for part, member in members]
        return tuple(leaf for leaf, _ in pairs), _common([batch for _, batch in pairs])


@singledispatch
def batch_layout(space: Any) -> BatchLayout:
    """Return the layout of a space's observations."""
    return TensorLayout(tuple(space.shape))


batch_layout.register(gym_spaces.Dict, DictLayout)
batch_layout.register(gym_spaces.Tuple, TupleLayout)


def merge_time(*inputs: Any) -> tuple[Any, ...]:
    """Return trees of tensors (B, T, ...) as (B*T, ...), row b*T + t; None stays None.

    This is what ``forward`` gets of a sequence if the policy has no memory: those written for
    PufferLib take nothing else.
    """
    return tuple(
        None if each is None else map_nested(lambda leaf: leaf.flatten(0, 1), each)
        for each in inputs
    )


def require_shape(observations: Tensor, shape: Shape) -> Tensor:
    """Return a tensor (N, *shape), `signed`, or raise an error for anything else."""
    require_tensor(observations)
    if observations.shape[1:] != shape or not observations.ndim:
        raise _wrong_shape(observations, shape, "(N, *obs)")
    return signed(observations)


def require_tensor(value: Any, name: str = "Observations") -> None:
    """Raise an error for an array of NumPy, as envs return it, and anything else but a tensor."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise IncompatibleSpace(
            f"{name} should be a torch.Tensor, not {kind}.",
            fix="torch.as_tensor(array) makes one. An Agent takes what an env returns.",
        )


def require_keys(observations: Any, keys: tuple[Any, ...]) -> None:
    """Raise an error for a dict observation that lacks a key or has one too many."""
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
    """Raise an error for a tuple observation of another length."""
    if not isinstance(observations, tuple | list) or len(observations) != members:
        length = f" of length {len(observations)}" if hasattr(observations, "__len__") else ""
        raise IncompatibleSpace(
            f"Expected a tuple of {members} tensors, got {type(observations).__name__!r}{length}."
        )


def _common(batches: list[Shape]) -> Shape:
    batches = [each for each in batches if each]
    if not batches:
        return ()
    if any(each != batches[0] for each in batches):
        raise IncompatibleSpace(f"The parts of one observation batch differ in length: {batches}.")
    return batches[0]


def _wrong_shape(observations: Tensor, shape: Shape, form: str) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"Observations have shape {tuple(observations.shape)}; expected {form}, obs = {shape}.",
        fix="The policy was built for this observation space: build it for the env that it meets.",
    )


Space = gymnasium.Space[Any]


@singledispatch
def leaf_spaces(space: Any) -> Any:
    """Return the leaves of a space, nested as its observations are, with the keys sorted."""
    return space


@leaf_spaces.register
def _(space: gym_spaces.Dict) -> dict[Any, Any]:
    return {key: leaf_spaces(space.spaces[key]) for key in sorted_keys(space)}


@leaf_spaces.register(gym_spaces.Tuple)
def _(space: gym_spaces.Tuple[Any]) -> tuple[Any, ...]:
    return tuple(leaf_spaces(member) for member in space.spaces)


def space_of_leaves(tree: Any) -> Any:
    """Return the space with these leaves: the inverse of `leaf_spaces`."""
    if isinstance(tree, dict):
        return gym_spaces.Dict({key: space_of_leaves(branch) for key, branch in tree.items()})
    if isinstance(tree, tuple):
        return gym_spaces.Tuple([space_of_leaves(branch) for branch in tree])
    return tree


def is_empty(space: Any) -> bool:
    """Return whether a space holds no numbers: an axis of length 0, a Dict or Tuple of such."""
    return all(0 in (getattr(leaf, "shape", None) or ()) for leaf in leaves(leaf_spaces(space)))


def require_readable(space: Any) -> None:
    """Refuse an observation space in which there is nothing to read, or numbers are too large.

    Raises:
        IncompatibleSpace: it is empty, or has integers that int64 does not hold.
    """
    if is_empty(space):
        raise IncompatibleSpace(
            f"Observation space {described(space)} is empty, so there is nothing to learn from.",
            fix="Observe a constant, such as Box(0, 1, (1,)), where actions alone matter.",
        )
    for leaf in leaves(leaf_spaces(space)):
        if largest_integer(leaf) > _LARGEST:
            raise IncompatibleSpace(
                f"Observation space {described(leaf)} goes beyond 2**63 - 1, torch's largest "
                "integer.",
                fix="Observe floats or smaller integers.",
            )


@singledispatch
def largest_integer(leaf: Any) -> int:
    """Return the largest integer of a leaf; 0 if it has none, or is of another kind."""
    return 0


@largest_integer.register
def _(leaf: gym_spaces.Box) -> int:
    return int(leaf.high.max(initial=0)) if np.issubdtype(leaf.dtype, np.integer) else 0


@largest_integer.register
def _(leaf: gym_spaces.Discrete) -> int:
    return int(leaf.start) + int(leaf.n) - 1


@largest_integer.register
def _(leaf: gym_spaces.MultiDiscrete) -> int:
    starts = np.broadcast_to(getattr(leaf, "start", 0), leaf.shape).reshape(-1)
    pairs = zip(leaf.nvec.reshape(-1), starts, strict=True)
    return max((int(n) + int(start) - 1 for n, start in pairs), default=0)


@singledispatch
def holds_reals(leaf: Any) -> bool:
    """Return whether a leaf holds real numbers: a Box of floats that is no image and not empty."""
    return False


@holds_reals.register
def _(leaf: gym_spaces.Box) -> bool:
    reals = np.issubdtype(leaf.dtype, np.floating) and not is_empty(leaf)
    return reals and not image_layout(leaf)


def with_keys(space: Any, keys: Sequence[Any]) -> Space:
    """Return a Dict space of some of the keys of another.

    Raises:
        IncompatibleSpace: the space is not a Dict, or lacks a key.
    """
    members = members_of(space, *keys)
    unknown = [key for key in keys if key not in members]
    if unknown:
        hint = did_you_mean(str(unknown[0]), map(str, members))
        raise IncompatibleSpace(
            f"The observation space has the keys {list(members)}: there is no "
            f"{' and no '.join(map(repr, unknown))}.",
            fix=hint or "Name keys of the observation that the env returns.",
        )
    return gym_spaces.Dict({key: members[key] for key in keys})


def without_key(space: Any, key: str) -> Space:
    """Return a Dict space without one of its keys.

    Raises:
        IncompatibleSpace: the space is not a Dict, lacks the key, or has no other.
    """
    members = members_of(space, key)
    rest = {name: member for name, member in members.items() if name != key}
    if key not in members or not rest:
        problem = f"there is no {key!r}" if key not in members else f"none beside {key!r}"
        raise IncompatibleSpace(
            f"The observation space has the keys {list(members)}: {problem}.",
            fix="Name the key that holds the action mask, beside others that the policy sees.",
        )
    return gym_spaces.Dict(rest)


@singledispatch
def members_of(space: Any, *keys: Any) -> Mapping[Any, Space]:
    """Return the spaces in a Dict by their keys.

    Raises:
        IncompatibleSpace: the space is not a Dict, and so has none of `keys`.
    """
    raise IncompatibleSpace(
        f"The observation space {described(space)} is not a Dict, so it has no key "
        f"{' and no '.join(map(repr, keys))}.",
        fix="Leave the key out.",
    )


@members_of.register
def _(space: gym_spaces.Dict, *keys: Any) -> Mapping[Any, Space]:
    return space.spaces
