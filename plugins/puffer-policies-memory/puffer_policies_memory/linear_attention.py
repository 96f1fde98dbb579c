"""Linear attention: Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236.

``S = S + phi(k) v``, ``z = z + phi(k)``, output ``phi(q) S / phi(q) z``, with phi(x) = elu(x) + 1:
attention over the whole episode with a state of fixed size. It differs from the paper in this: one
skip stands beside attention and feed-forward network together, after one layer norm, about as in
popgym (Morad et al. 2023, https://arxiv.org/abs/2303.01859); sines of the time since the episode's
start are added to what queries and keys are made of; and nothing from before an episode's start is
summed, by masks.
Width 128 has 82,432 weights. With a half-life, what a head has summed fades at a fixed rate, as in
the retention of Sun et al. 2023, https://arxiv.org/abs/2307.08621. Then late steps of a long
episode can distinguish the last few steps from all others.

`T` time, `B` batch, `H` width, `A` heads, `D` = H/A.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.base import require_heads
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import MemoryWrapper
from puffer_policies_memory.associative import attend, by_chunks, shares_of
from puffer_policies_memory.stack import MemoryLayer, StackCore

SUM, NORM, TIME = "attention_sum", "attention_norm", "attention_time"

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
        # A value of 1 beside the others: its sum is that of the keys.
        value = functional.pad(self._split(self.value(self.norm(x))), (0, 1), value=1.0)
        memory = torch.cat([carry[SUM], carry[NORM].unsqueeze(-1)], -1)
        output, memory = by_chunks(self._read, (query, key, value), memory, starts)
        above, below = output[..., :-1], output[..., -1:]
        mixed = (above / (below + EPSILON)).permute(2, 0, 1, 3).flatten(2)  # (T, B, H)
        after = {SUM: memory[..., :-1].contiguous(), NORM: memory[..., -1].contiguous()}
        return x + self.network(mixed), {**after, TIME: times[-1] + 1}

    def _read(
        self, query: Tensor, key: Tensor, value: Tensor, *, carried: Tensor, episode: Tensor
    ) -> tuple[Tensor, Tensor]:
        decay = None
        if self.keep is not None:
            # A share that has underflowed to 0 has no logarithm.
            keep = self.keep.clamp_min(torch.finfo(self.keep.dtype).tiny)
            decay = keep.log().reshape(1, -1, 1).expand(1, -1, query.shape[2])
        shares = shares_of(decay, episode, query.dtype)
        return attend(query, key, value, memory=carried, shares=shares)

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


def keep_of(half_life: float | None, num_heads: int) -> Tensor | None:
    """Return what each head keeps over one step, (A,); None if nothing fades."""
    if half_life is None:
        return None
    lives = half_life ** (torch.arange(1, num_heads + 1) / num_heads)
    return torch.exp2(-1 / lives)


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
        count = range(require_count("num_layers", num_layers, most=MAX_LAYERS))
        layers = [LinearAttentionLayer(hidden_size, heads, half_life) for _ in count]
        super().__init__(input_size, hidden_size, layers)


class LinearAttentionWrapper(MemoryWrapper, core=LinearAttentionCore):
    """A policy with linear attention between its encoder and its heads."""
