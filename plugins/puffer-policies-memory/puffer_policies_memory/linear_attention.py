"""Linear attention: Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236.

``S = S + phi(k) v``, ``z = z + phi(k)``, output ``phi(q) S / phi(q) z``, with phi(x) = elu(x) + 1:
attention over the whole episode with a state of fixed size. A sequence is worked in chunks, inside
which attention is a masked product. It differs from the paper in this: one skip stands beside
attention and feed-forward network together, after one layer norm, about as in popgym (Morad et al.
2023, https://arxiv.org/abs/2303.01859); sines of the time since the episode's start are added to
the input; and nothing from before an episode's start is summed, by masks. Width 128 has 82,432
weights.

`T` time, `B` batch, `I` input size, `H` width, `A` heads, `D` = H/A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.base import After, State, require_layers
from puffer_policies.nn.init import layer_init
from puffer_policies.wrappers.base import RecurrentWrapper
from puffer_policies.wrappers.sizes import core_sizes
from puffer_policies_memory.stack import MemoryLayer, StackCore

SUM, NORM, TIME = "attention_sum", "attention_norm", "attention_time"

CHUNK = 64
"""Steps that are attended to at once: the work of a sequence is T * (CHUNK + D)."""

EPSILON = 1e-5
"""Of popgym; keeps a step whose query fits no key from dividing by 0."""

HEAD_SIZE = 32
"""Default width of a head; the state of a layer holds H * D + H numbers."""


class LinearAttentionLayer(MemoryLayer):
    """Layer norm, linear attention, a network of two layers, and the identity beside them."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (
            layer_init(nn.Linear(width, width, bias=False), 1.0) for _ in range(3)
        )
        self.network = nn.Sequential(
            layer_init(nn.Linear(width, width)), nn.ReLU(), layer_init(nn.Linear(width, width), 1.0)
        )

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the sums of keys times values, (A, D, D), and of keys, (A, D)."""
        return {SUM: (*self.heads, self.heads[1]), NORM: self.heads}

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H) -> (T, B, H), with the sums after the last step."""
        seen = self.norm(x)
        query, key = (phi(self._split(each(seen))) for each in (self.query, self.key))
        value = self._split(self.value(seen))
        if starts is None:
            starts = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        parts = [torch.split(each, CHUNK, 2) for each in (query, key, value)]
        read, carried = [], (carry[SUM], carry[NORM])
        for q, k, v, start in zip(*parts, torch.split(starts.t(), CHUNK, 1), strict=True):
            out, carried = attend(q, k, v, carried=carried, episode=start.cumsum(1))
            read.append(out)
        mixed = torch.cat(read, 2).permute(2, 0, 1, 3).flatten(2)  # (T, B, H)
        return x + self.network(mixed), dict(zip((SUM, NORM), carried, strict=True))

    def _split(self, x: Tensor) -> Tensor:
        """(T, B, H) -> (B, A, T, D), in the state's dtype also under autocast."""
        split = x.to(self.norm.weight.dtype).reshape(*x.shape[:2], *self.heads)  # (T, B, A, D)
        return split.permute(1, 2, 0, 3)


def phi(x: Tensor) -> Tensor:
    """Return elu(x) + 1 without the rounding of the sum: exp(x) below 0, x + 1 above."""
    return torch.exp(x.clamp(max=0)) + torch.relu(x)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    carried: tuple[Tensor, Tensor],
    episode: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attend from each step to those of its episode up to it, in the chunk and before.

    Args:
        query: (B, A, T, D), positive.
        key: the same.
        value: (B, A, T, D).
        carried: the sums before the chunk, (B, A, D, D) and (B, A, D).
        episode: (B, T), how many episodes started in the chunk up to each step.

    Returns:
        (B, A, T, D) and the sums after the chunk.
    """
    total, norm = carried
    same = episode.unsqueeze(-1) == episode.unsqueeze(-2)  # (B, T, T)
    weights = (query @ key.mT).masked_fill(~same.tril().unsqueeze(1), 0.0)  # (B, A, T, T)
    old = query.masked_fill((episode > 0)[:, None, :, None], 0.0)  # what still sees the past
    above = weights @ value + old @ total
    below = weights.sum(-1, keepdim=True) + old @ norm.unsqueeze(-1)
    ended = (episode[:, -1] > 0)[:, None, None]
    kept = key.masked_fill((episode != episode[:, -1:])[:, None, :, None], 0.0)
    total = total.masked_fill(ended.unsqueeze(-1), 0.0) + kept.mT @ value
    norm = norm.masked_fill(ended, 0.0) + kept.sum(2)
    return above / (below + EPSILON), (total, norm)


class LinearAttentionCore(StackCore):
    """A stack of layers with linear attention.

    State: ``attention_sum`` (B, A, D, D) and ``attention_norm`` (B, A, D) for one layer, else with
    the layers after the batch; ``attention_time`` (B,), the steps of the episode so far. The sums
    grow with the episode, and round in float32 after some million steps.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
    ) -> None:
        heads = max(hidden_size // HEAD_SIZE, 1) if num_heads is None else num_heads
        if heads < 1 or hidden_size % heads:
            raise BuildError(
                f"hidden_size={hidden_size} is no multiple of num_heads={heads}.",
                fix="Each head takes an equal part of the width.",
            )
        count = range(require_layers(num_layers, "linear attention"))
        layers = [LinearAttentionLayer(hidden_size, heads) for _ in count]
        super().__init__(input_size, hidden_size, layers)

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layers' sums, and (B,)."""
        return {**super().state_shapes(batch_size), TIME: (batch_size,)}

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H): the layers over the input with its place in the episode."""
        times = _times(state[TIME], episode_start, x.shape[1])
        placed = x + _waves(times, x.shape[-1]).to(x.dtype)
        hidden, after = super().sequence(placed, state, episode_start)
        return hidden, {**after, TIME: times[:, -1] + 1}


def _times(before: Tensor, episode_start: Tensor | None, steps: int) -> Tensor:
    """Return how many steps of its episode lie before each step, (B, T)."""
    count = torch.arange(steps, device=before.device)
    times = before.unsqueeze(-1) + count  # (B, T)
    if episode_start is None:
        return times
    last = torch.where(episode_start, count, -1).cummax(1).values  # the start before, or -1
    return torch.where(last < 0, times, (count - last).to(times.dtype))


def _waves(times: Tensor, width: int) -> Tensor:
    """(B, T) -> sines and cosines (B, T, width) of Vaswani et al. 2017, arXiv:1706.03762.

    In float64: the phase of a late step has no digits to spare in float32.
    """
    evens = torch.arange(0, width, 2, device=times.device, dtype=torch.float64)
    angles = times.double().unsqueeze(-1) * 10_000.0 ** (-evens / width)
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :width]


class LinearAttentionWrapper(RecurrentWrapper):
    """A policy with linear attention between its encoder and its heads.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the layers, which is what decode_actions reads; inferred likewise.
        num_layers: layers on top of each other.
        num_heads: parts of the width that attend separately; by default each is 32 wide.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        *,
        num_layers: int = 1,
        num_heads: int | None = None,
    ) -> None:
        sizes = core_sizes(policy, input_size, hidden_size)
        core = LinearAttentionCore(*sizes, num_layers=num_layers, num_heads=num_heads)
        super().__init__(env, policy, core)
