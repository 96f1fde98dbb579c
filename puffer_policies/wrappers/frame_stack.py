"""The last observations side by side: the baseline that a memory has to beat.

Mnih et al. 2015, https://doi.org/10.1038/nature14236, stack frames in the env; here they are part
of the policy's state, so that any env can be played and a checkpoint brings its frames along. What
lies before an episode's first observation is zero.

`B` batch, `T` time, `N` = B or B*T, `K` frames, `S` the space's own shape.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START, State
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.spaces import Spaces, described, image_layout, observation_kind, spaces_of
from puffer_policies.wrappers.base import PolicyWrapper

KEY = "frames"


class FrameStackWrapper(PolicyWrapper):
    """A policy without memory that sees the last observations together.

    Images are stacked along their channels, everything else is flattened and put side by side, the
    newest last. State: ``frames``, the (B, K - 1, *S) observations before this one.

    Args:
        env: what the whole is built for.
        policy: built for the spaces that `wrapped_spaces` gives.
        frames: how many observations are seen, this one among them.

    Raises:
        IncompatibleSpace: observations that are no Box.
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
        self.frames = frames
        self.axis = _axis(space)
        self.shape: tuple[int, ...] = tuple(space.shape or ())
        self.dtype = torch.from_numpy(np.zeros(0, dtype=space.dtype)).dtype
        if self.dtype is torch.float64:
            self.dtype = torch.float32  # what policies are given, as trainers cast it

    @staticmethod
    def wrapped_spaces(spaces: Spaces, *, frames: int = 4) -> Spaces:
        """Return the spaces that the wrapped policy is built for: a Box of K frames."""
        if frames < 1:
            raise BuildError(f"frames={frames}; a policy sees at least one observation.")
        axis = _axis(spaces.observation)
        space: Any = spaces.observation
        low, high = (_side_by_side([each] * frames, axis) for each in (space.low, space.high))
        stacked = gym_spaces.Box(low, high, dtype=space.dtype.type)
        if axis is not None and observation_kind(stacked) != "image":
            raise IncompatibleSpace(
                f"{frames} frames of {described(space)} have shape {stacked.shape}: more channels "
                "than pixels in a row, which nobody takes for an image.",
                fix="Stack fewer frames, or use a memory, such as GRUWrapper.",
            )
        return Spaces(stacked, spaces.action)

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return the frames before the first observation: zeros."""
        device = next(self.parameters()).device if device is None else device
        shape = (batch_size, self.frames - 1, *self.shape)
        return {KEY: torch.zeros(shape, dtype=self.dtype, device=device)}

    def transform_observations(self, observations: Tensor, state: State | None) -> Tensor:
        """(B, *S) or (B, T, *S) -> the same batch axes with K frames stacked."""
        single = observations.ndim == 1 + len(self.shape)
        seen = observations.unsqueeze(1) if single else observations  # (B, T, *S)
        past = self._past(seen, state)
        line = torch.cat([past.to(seen.dtype), seen], 1)  # (B, K - 1 + T, *S)
        windows = [line[:, k : k + seen.shape[1]] for k in range(self.frames)]  # K of (B, T, *S)
        starts = state.get(EPISODE_START) if state else None
        if starts is not None:
            windows = _without_the_past(windows, starts.reshape(seen.shape[:2]))
        if state is not None and self.frames > 1:
            last = [each[:, -1] for each in windows[1:]]
            state[KEY] = torch.stack(last, 1).to(self.dtype).detach()  # (B, K - 1, *S)
        stacked = self._stack(windows)
        return stacked.squeeze(1) if single else stacked

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """(B, *S) or (B, T, *S) -> logits of N rows, values (B, T): the form of a memory."""
        logits, values = super().forward(observations, state)
        return logits, values.reshape(len(observations), -1)

    def update_statistics(self, observations: Tensor) -> None:
        """Show the policy inside stacks of one frame: what came before each is not known here."""
        update = getattr(self.policy, "update_statistics", None)
        if update is not None:
            update(self._stack([observations.unsqueeze(1)] * self.frames).squeeze(1))

    def _past(self, seen: Tensor, state: State | None) -> Tensor:
        past: Tensor | None = state.get(KEY) if state else None
        if past is not None:
            return past
        return self.initial_state(len(seen), seen.device)[KEY]

    def _stack(self, windows: list[Tensor]) -> Tensor:
        """K times (B, T, *S) -> (B, T, *stacked)."""
        if self.axis is None:
            return torch.cat([each.flatten(2) for each in windows], -1)
        return torch.cat(windows, 2 + self.axis)


def _without_the_past(windows: list[Tensor], starts: Tensor) -> list[Tensor]:
    """Zero, in each window, the frames from before the last start up to now."""
    frames, (batch, time) = len(windows), starts.shape
    episode = starts.cumsum(1)  # (B, T): episodes begun in this sequence
    line = torch.cat([episode.new_zeros(batch, frames - 1), episode], 1)
    ended = [line[:, k : k + time] != episode for k in range(frames)]
    return [
        window.masked_fill(gone.reshape(batch, time, *[1] * (window.ndim - 2)), 0)
        for window, gone in zip(windows, ended, strict=True)
    ]


def _axis(space: gymnasium.Space[Any]) -> int | None:
    """Return the axis of `space` along which frames are stacked; None: they are flattened."""
    kind = observation_kind(space)
    if kind not in ("image", "vector", "array"):
        raise IncompatibleSpace(
            f"'FrameStackWrapper' does not fit the observation space {described(space)}: frames of "
            f"{kind} have no common form.",
            fix="Use a memory, such as GRUWrapper, which reads what the policy encodes.",
        )
    if kind != "image":
        return None
    return 2 if image_layout(space) == "HWC" else 0  # type: ignore[arg-type]


def _side_by_side(frames: list[np.ndarray], axis: int | None) -> np.ndarray:
    if axis is None:
        return np.concatenate([each.reshape(-1) for each in frames])
    return np.concatenate(frames, axis)
