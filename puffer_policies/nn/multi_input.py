"""One encoder for each leaf of an observation space, chosen by the leaf, and one layer over all.

A package with a space of its own registers a part for it: ``make_part.register``; without one, the
space's features go through a Linear layer. `N` rows, `H` hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.nn.functional import relu

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nested import leaves, names_of
from puffer_policies.nn.batching import batch_layout
from puffer_policies.nn.embedding import ChoicePart
from puffer_policies.nn.encoders import (
    NATURE_CNN,
    ConvEncoder,
    ConvLayer,
    ImageEncoder,
    MLPEncoder,
    require_width,
)
from puffer_policies.nn.images import ImageInput
from puffer_policies.nn.init import layer_init
from puffer_policies.nn.leaves import leaf_spaces
from puffer_policies.spaces import described, image_layout, image_size

NETWORKS: dict[int, tuple[ConvLayer, ...]] = {
    36: NATURE_CNN,
    16: (ConvLayer(16, 4, 2), ConvLayer(32, 3, 2)),
    5: (ConvLayer(16, 3, 1), ConvLayer(32, 3, 1)),
}
"""Smallest side in pixels -> the convolutions for such images; smaller ones are flattened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSizes:
    """What the parts of a `MultiInputEncoder` give."""

    vector: int = 64
    """Features of a vector, an array or a MultiBinary."""
    image: int = 128
    """Features of an image."""
    embedding: int = 16
    """Width of the learned vector of each choice."""
    full_scale: float | None = None
    """What images are divided by; 255 for a space of these bounds, and nothing else, if None."""


@singledispatch
def make_part(space: Any, sizes: PartSizes) -> nn.Module:
    """Return (N, *obs) -> (N, width) for a leaf; the width is the module's ``hidden_size``.

    Raises:
        IncompatibleSpace: neither a part nor features are registered for the space.
    """
    return MLPEncoder(space, (sizes.vector,), activation=nn.ReLU)


@make_part.register
def _(space: gym_spaces.Box, sizes: PartSizes) -> nn.Module:
    if image_layout(space):
        return _image_part(space, sizes)
    return MLPEncoder(space, (sizes.vector,), activation=nn.ReLU)


@make_part.register(gym_spaces.Discrete)
@make_part.register(gym_spaces.MultiDiscrete)
def _(space: Any, sizes: PartSizes) -> nn.Module:
    return ChoicePart(space, sizes.embedding)


def _image_part(space: gym_spaces.Box, sizes: PartSizes) -> ImageEncoder:
    side = min(image_size(space))
    layers = next((each for least, each in NETWORKS.items() if side >= least), None)
    if layers is not None:
        return ConvEncoder(space, sizes.image, layers=layers, full_scale=sizes.full_scale)
    images = ImageInput(space, full_scale=sizes.full_scale)
    flat_size = math.prod(space.shape)
    return ImageEncoder(images, nn.Flatten(), flat_size=flat_size, hidden_size=sizes.image)


class MultiInputEncoder(nn.Module):
    """What the parts give side by side, in the order of `keys`, then one Linear layer with ReLU.

    `keys` are the ways to the leaves, such as ``inside.goal``, sorted at every level: they do not
    depend on the order in which a space or an observation was written. A space that is one leaf
    has one part, and the key ``""``.
    """

    def __init__(self, space: Any, hidden_size: int, *, sizes: PartSizes | None = None) -> None:
        super().__init__()
        require_width(hidden_size)
        tree = leaf_spaces(space)
        self.keys = tuple(names_of(tree))
        if not self.keys:
            raise IncompatibleSpace(f"Observation space {described(space)} holds nothing to see.")
        parts = [make_part(leaf, sizes or PartSizes()) for leaf in leaves(tree)]
        self.hidden_size = hidden_size
        self._layout = batch_layout(space)
        self.parts = nn.ModuleList(parts)
        widths: list[Any] = [part.hidden_size for part in parts]
        self.linear = layer_init(nn.Linear(sum(widths), hidden_size))

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs), nested as the space is, in any dtype of it -> (N, H)."""
        rows, _ = self._layout.flatten(observations)  # its keys sorted
        pairs = zip(self.parts, leaves(rows), strict=True)
        return relu(self.linear(torch.cat([part(leaf) for part, leaf in pairs], -1)))
