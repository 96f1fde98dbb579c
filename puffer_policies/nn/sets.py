"""Encoders of sets of entities, which neither their order nor rows of padding can change.

`N` rows, `E` entities at most, `F` numbers of each, `W` width, `A` heads, `D` = W/A, `H` hidden
size. A row of entities that is padding is set to zero before anything is computed, so whatever it
holds, NaN too, changes no bit of what comes out; a set without entities is pooled to zeros.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from puffer_policies.errors import BuildError
from puffer_policies.nn.encoders import InputLinear, require_width
from puffer_policies.nn.features import make_features
from puffer_policies.nn.init import layer_init, orthogonal_gates
from puffer_policies.nn.observations import is_empty, require_keys, require_shape
from puffer_policies.nn.trace import zeroed
from puffer_policies.spaces import sorted_keys
from puffer_policies.spaces.entities import MASK, EntityLayout


class EntityInput(nn.Module):
    """Observations -> entities (N, E, F), which are there (N, E), and what they have in common.

    Args:
        space: the observation space of `layout`.
        layout: where the space holds the entities.
        padding: the number that fills a row without an entity, where there is no mask. If None,
            every row is an entity.
    """

    def __init__(self, space: Any, layout: EntityLayout, *, padding: float | None = None) -> None:
        super().__init__()
        _require_padding(padding, layout)
        self.shape = (layout.num_entities, layout.num_features)
        self.key, self.masked, self.padding = layout.key, layout.masked, padding
        self.keys = sorted_keys(space) if self.key else ()
        common = None if layout.common is None or is_empty(layout.common) else layout.common
        self.common = None if common is None else make_features(common)
        self.common_keys = () if common is None else sorted_keys(common)
        self.num_common = 0 if self.common is None else self.common.size

    def forward(self, observations: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """(N, *obs) -> (N, E, F) of their dtype, (N, E) bool, and (N, num_common) or None."""
        if self.key:
            require_keys(observations, self.keys)
        entities: Tensor = observations[self.key] if self.key else observations
        entities = require_shape(entities, self.shape)
        present = self._present(observations, entities)
        common = None
        if self.common is not None:
            common = self.common({key: observations[key] for key in self.common_keys})
        return zeroed(entities, ~present.unsqueeze(-1)), present, common

    def _present(self, observations: Any, entities: Tensor) -> Tensor:
        """Return which rows are entities, (N, E)."""
        if self.masked:
            return require_shape(observations[MASK], self.shape[:1]).bool()
        if self.padding is not None:
            return (entities != self.padding).any(-1)
        return torch.ones_like(entities[..., 0], dtype=torch.bool)


def pooled(x: Tensor, present: Tensor) -> Tensor:
    """(N, E, W) and which are there, (N, E) -> the sum of their mean and their maximum, (N, W).

    Zeros where none is there.
    """
    absent = ~present.unsqueeze(-1)
    mean = x.masked_fill(absent, 0).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
    highest = x.masked_fill(absent, -math.inf).amax(1)
    return mean + highest.masked_fill(~present.any(1, keepdim=True), 0)


class SetEncoder(nn.Module):
    """Entities, each alone and then together, pooled, and a Linear layer with ReLU.

    Args:
        inputs: brings observations into the form that `network` takes.
        network: (N, E, F) and which are there (N, E) -> (N, E, W).
        width: W.
        hidden_size: width of the Linear layer, which also sees what entities have in common.
    """

    def __init__(
        self, inputs: EntityInput, network: nn.Module, *, width: int, hidden_size: int
    ) -> None:
        super().__init__()
        require_width(hidden_size)
        self.hidden_size = hidden_size
        self.inputs = inputs
        self.network = network
        self.linear = layer_init(InputLinear(width + inputs.num_common, hidden_size))

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs) of any dtype -> (N, H)."""
        entities, present, common = self.inputs(observations)
        features = pooled(self.network(entities, present), present)  # (N, W)
        if common is not None:
            features = torch.cat([features, common], -1)
        return relu(self.linear(features))


class EntityLayer(nn.Module):
    """One Linear layer with ReLU for each entity, all with the same weights."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        require_width(width)
        self.linear = layer_init(InputLinear(num_features, width))

    def forward(self, entities: Tensor) -> Tensor:
        """(N, E, F) of any dtype -> (N, E, W)."""
        hidden: Tensor = self.linear(entities.flatten(0, 1))  # (N * E, W)
        return relu(hidden).reshape(*entities.shape[:2], -1)


class DeepSetNetwork(nn.Module):
    """Two layers with ReLU for each entity; entities do not see each other."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.first = EntityLayer(num_features, width)
        self.second = layer_init(nn.Linear(width, width))

    def forward(self, entities: Tensor, present: Tensor) -> Tensor:
        """(N, E, F) of any dtype, (N, E) bool -> (N, E, W)."""
        return relu(self.second(self.first(entities)))


class AttentionBlock(nn.Module):
    """Attention of every entity to those that are there, then a layer for each; norms come first.

    Layers that end a branch have gain 1, so that activations grow little from block to block.
    """

    def __init__(self, width: int, *, num_heads: int, feedforward: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = layer_init(nn.Linear(width, 3 * width))
        orthogonal_gates(self.query_key_value.weight, 3)
        self.output = layer_init(nn.Linear(width, width), 1.0)
        self.network = nn.Sequential(
            layer_init(nn.Linear(width, feedforward)),
            nn.ReLU(),
            layer_init(nn.Linear(feedforward, width), 1.0),
        )

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(N, E, W), and which are visible, (N, E) bool with at least one -> (N, E, W)."""
        x = x + self._attend(self.attention_norm(x), visible)
        mixed: Tensor = x + self.network(self.network_norm(x))
        return mixed

    def _attend(self, x: Tensor, visible: Tensor) -> Tensor:
        parts = self.query_key_value(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (N, A, E, D) each
        mask = visible[:, None, None, :]
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (N, E, W)
        return output


class AttentionNetwork(nn.Module):
    """A layer for each entity, blocks of attention among them, and a norm.

    Args:
        num_features: F.
        width: W, a multiple of `num_heads`.
        num_blocks: how many blocks.
        num_heads: A.
        feedforward: width inside the layers of a block.

    Raises:
        BuildError: a number below 1, or heads that do not divide the width.
    """

    def __init__(
        self, num_features: int, width: int, *, num_blocks: int, num_heads: int, feedforward: int
    ) -> None:
        super().__init__()
        _require_sizes(width, num_blocks=num_blocks, num_heads=num_heads, feedforward=feedforward)
        self.first = EntityLayer(num_features, width)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, num_heads=num_heads, feedforward=feedforward)
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, entities: Tensor, present: Tensor) -> Tensor:
        """(N, E, F) of any dtype, (N, E) bool -> (N, E, W)."""
        # A softmax over nothing is NaN: in a set without entities the zeros see each other.
        visible = present | ~present.any(1, keepdim=True)
        x = self.first(entities)
        for block in self.blocks:
            x = block(x, visible)
        normed: Tensor = self.norm(x)
        return normed


def _require_padding(padding: float | None, layout: EntityLayout) -> None:
    if padding is None:
        return
    if layout.masked:
        raise BuildError(
            f"padding={padding} was given, but the observations have a mask under {MASK!r}.",
            fix="Leave padding out: the mask says which rows are entities.",
        )
    if not math.isfinite(padding):
        raise BuildError(
            f"padding={padding} is not a number that rows can be compared with.",
            fix=f"Fill rows without an entity with zeros, or give a {MASK!r}.",
        )


def _require_sizes(width: int, *, num_blocks: int, num_heads: int, feedforward: int) -> None:
    sizes = {"num_blocks": num_blocks, "num_heads": num_heads, "feedforward": feedforward}
    small = [f"{name}={size}" for name, size in sizes.items() if size < 1]
    if small:
        raise BuildError(f"{', '.join(small)}: each should be 1 or more.")
    if width % num_heads:
        raise BuildError(
            f"{num_heads} heads can't share {width} features evenly.",
            fix="Choose an entity_size that is a multiple of num_heads.",
        )
