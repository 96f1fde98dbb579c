"""The last observations side by side: the baseline that a memory has to beat.

Mnih et al. 2015, https://doi.org/10.1038/nature14236, stack frames in the env; here they are part
of the policy's state, so that any env can be played and a checkpoint brings its frames along. What
lies before an episode's first observation is zero.

`B` batch, `T` time, `N` = B or B*T, `K` frames, `S` a leaf's own shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.contract import State
from puffer_policies.errors import BuildError
from puffer_policies.nested import leaves, map_nested, names_of
from puffer_policies.nn.batching import batch_layout
from puffer_policies.nn.frames import Frames, frames_of, stacked_space
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.wrappers.base import PolicyWrapper, episode_starts

KEY = "frames"


class FrameStackWrapper(PolicyWrapper):
    """A policy without memory that sees the last observations together.

    Images are stacked along their channels, other Boxes flattened and put side by side, the newest
    last; choices become a MultiDiscrete of K choices with one more option, 0, for what lies before
    the episode. Each leaf of a Dict or Tuple is stacked by itself. State: the (B, K - 1, *S)
    observations before this one, as ``frames``, or as ``frames.KEY`` for each leaf.

    Args:
        env: what the whole is built for.
        policy: built for the spaces that `wrapped_spaces` gives.
        frames: how many observations are seen, this one among them.

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
        self.frames = frames
        self._leaves = frames_of(space, frames)
        self.frame_stacks = nn.ModuleList(leaves(self._leaves))  # so that devices reach them
        names = iter(names_of(self._leaves, KEY))
        self._keys = map_nested(lambda _: next(names), self._leaves)
        self._rows = batch_layout(space)

    @staticmethod
    def wrapped_spaces(spaces: Spaces, *, frames: int = 4) -> Spaces:
        """Return the spaces that the wrapped policy is built for: K frames of each leaf."""
        if frames < 1:
            raise BuildError(f"frames={frames}; a policy sees at least one observation.")
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
        ended = None if starts is None else _ended(starts.reshape(time), self.frames)

        def stacked(leaf: Frames, key: str, seen: Tensor) -> Tensor:
            past: Tensor | None = state.get(key)
            if past is None:
                past = leaf.none(batch[0], self.frames - 1, device=device)
            frame = leaf.frame(seen.reshape(*time, *leaf.shape))
            windows = _windows(past.to(frame.dtype), frame)
            if ended is not None:
                windows = _emptied(windows, ended)
            if self.frames > 1:
                last = [each[:, -1] for each in windows[1:]]
                state[key] = torch.stack(last, 1).to(leaf.dtype).detach()  # (B, K - 1, *S)
            return leaf.together(windows).reshape(*batch, *leaf.space.shape)  # type: ignore[misc]

        return map_nested(stacked, self._leaves, self._keys, rows)

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """(B, *S) or (B, T, *S) -> logits of N rows, values (B, T): the form of a memory."""
        logits, values = super().forward(observations, state)
        return logits, values.reshape(len(next(leaves(observations))), -1)

    def update_statistics(self, observations: Any) -> None:
        """Show the policy inside stacks of one frame: what came before each is not known here."""
        update = getattr(self.policy, "update_statistics", None)
        if update is not None:
            update(map_nested(self._repeated, self._leaves, observations))

    def _repeated(self, leaf: Frames, seen: Tensor) -> Tensor:
        """(N, *S) -> (N, *stacked): one observation as every frame."""
        return leaf.together([leaf.frame(seen.unsqueeze(1))] * self.frames).squeeze(1)


def _windows(past: Tensor, seen: Tensor) -> list[Tensor]:
    """(B, K - 1, *S), (B, T, *S) -> K times (B, T, *S): what was seen K - 1 steps ago, to now."""
    line = torch.cat([past, seen], 1)  # (B, K - 1 + T, *S)
    return [line[:, k : k + seen.shape[1]] for k in range(past.shape[1] + 1)]


def _ended(starts: Tensor, frames: int) -> list[Tensor]:
    """(B, T) -> K times (B, T): whether each frame is from before the last start up to now."""
    batch, time = starts.shape
    episode = starts.cumsum(1)  # (B, T): episodes begun in this sequence
    line = torch.cat([episode.new_zeros(batch, frames - 1), episode], 1)
    return [line[:, k : k + time] != episode for k in range(frames)]


def _emptied(windows: list[Tensor], ended: list[Tensor]) -> list[Tensor]:
    """Zero the frames of what has ended."""
    return [
        window.masked_fill(gone.reshape(*gone.shape, *[1] * (window.ndim - 2)), 0)
        for window, gone in zip(windows, ended, strict=True)
    ]
