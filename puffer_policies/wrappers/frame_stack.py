"""The last observations side by side: the baseline that a memory has to beat.

Mnih et al. 2015, https://doi.org/10.1038/nature14236, stack frames in the env. Here they are part
of the policy's state, so that any env can be played, and their number is saved with the policy.
Frames before an episode's first observation are zero.
A package with a space of its own registers with ``make_frames.register`` how it is stacked.

`B` batch, `T` time, `N` = B or B*T, `K` frames, `S` a leaf's own shape.
"""

from __future__ import annotations

import math
from functools import partial, singledispatch
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.contract import State
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.encoders import require_count
from puffer_policies.nn.observations import (
    batch_layout,
    leaf_spaces,
    space_of_leaves,
    to_tensor,
)
from puffer_policies.nn.trace import zeroed
from puffer_policies.spaces import (
    Image,
    Spaces,
    action_layout,
    at_part,
    described,
    image_layout,
    spaces_of,
)
from puffer_policies.spaces.nested import leaves, map_nested, names_of
from puffer_policies.wrappers.base import PolicyWrapper, episode_starts

KEY = "frames"

MAX_FRAMES = 1_000
"""Frames of a stack; more come from a slip or a stranger's recipe."""
MAX_STACKED = 2**24
"""Numbers of a stack, which bounds are written for."""


class FrameStackWrapper(PolicyWrapper):
    """A policy without memory that sees the last observations together.

    Images are stacked along their channels, other Boxes flattened and put side by side, the newest
    last; choices become a MultiDiscrete of K choices with one more option, 0, for a frame before
    the episode. Each leaf of a Dict or Tuple is stacked by itself. State: the (B, K - 1, *S)
    observations before this one, as ``frames``, or as ``frames.KEY`` for each leaf.

    Args:
        env: the env of the whole stack.
        policy: built for the spaces that `wrapped_spaces` returns.
        frames: K, the number of observations, including the current one.

    Raises:
        IncompatibleSpace: observations that can't be stacked.
        BuildError: fewer than one frame, or a policy with a memory.
    """

    def __init__(self, env: Any, policy: nn.Module, *, frames: int = 4) -> None:
        super().__init__(env, policy)
        if hasattr(policy, "initial_state"):
            raise BuildError(
                f"{type(policy).__name__!r} has a memory already; 'FrameStackWrapper' is one.",
                fix="Use one of them.",
            )
        space = spaces_of(env).observation
        self.frames = require_count("frames", frames)
        self._leaves = frames_of(space, frames)
        self.frame_stacks = nn.ModuleList(leaves(self._leaves))  # so that devices reach them
        names = iter(names_of(self._leaves, KEY))
        self._keys = map_nested(lambda _: next(names), self._leaves)
        self._rows = batch_layout(space)

    @staticmethod
    def wrapped_spaces(spaces: Spaces, *, frames: int = 4) -> Spaces:
        """Return the spaces that the wrapped policy is built for: K frames of each leaf."""
        require_count("frames", frames, most=MAX_FRAMES)
        return Spaces(stacked_space(spaces.observation, frames), spaces.action)

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return the frames before the first observation: zeros."""
        device = next(self.parameters()).device if device is None else device
        return {
            key: leaf.none(batch_size, self.frames - 1, device=device)
            for key, leaf in zip(leaves(self._keys), leaves(self._leaves), strict=True)
        }

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """(B, *S) or (B, T, *S) each -> the same batch axes with K frames stacked."""
        rows, batch = self._rows.flatten(observations)
        device = next(leaves(rows)).device
        state = {} if state is None else state
        starts = episode_starts(state, batch, device)
        time = (*batch, 1)[:2]
        stale = None if starts is None else _stale(starts.reshape(time), self.frames)

        def stacked(leaf: Frames, key: str, observed: Tensor) -> Tensor:
            past: Tensor | None = state.get(key)
            if past is None:
                past = leaf.none(batch[0], self.frames - 1, device=device)
            frame = leaf.frame(observed.reshape(*time, *leaf.shape))
            windows = _windows(past.to(frame.dtype), frame)
            if stale is not None:
                windows = _emptied(windows, stale)
            if self.frames > 1:
                last = [each[:, -1] for each in windows[1:]]
                state[key] = torch.stack(last, 1).to(leaf.dtype).detach()  # (B, K - 1, *S)
            return leaf.together(windows).reshape(*batch, *leaf.space.shape)  # type: ignore[misc]

        return map_nested(stacked, self._leaves, self._keys, rows)

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """(B, *S) or (B, T, *S) -> logits of N rows, values (B, T): the form of a memory."""
        logits, values = super().forward(observations, state)
        return logits, values.reshape(next(leaves(observations)).shape[0], -1)

    def update_statistics(self, observations: Any) -> None:
        """Update the policy inside with stacks of one frame repeated, as rows have no past here."""
        update = getattr(self.policy, "update_statistics", None)
        if update is not None:
            update(map_nested(self._repeated, self._leaves, observations))

    def _repeated(self, leaf: Frames, observed: Tensor) -> Tensor:
        """(N, *S) -> (N, *stacked): one observation as every frame."""
        return leaf.together([leaf.frame(observed.unsqueeze(1))] * self.frames).squeeze(1)


def _windows(past: Tensor, frames: Tensor) -> list[Tensor]:
    """(B, K - 1, *S), (B, T, *S) -> K times (B, T, *S): the frames K - 1 steps ago, up to now."""
    line = torch.cat([past, frames], 1)  # (B, K - 1 + T, *S)
    return [line[:, k : k + frames.shape[1]] for k in range(past.shape[1] + 1)]


def _stale(starts: Tensor, frames: int) -> list[Tensor]:
    """(B, T) -> K times (B, T): whether a frame is of an earlier episode than its step."""
    batch, time = starts.shape
    episode = starts.cumsum(1)  # (B, T): episodes begun in this sequence
    line = torch.cat([episode.new_zeros(batch, frames - 1), episode], 1)
    return [line[:, k : k + time] != episode for k in range(frames)]


def _emptied(windows: list[Tensor], stale: list[Tensor]) -> list[Tensor]:
    """Zero the frames of earlier episodes."""
    return [
        zeroed(window, where.reshape(*where.shape, *[1] * (window.ndim - 2)))
        for window, where in zip(windows, stale, strict=True)
    ]


Space = gymnasium.Space[Any]


class Frames(nn.Module):
    """The form in which observations of one leaf are stored and stacked; zeros mean no frame.

    Args:
        shape: S.
        dtype: of the frames in the state.
        space: the space of K frames together.
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
            size = math.prod(self.shape)
            return torch.cat([each.reshape(*each.shape[:2], size) for each in frames], -1)
        return torch.cat(frames, 2 + self.axis)


def frames_of(space: Space, count: int) -> Any:
    """Return the `Frames` of each leaf of a space, in dicts and tuples as its observations are.

    Raises:
        IncompatibleSpace: a leaf of which frames can't be stacked.
    """
    tree = leaf_spaces(space)
    names = iter(names_of(tree))

    def frames(leaf: Space) -> Frames:
        with at_part(next(names)):
            return make_frames(leaf, count)

    return map_nested(frames, tree)


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
        "the space with puffer_policies.wrappers.frame_stack.make_frames.register.",
    )


@make_frames.register
def _(leaf: gym_spaces.Box, count: int) -> Frames:
    if (size := count * leaf.low.size) > MAX_STACKED:
        raise IncompatibleSpace(
            f"A stack of {count:,} frames of {described(leaf)} has {size:,} numbers, and at most "
            f"{MAX_STACKED:,} are stacked.",
            fix="Stack fewer frames, or use a memory.",
        )
    layout = image_layout(leaf)
    axis = {"HWC": 2, "CHW": 0}.get(layout)
    low, high = (_side_by_side([each] * count, axis) for each in (leaf.low, leaf.high))
    box = partial(Image, layout=layout) if layout else gym_spaces.Box
    stacked = box(low, high, dtype=leaf.dtype.type)
    # Frames of the state have the dtype in which policies see observations.
    return Frames(leaf.shape, to_tensor(np.zeros(0, leaf.dtype)).dtype, stacked, axis=axis)


@make_frames.register(gym_spaces.Discrete)
@make_frames.register(gym_spaces.MultiDiscrete)
def _(leaf: Any, count: int) -> Frames:
    layout = action_layout(leaf)
    stacked = gym_spaces.MultiDiscrete([options + 1 for options in layout.nvec] * count)
    first = torch.from_numpy(np.array(layout.start))
    return Frames(layout.shape, torch.int64, stacked, first=first)


@make_frames.register
def _(leaf: gym_spaces.MultiBinary, count: int) -> Frames:
    size = int(np.prod(leaf.shape))
    return Frames(leaf.shape, torch.int8, gym_spaces.MultiBinary(count * size))


def _side_by_side(frames: list[np.ndarray], axis: int | None) -> np.ndarray:
    if axis is None:
        return np.concatenate([each.reshape(-1) for each in frames])
    return np.concatenate(frames, axis)
