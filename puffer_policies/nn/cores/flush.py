"""Resets inside a fused recurrent kernel, by a step before each start that empties the state.

Fused kernels know nothing of episodes. But a gate that is driven to its limit is exactly 0 or 1 in
floating point, so a step whose inputs we choose can empty the state exactly, and its gradient is
exactly zero. Where an env shows each final observation in a step of its own, whose action it
ignores, nobody reads what the memory makes of that step, and it becomes the flush step. Elsewhere
one flush step is inserted before every episode start within the sequence; a row with
fewer starts than another is padded behind its last step. A sequence of T steps then takes T + K,
where K is the largest number of starts in a row. With 5 % starts and T = 64 that is one seventh
more, where cutting the sequence at every start takes 1.3 to 1.9 times the time of the kernel alone
(benchmarks/peers/memory.py, and the table in docs/memory.md).

`B` batch, `T` time, `K` extra steps, `F` flags: a step's flags are inputs beside its features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

LIMIT = 1e4
"""Drives a gate to its limit: sigmoid(-1e4) is 0 and sigmoid(1e4) is 1, in half precision too,
whose largest number is 65504. What weights and inputs add to a gate is far smaller."""


@dataclass(frozen=True, slots=True)
class Flush:
    """The places of the steps of a sequence among flush steps."""

    places: Tensor
    """(B*T,) int64: the flat place of each step among B * (T + K)."""
    flags: Tensor
    """(B, T + K, F): 1 at flush steps, a flag for each of their parts; the last flag is padding."""

    @property
    def num_flags(self) -> int:
        """F."""
        return self.flags.shape[-1]

    def spread(self, x: Tensor) -> Tensor:
        """(B, T, I) -> (B, T + K, I + F): the steps at their places, and the flags beside them."""
        spread: Tensor = _Spread.apply(x, self.places, self.flags)  # type: ignore[no-untyped-call]
        return spread

    def gather(self, outputs: Tensor, time: int) -> Tensor:
        """(B, T + K, H) -> (B, T, H): the outputs of the steps alone."""
        steps: Tensor = _Gather.apply(outputs, self.places)  # type: ignore[no-untyped-call]
        return steps.reshape(-1, time, outputs.shape[-1])  # (B, T, H)


@dataclass(frozen=True, slots=True)
class Emptied:
    """Steps of a sequence that are flush steps themselves: as `Flush`, with K = 0 and one flag."""

    steps: Tensor
    """(B, T) bool."""
    num_flags: ClassVar[int] = 1

    def spread(self, x: Tensor) -> Tensor:
        """(B, T, I) -> (B, T, I + 1)."""
        flags = self.steps.unsqueeze(-1)
        return torch.cat([x.masked_fill(flags, 0), flags.to(x.dtype)], -1)

    def gather(self, outputs: Tensor, time: int) -> Tensor:
        """Return the outputs (B, T, H) as they are."""
        return outputs


class _Spread(torch.autograd.Function):
    """Copies steps to their places, by one copy in either direction.

    The backward pass of indexing would add into its result, since autograd cannot know that no two
    steps share a place. The table in docs/memory.md is measured
    with these copies: an LSTM takes 1.13 of torch's own time at 0.5 % starts, 1.22 at 5 %.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, flags: Tensor) -> Tensor:
        (batch, length, extra), size = flags.shape, x.shape[-1]
        wide = x.new_zeros(batch * length, size + extra)
        wide[:, :size].index_copy_(0, places, x.flatten(0, 1))
        wide[:, size:] = flags.flatten(0, 1)
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return wide.reshape(batch, length, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        features = grads[0].flatten(0, 1)[:, : ctx.shape[-1]]
        return features.index_select(0, places).reshape(ctx.shape), None, None


class _Gather(torch.autograd.Function):
    """Copies steps back from their places: the inverse of `_Spread`."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = outputs.shape
        return outputs.flatten(0, 1).index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        wide = grads[0].new_zeros(ctx.shape)
        wide.flatten(0, 1).index_copy_(0, places, grads[0])
        return wide, None


def count_starts(episode_start: Tensor) -> int:
    """Return the largest number of starts in a row of (B, T), the first step left out."""
    inside = episode_start[:, 1:].sum(1)
    return int(inside.max()) if inside.numel() else 0  # the one read-back of a sequence


def idle_before(episode_start: Tensor, idle: Tensor) -> Tensor:
    """Return the `idle` steps (B, T) that are just before an episode start."""
    before = torch.zeros_like(idle)
    torch.logical_and(idle[:, :-1], episode_start[:, 1:], out=before[:, :-1])
    return before


def make_flush(episode_start: Tensor, *, most: int, parts: int = 1) -> Flush:
    """Return the flush steps of (B, T) starts, of which a row has `most`, in `parts` steps each."""
    batch, time = episode_start.shape
    length = time + most * parts
    starts = episode_start.clone()
    starts[:, 0] = False
    steps = torch.arange(time, device=starts.device) + parts * starts.cumsum(1)  # (B, T)
    rows = torch.arange(batch, device=starts.device).unsqueeze(1) * length
    places = (steps + rows).flatten()  # (B*T,)
    flags = torch.zeros(batch * length, parts + 1, device=starts.device)
    # Boolean indexing would read the number of starts back to the host. So every step writes, and
    # adds 0 where it is no start; the clamp keeps the steps of a row's beginning inside.
    for part in range(parts):
        before = places - parts + part
        flags[:, part].index_put_((before.clamp(min=0),), starts.flatten().float(), accumulate=True)
    used = time + parts * starts.sum(1, keepdim=True)  # (B, 1)
    flags = flags.reshape(batch, length, parts + 1)
    flags[:, :, -1] = torch.arange(length, device=starts.device) >= used
    return Flush(places, flags)


def widen(weight: Tensor, columns: Tensor) -> Tensor:
    """(G*H, I) input weights and (G*H, F) columns -> (G*H, I + F): how gates answer to flags."""
    return torch.cat([weight, columns], 1)


def in_one_buffer(weights: list[Tensor]) -> list[Tensor]:
    """Return the four weights of a layer as views of one flat tensor, one behind the other.

    This is how cuDNN keeps the weights of one layer: from the beginning of a memory of their own,
    matrices first. Wherever else they are it copies them at every call, and warns.
    """
    sizes = [each.numel() for each in weights]
    pieces = torch.split(torch.cat([each.flatten() for each in weights]), sizes)
    return [piece.view_as(each) for piece, each in zip(pieces, weights, strict=True)]


def driven(gates: tuple[float, ...], like: Tensor) -> Tensor:
    """Return a column (G*H, 1) that drives each of G gates by its number times `LIMIT`."""
    rows = like.shape[0] // len(gates)
    # Not from a tensor of the gates: a GPU would wait for its copy from the host.
    return torch.cat([like.new_full((rows, 1), gate * LIMIT) for gate in gates])
