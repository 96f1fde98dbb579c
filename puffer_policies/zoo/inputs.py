"""Policies for observations of several parts, or of choices: an encoder for each, then one layer.

`MultiInput` follows the combined extractor of stable-baselines3 (Raffin et al. 2021,
https://jmlr.org/papers/v22/20-1364.html); `DiscreteEmbed` gives every option a learned vector, as
Bengio et al. 2003 do for words (https://www.jmlr.org/papers/v3/bengio03a.html). They differ in
that keys are sorted, a vector has a layer of its own, small images have convolutions, too, choices
are embedded where the extractor has one-hot codes, and weights are orthogonal.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.multi_input import Combine, EmbeddingEncoder, MultiInputEncoder, PartSizes
from puffer_policies.spaces import require_kinds, spaces_of


class MultiInput(ActorCritic):
    """An encoder for each part of a Dict or Tuple, nested ones too, and one layer over all.

    Images go through convolutions of their size, vectors through a layer, choices through learned
    vectors. A space of one part serves as well.

    Args:
        env: has observations of any kind.
        hidden_size: width of the layer under the heads.
        vector_size: width of the layer of each vector.
        image_size: width of the layer after the convolutions of each image.
        embedding_size: width of the vector of each choice.
        full_scale: the divisor of images; 255 for bytes if None. Cells of MiniGrid hold codes
            up to 10 in bytes: 16 suits them.
    """

    def __init__(
        self,
        env: Any,
        hidden_size: int = 128,
        *,
        vector_size: int = 64,
        image_size: int = 128,
        embedding_size: int = 16,
        full_scale: float | None = None,
    ) -> None:
        spaces = spaces_of(env)
        sizes = PartSizes(
            vector=vector_size, image=image_size, embedding=embedding_size, full_scale=full_scale
        )
        super().__init__(MultiInputEncoder(spaces.observation, hidden_size, sizes=sizes), spaces)


class DiscreteEmbed(ActorCritic):
    """A learned vector for each choice that is observed, then one layer.

    Args:
        env: has Discrete, MultiDiscrete or MultiBinary observations.
        hidden_size: width of the layer under the heads.
        embedding_size: width of the vector of each choice.
        combine: ``concat`` puts the vectors side by side, ``sum`` adds them.
    """

    def __init__(
        self,
        env: Any,
        hidden_size: int = 128,
        *,
        embedding_size: int = 32,
        combine: Combine = "concat",
    ) -> None:
        spaces = spaces_of(env)
        choices = ("discrete", "multidiscrete", "multibinary")
        require_kinds(spaces, "DiscreteEmbed", observations=choices, instead="MultiInput")
        encoder = EmbeddingEncoder(
            spaces.observation, hidden_size, embedding_size=embedding_size, combine=combine
        )
        super().__init__(encoder, spaces)
