"""Encoders of choices, as learned vectors, and of observations with several parts of any kind.

A package with a space of its own registers a part for it with ``make_part.register``. Otherwise the
features of the space go through a Linear layer.

`N` rows, `K` choices in an observation, `D` width of a vector, `H` hidden size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.nn.functional import relu

from puffer_policies.errors import BuildError, IncompatibleSpace, did_you_mean
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
from puffer_policies.nn.observations import (
    batch_layout,
    is_empty,
    leaf_spaces,
    require_readable,
    require_shape,
)
from puffer_policies.spaces import (
    ActionLayout,
    action_layout,
    at_part,
    described,
    image_layout,
    image_size,
)
from puffer_policies.spaces.nested import leaves, names_of

Combine = Literal["concat", "sum"]


class ChoiceEmbedding(nn.Module):
    """A learned vector for every option of every choice; zeros for an option outside the space.

    Vectors start as torch's, normal with deviation 1: an orthogonal table of many options would
    make each of them short.

    Raises:
        IncompatibleSpace: the space holds no choices.
        BuildError: `size` is not a whole number from 1 on.
    """

    counts: Tensor
    start: Tensor
    first: Tensor

    def __init__(self, space: Any, size: int) -> None:
        super().__init__()
        require_width(size)
        # A choice is laid out alike whether it is observed or made.
        layout = action_layout(space)
        _require_choices(space, layout)
        self.shape = layout.shape
        self.num_choices = len(layout.nvec)
        self.size = size
        self.embedding = nn.Embedding(sum(layout.nvec), size)
        counts = torch.tensor(layout.nvec)
        # Constants of the space: a checkpoint need not hold them.
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("first", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("start", torch.tensor(_start(layout)), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, K, D)."""
        observations = require_shape(observations, self.shape)
        choices = observations.reshape(observations.shape[0], self.num_choices)
        option = choices.long() - self.start  # (N, K), counted from 0
        # The last test refuses fractions, which long() would round to an option.
        valid = (option >= 0) & (option < self.counts) & (option + self.start == choices)
        rows = (option + self.first).masked_fill(~valid, 0)
        vectors: Tensor = self.embedding(rows)  # (N, K, D)
        return vectors.masked_fill(~valid.unsqueeze(-1), 0)


def _require_choices(space: Any, layout: ActionLayout) -> None:
    if not layout.nvec:
        raise IncompatibleSpace(
            f"Observation space {described(space)} holds real numbers, and no choices to embed.",
            fix="Use a policy for vectors, such as 'Default'.",
        )


def _start(layout: ActionLayout) -> list[int]:
    """Return the first option of each choice."""
    return [int(each) for each in np.asarray(layout.start).reshape(-1)]


class ChoicePart(nn.Module):
    """The vectors of all choices side by side."""

    def __init__(self, space: Any, size: int) -> None:
        super().__init__()
        self.embedding = ChoiceEmbedding(space, size)
        self.hidden_size = self.embedding.num_choices * size

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, K * D)."""
        vectors: Tensor = self.embedding(observations)
        return vectors.flatten(1)


class EmbeddingEncoder(nn.Module):
    """The vectors of all choices, side by side or summed, then one Linear layer with ReLU.

    Args:
        space: Discrete, MultiDiscrete or MultiBinary.
        hidden_size: width of the Linear layer.
        embedding_size: width of a vector.
        combine: ``concat`` or ``sum``; a sum needs fewer weights where choices are many.
    """

    def __init__(
        self,
        space: Any,
        hidden_size: int,
        *,
        embedding_size: int = 32,
        combine: Combine = "concat",
    ) -> None:
        super().__init__()
        require_width(hidden_size)
        _require_combine(combine)
        self.hidden_size = hidden_size
        self.summed = combine == "sum"
        self.embedding = ChoiceEmbedding(space, embedding_size)
        num_choices = self.embedding.num_choices
        width = embedding_size * (1 if self.summed else num_choices)
        if self.summed:
            # So that the sum has the scale of one vector.
            nn.init.normal_(self.embedding.embedding.weight, std=num_choices**-0.5)
        self.linear = layer_init(nn.Linear(width, hidden_size))

    def forward(self, observations: Tensor) -> Tensor:
        """(N, *shape) of any dtype -> (N, H)."""
        vectors: Tensor = self.embedding(observations)
        return relu(self.linear(vectors.sum(1) if self.summed else vectors.flatten(1)))


def _require_combine(combine: str) -> None:
    names = get_args(Combine)
    if combine not in names:
        raise BuildError(
            f"combine={combine!r} is not a way to combine embeddings; use {' or '.join(names)}.",
            fix=did_you_mean(str(combine), names),
        )


NETWORKS: dict[int, tuple[ConvLayer, ...]] = {
    36: NATURE_CNN,
    16: (ConvLayer(16, 4, 2), ConvLayer(32, 3, 2)),
    5: (ConvLayer(16, 3, 1), ConvLayer(32, 3, 1)),
}
"""Smallest side in pixels -> the convolutions for such images; smaller ones are flattened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSizes:
    """The sizes of the parts of a `MultiInputEncoder`."""

    vector: int = 64
    """Features of a vector, an array or a MultiBinary."""
    image: int = 128
    """Features of an image."""
    embedding: int = 16
    """Width of the learned vector of each choice."""
    full_scale: float | None = None
    """The number that images are divided by; if None, 255 for a space with these bounds, else 1."""


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
    """The features of all parts, in the order of `keys`, then one Linear layer with ReLU.

    `keys` are the ways to the leaves that are not empty, such as ``inside.goal``, sorted at every
    level: they do not depend on the order in which a space or an observation was written. A space
    that is one leaf has one part, and the key ``""``.
    """

    def __init__(self, space: Any, hidden_size: int, *, sizes: PartSizes | None = None) -> None:
        super().__init__()
        require_width(hidden_size)
        require_readable(space)
        tree = leaf_spaces(space)
        self._filled = [not is_empty(leaf) for leaf in leaves(tree)]
        self.keys = tuple(itertools.compress(names_of(tree), self._filled))
        filled = itertools.compress(leaves(tree), self._filled)
        parts = []
        for key, leaf in zip(self.keys, filled, strict=True):
            with at_part(key):
                parts.append(make_part(leaf, sizes or PartSizes()))
        self.hidden_size = hidden_size
        self._layout = batch_layout(space)
        self.parts = nn.ModuleList(parts)
        widths: list[Any] = [part.hidden_size for part in parts]
        self.linear = layer_init(nn.Linear(sum(widths), hidden_size))

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs), nested as the space is, in any dtype of it -> (N, H)."""
        rows, _ = self._layout.flatten(observations)  # its keys sorted
        filled = itertools.compress(leaves(rows), self._filled)
        pairs = zip(self.parts, filled, strict=True)
        return relu(self.linear(torch.cat([part(leaf) for part, leaf in pairs], -1)))
