"""Linear attention: Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236.

``S = S + phi(k) v``, ``z = z + phi(k)``, output ``phi(q) S / phi(q) z``, with phi(x) = elu(x) + 1:
attention over the whole episode with a state of fixed size. A sequence is processed in chunks, in
which attention is a masked product. It differs from the paper in this: one skip stands beside
attention and feed-forward network together, after one layer norm, about as in popgym (Morad et al.
2023, https://arxiv.org/abs/2303.01859); sines of the time since the episode's start are added to
what queries and keys are made of; and nothing from before an episode's start is summed, by masks.
Width 128 has 82,432 weights. With a half-life, what a head has summed fades at a fixed rate, as in
the retention of Sun et al. 2023, https://arxiv.org/abs/2307.08621. Then late steps of a long
episode can distinguish the last few steps from all others.

`T` time, `B` batch, `H` width, `A` heads, `D` = H/A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.base import require_heads
from puffer_policies.nn.encoders import require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.stack import MemoryLayer, StackCore

SUM, NORM, TIME = "attention_sum", "attention_norm", "attention_time"

CHUNK = 64
"""Steps that are attended to at once; the work of a sequence grows as T * (CHUNK + D)."""

EPSILON = 1e-5
"""Added to the norm, as in popgym: a step whose query fits no key does not divide by 0."""


class LinearAttentionLayer(MemoryLayer):
    """Layer norm, linear attention, a network of two layers, and the identity beside them."""

    keep: Tensor | None

    def __init__(self, width: int, num_heads: int, half_life: float | None) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        # A constant of the arguments: a checkpoint need not hold it.
        self.register_buffer("keep", keep_of(half_life, num_heads), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (
            layer_init(nn.Linear(width, width, bias=False), 1.0) for _ in range(3)
        )
        self.network = nn.Sequential(
            layer_init(nn.Linear(width, width)), nn.ReLU(), layer_init(nn.Linear(width, width), 1.0)
        )

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the sums of keys times values and of keys, and the steps of the episode so far."""
        return {SUM: (*self.heads, self.heads[1]), NORM: self.heads, TIME: ()}

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the sums after the last step."""
        if starts is None:
            starts = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        times = times_of(carry[TIME], starts)
        placed = self.norm(x + waves(times, x.shape[-1]).to(x.dtype))
        query, key = (phi(self._split(each(placed))) for each in (self.query, self.key))
        value = self._split(self.value(self.norm(x)))
        parts = [torch.split(each, CHUNK, 2) for each in (query, key, value)]
        outputs, sums = [], (carry[SUM], carry[NORM])
        for q, k, v, start in zip(*parts, torch.split(starts.t(), CHUNK, 1), strict=True):
            fading = None if self.keep is None else fading_of(self.keep, q.shape[2])
            out, sums = attend(q, k, v, carried=sums, episode=start.cumsum(1), fading=fading)
            outputs.append(out)
        mixed = torch.cat(outputs, 2).permute(2, 0, 1, 3).flatten(2)  # (T, B, H)
        return x + self.network(mixed), {SUM: sums[0], NORM: sums[1], TIME: times[-1] + 1}

    def _split(self, x: Tensor) -> Tensor:
        """(T, B, H) -> (B, A, T, D), in the state's dtype also under autocast."""
        split = x.to(self.norm.weight.dtype).reshape(*x.shape[:2], *self.heads)  # (T, B, A, D)
        return split.permute(1, 2, 0, 3)


def times_of(before: Tensor, starts: Tensor) -> Tensor:
    """Return how many steps of its episode lie before each step: (B,), bool (T, B) -> (T, B)."""
    count = torch.arange(len(starts), device=starts.device).unsqueeze(-1)
    last = torch.where(starts, count, -1)
    if len(last) > 1:  # onnxruntime, which runs single steps, has no such operator
        last = last.cummax(0).values  # the start before each step, or -1
    return torch.where(last < 0, before + count, (count - last).to(before.dtype))


def waves(times: Tensor, width: int) -> Tensor:
    """(T, B) -> sines and cosines (T, B, width), of Vaswani et al. 2017, arXiv:1706.03762.

    In float64: the phase of a late step has no digits to spare in float32.
    """
    evens = torch.arange(0, width, 2, device=times.device, dtype=torch.float64)
    angles = times.double().unsqueeze(-1) * 10_000.0 ** (-evens / width)
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :width]


def phi(x: Tensor) -> Tensor:
    """Return elu(x) + 1 without the rounding of the sum: exp(x) below 0, x + 1 above."""
    return torch.exp(x.clamp(max=0)) + torch.relu(x)


class Fading(NamedTuple):
    """The shares of earlier steps that are left, by head."""

    within: Tensor
    """(A, T, T): of each step at each later one of the chunk."""
    since_before: Tensor
    """(A, T, 1): of what was before the chunk, at each step."""
    until_after: Tensor
    """(A, T, 1): of each step, after the chunk."""
    over_all: Tensor
    """(A, 1): of what was before the chunk, after it."""


def keep_of(half_life: float | None, num_heads: int) -> Tensor | None:
    """Return what each head keeps over one step, (A,); None if nothing fades."""
    if half_life is None:
        return None
    lives = half_life ** (torch.arange(1, num_heads + 1) / num_heads)
    return torch.exp2(-1 / lives)


def fading_of(keep: Tensor, steps: int) -> Fading:
    """Return the fading of (A,) over a chunk of T steps."""
    time = torch.arange(steps + 1, device=keep.device)
    shares = keep.unsqueeze(-1) ** time  # (A, T + 1)
    apart = (time[:-1].unsqueeze(-1) - time[:-1]).clamp(min=0)  # (T, T)
    return Fading(
        shares[:, apart], shares[:, 1:, None], shares[:, :-1].flip(-1).unsqueeze(-1), shares[:, -1:]
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    carried: tuple[Tensor, Tensor],
    episode: Tensor,
    fading: Fading | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attend from each step to those of its episode up to it, in the chunk and before.

    Args:
        query: (B, A, T, D), positive.
        key: the same.
        value: (B, A, T, D).
        carried: the sums before the chunk, (B, A, D, D) and (B, A, D).
        episode: (B, T), how many episodes started in the chunk up to each step.
        fading: what is left of earlier steps; all of it if None.

    Returns:
        (B, A, T, D) and the sums after the chunk.
    """
    total, norm = carried
    same = episode.unsqueeze(-1) == episode.unsqueeze(-2)  # (B, T, T)
    weights = (query @ key.mT).masked_fill(~same.tril().unsqueeze(1), 0.0)  # (B, A, T, T)
    # Steps after a start in the chunk see nothing of the sums from before it.
    old = query.masked_fill((episode > 0)[:, None, :, None], 0.0)
    if fading is not None:
        weights, old = weights * fading.within, old * fading.since_before
    above = weights @ value + old @ total
    below = weights.sum(-1, keepdim=True) + old @ norm.unsqueeze(-1)
    started = (episode[:, -1] > 0)[:, None, None]
    current = key.masked_fill((episode != episode[:, -1:])[:, None, :, None], 0.0)
    if fading is not None:
        current = current * fading.until_after
        total, norm = total * fading.over_all.unsqueeze(-1), norm * fading.over_all
    total = total.masked_fill(started.unsqueeze(-1), 0.0) + current.mT @ value
    norm = norm.masked_fill(started, 0.0) + current.sum(2)
    return above / (below + EPSILON), (total, norm)


class LinearAttentionCore(StackCore):
    """A stack of layers with linear attention.

    State: ``attention_sum`` (B, A, D, D), ``attention_norm`` (B, A, D) and ``attention_time`` (B,),
    the steps of the episode so far; with more than one layer these stand after the batch. Sums grow
    with the episode: float32 holds some million steps.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers on top of each other.
        num_heads: A, parts of the width that attend separately; by default each is 32 wide.
        half_life: steps after which half of what the slowest of A heads has summed is left; head a,
            counted from 1, has ``half_life ** (a / A)``. None: nothing fades, as in the paper.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
        half_life: float | None = None,
    ) -> None:
        heads = require_heads(hidden_size, num_heads)
        if half_life is not None and half_life <= 0:
            raise BuildError(
                f"half_life={half_life} steps.", fix="Use a number above 0, or None: no fading."
            )
        count = range(require_count("num_layers", num_layers))
        layers = [LinearAttentionLayer(hidden_size, heads, half_life) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class LinearAttentionWrapper(MemoryWrapper, core=LinearAttentionCore):
    """A policy with linear attention between its encoder and its heads."""
