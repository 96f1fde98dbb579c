"""Choices as learned vectors: observations of Discrete, MultiDiscrete and MultiBinary spaces.

`N` rows, `K` choices in an observation, `D` width of a vector, `H` hidden size.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from puffer_policies.errors import BuildError, IncompatibleSpace, did_you_mean
from puffer_policies.nn.batching import require_shape
from puffer_policies.nn.encoders import require_width
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import ActionLayout, action_layout, described

Combine = Literal["concat", "sum"]


class ChoiceEmbedding(nn.Module):
    """A learned vector for every option of every choice; zeros for an option outside the space.

    Vectors start as torch's, normal with deviation 1: an orthogonal table of many options would
    make each of them short.

    Raises:
        IncompatibleSpace: the space holds no choices.
        BuildError: `size` is no width.
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
        require_shape(observations, self.shape)
        chosen = observations.reshape(len(observations), self.num_choices)
        option = chosen.long() - self.start  # (N, K), counted from 0
        known = (option >= 0) & (option < self.counts) & (option + self.start == chosen)
        rows = (option + self.first).masked_fill(~known, 0)
        vectors: Tensor = self.embedding(rows)  # (N, K, D)
        return vectors.masked_fill(~known.unsqueeze(-1), 0)


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
    known = get_args(Combine)
    if combine not in known:
        raise BuildError(
            f"combine={combine!r} is no way to combine embeddings: known are {', '.join(known)}.",
            fix=did_you_mean(str(combine), known),
        )
