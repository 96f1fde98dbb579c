"""Associative memories: decayed sums of outer products of keys and values, read by queries.

``S = a S + k v^T``, output ``q S``. A sequence is processed in chunks. In a chunk, each step reads
the earlier ones of its episode by a masked product, and all that lies before the chunk by one
product with the memory, as in the chunked forms of Sun et al. 2023,
https://arxiv.org/abs/2307.08621, and of Dao and Gu 2024, https://arxiv.org/abs/2405.21060. Nothing
from before an episode's start is summed, by masks. A single step is a chunk of length one.

`B` batch, `A` heads, `T` time, `D` size of a key, `E` size of a value. An axis that is the same for
all rows or heads may have length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from puffer_policies.nn.trace import is_exporting

CHUNK = 32
"""Steps that are read at once; the work of a sequence grows as T * (CHUNK + D)."""


class Shares(NamedTuple):
    """What is left, at each step of a chunk, of what was written before."""

    within: Tensor
    """(B, A, T, T): of each step at itself and at later ones; 0 in other episodes."""
    since: Tensor
    """(B, A, T, 1): of the memory before the chunk; 0 where an episode has started since."""


def by_chunks(
    read: Callable[..., tuple[Tensor, Any]],
    parts: Sequence[Tensor],
    carried: Any,
    starts: Tensor | None,
) -> tuple[Tensor, Any]:
    """Read a sequence chunk by chunk.

    Args:
        read: takes the parts, `carried` and `episode`, all of one chunk, and returns its output
            (B, A, T, E) with what is carried on. `episode` (B, T) counts the episodes that started
            in the chunk up to each step.
        parts: (B, A, T, ...) each.
        carried: into the first chunk.
        starts: bool (T, B), true where an episode starts.

    Returns:
        (B, A, T, E) and what the last chunk carries on.
    """
    if starts is None:
        batch, _, time = parts[0].shape[:3]
        starts = torch.zeros(time, batch, dtype=torch.bool, device=parts[0].device)
    chunks = [torch.split(each, CHUNK, 2) for each in parts]
    outputs = []
    # Autocast would round sums over an episode. An export has none, nor can it record a context.
    device = parts[0].device.type
    with nullcontext() if is_exporting() else torch.autocast(device, enabled=False):
        for *chunk, start in zip(*chunks, torch.split(starts.t(), CHUNK, 1), strict=True):
            output, carried = read(*chunk, carried=carried, episode=start.cumsum(1))
            outputs.append(output)
    return torch.cat(outputs, 2), carried


def shares_of(decay: Tensor | None, episode: Tensor, dtype: torch.dtype) -> Shares:
    """Return the shares in a chunk.

    Args:
        decay: (B, A, T), the logarithm of what each step leaves of earlier ones, at most 0; None if
            all of it is left.
        episode: as in `by_chunks`.
        dtype: of the shares.
    """
    same, fresh = _same(episode), _fresh(episode)
    if decay is None:
        return Shares(same.to(dtype), (~fresh).to(dtype).unsqueeze(-1))
    total = total_of(decay)
    within = _apart(total).to(dtype).masked_fill(~same, -torch.inf).exp()
    return Shares(within, total.to(dtype).masked_fill(fresh, -torch.inf).exp().unsqueeze(-1))


def gated_shares_of(
    decay: Tensor, gain: Tensor, scale: Tensor, episode: Tensor
) -> tuple[Shares, Tensor]:
    """Return the shares in a chunk whose steps are written with exponential gains.

    Args:
        decay: as in `shares_of`.
        gain: (B, A, T), the logarithm of the gain of each step, of any size.
        scale: (B, A), the logarithm by which the memory is divided; 0 for an empty one.
        episode: as in `by_chunks`.

    Returns:
        The shares, times the gains and divided by the exponential of new scales (B, A, T), so that
        none of them is above 1. The scales have no gradient: whoever reads divides by them, and
        multiplies by them again.
    """
    same, fresh = _same(episode), _fresh(episode)
    total = total_of(decay)
    held = total + scale.unsqueeze(-1)
    apart = (_apart(total) + gain.unsqueeze(-2)).masked_fill(~same, -torch.inf)
    with torch.no_grad():
        # An episode that has begun in the chunk began with an empty memory, of scale 0.
        begun = total - _before_episode(total, decay, episode)
        scales = torch.maximum(torch.where(fresh, begun, held), apart.amax(-1))
        scales = scales.to(gain.dtype)  # before it is subtracted: what divides is what is stored
    within = (apart - scales.unsqueeze(-1)).to(gain.dtype).exp()
    since = (held - scales).to(gain.dtype).masked_fill(fresh, -torch.inf).exp()
    return Shares(within, since.unsqueeze(-1)), scales


def total_of(decay: Tensor) -> Tensor:
    """(B, A, T) -> the running sums of a chunk, in float64.

    Shares are exponentials of differences of sums. In float32, a step that forgets everything would
    leave no digits to those after it.
    """
    return decay.double().cumsum(-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, memory: Tensor, shares: Shares
) -> tuple[Tensor, Tensor]:
    """Read a chunk and the memory before it, and write the chunk into the memory.

    Args:
        query: (B, A, T, D).
        key: the same.
        value: (B, A, T, E).
        memory: (B, A, D, E).
        shares: of the chunk.

    Returns:
        (B, A, T, E) and the memory after the chunk.
    """
    within, since = shares
    if query.shape[2] == 1:  # a single step may read what it has written: a fifth less time
        memory = torch.addcmul(memory * since, (key * within).mT, value)
        return query @ memory, memory
    output = (query @ key.mT * within) @ value + (query * since) @ memory
    left = key * within[..., -1, :].unsqueeze(-1)
    return output, memory * since[..., -1:, :] + left.mT @ value


def delta_values(
    key: Tensor, value: Tensor, rate: Tensor, *, memory: Tensor, shares: Shares
) -> Tensor:
    """Return what a chunk writes by the delta rule, ``u = b (v - k a S)``, so that it may `attend`.

    Each step writes the part of its value that its key does not recall yet. What earlier steps of
    the chunk write is unknown, too, but the system of equations is triangular: the WY
    representation of Yang et al. 2024, https://arxiv.org/abs/2406.06484, solved for the values.

    Args:
        key: (B, A, T, D) of length 1.
        value: (B, A, T, E).
        rate: (B, A, T, 1), b, between 0 and 1.
        memory: (B, A, D, E).
        shares: of the chunk.

    Returns:
        (B, A, T, E)
    """
    unknown = rate * (value - (key * shares.since) @ memory)
    if key.shape[2] == 1:  # also while a step is exported, as onnxruntime solves no equations
        return unknown
    system = rate * (key @ key.mT * shares.within).tril(-1)
    written: Tensor = torch.linalg.solve_triangular(
        system, unknown, upper=False, unitriangular=True
    )
    return written


def _same(episode: Tensor) -> Tensor:
    """(B, T) -> bool (B, 1, T, T): whether a step (-1) may be read by another (-2)."""
    return (episode.unsqueeze(-1) == episode.unsqueeze(-2)).tril().unsqueeze(1)


def _fresh(episode: Tensor) -> Tensor:
    """(B, T) -> bool (B, 1, T): whether an episode has started in the chunk."""
    return (episode > 0).unsqueeze(1)


def _apart(total: Tensor) -> Tensor:
    """(B, A, T) -> (B, A, T, T): the decay from a step (-1) to another (-2)."""
    return total.unsqueeze(-1) - total.unsqueeze(-2)


def _before_episode(total: Tensor, decay: Tensor, episode: Tensor) -> Tensor:
    """(B, A, T) -> the sums before the episode of each step; 0 if it began before the chunk."""
    starts = functional.pad(episode, (1, 0)).diff(dim=-1) > 0  # (B, T)
    before = torch.where(starts.unsqueeze(1), total - decay, 0.0)
    # Sums only fall, so the last start's is the smallest.
    return before.cummin(-1).values if before.shape[-1] > 1 else before
