"""Policies for sets of entities: the same answer in any order, and with any rows of padding.

Zaheer et al. 2017, https://arxiv.org/abs/1703.06114 (`DeepSets`), and Lee et al. 2019,
https://arxiv.org/abs/1810.00825 (`EntityAttention`). They differ from the papers as follows.
Entities are pooled by the sum of mean and maximum, whose scale hardly depends on their number. A
mask separates entities from padding. Attention blocks have their norms in front, with which they
need no warm-up (https://arxiv.org/abs/2002.04745). Pooling has no weights. What all entities have
in common goes into the layer after the pooling. Weights are orthogonal.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.sets import AttentionNetwork, DeepSetNetwork, EntityInput, SetEncoder
from puffer_policies.spaces import spaces_of
from puffer_policies.spaces.entities import require_entities


class DeepSets(ActorCritic):
    """Two layers for each entity, alike, a pooling, and one layer: entities do not see each other.

    Args:
        env: has a Box (E, F) as observations, or a Dict with one under ``entities``, and maybe with
            a ``mask`` (E,) and other keys; see `puffer_policies.spaces.entities`.
        hidden_size: width of the layer under the heads.
        entity_size: width of the layers of each entity.
        padding: the number that fills a row without an entity, where there is no mask. If None,
            every row is an entity.
    """

    def __init__(
        self,
        env: Any,
        hidden_size: int = 64,
        *,
        entity_size: int = 64,
        padding: float | None = None,
    ) -> None:
        spaces = spaces_of(env)
        layout = require_entities(spaces.observation, "DeepSets")
        inputs = EntityInput(spaces.observation, layout, padding=padding)
        network = DeepSetNetwork(layout.num_features, entity_size)
        encoder = SetEncoder(inputs, network, width=entity_size, hidden_size=hidden_size)
        super().__init__(encoder, spaces)


class EntityAttention(ActorCritic):
    """Blocks of attention among entities, a pooling, and one layer: entities see each other.

    Args:
        env: has a Box (E, F) as observations, or a Dict with one under ``entities``, and maybe with
            a ``mask`` (E,) and other keys; see `puffer_policies.spaces.entities`.
        hidden_size: width of the layer under the heads.
        entity_size: width of each entity, a multiple of `num_heads`.
        num_blocks: how many blocks of attention.
        num_heads: heads of each block.
        feedforward: width inside the layers of a block.
        padding: the number that fills a row without an entity, where there is no mask. If None,
            every row is an entity.
    """

    def __init__(
        self,
        env: Any,
        hidden_size: int = 128,
        *,
        entity_size: int = 64,
        num_blocks: int = 2,
        num_heads: int = 4,
        feedforward: int = 128,
        padding: float | None = None,
    ) -> None:
        spaces = spaces_of(env)
        layout = require_entities(spaces.observation, "EntityAttention")
        inputs = EntityInput(spaces.observation, layout, padding=padding)
        network = AttentionNetwork(
            layout.num_features,
            entity_size,
            num_blocks=num_blocks,
            num_heads=num_heads,
            feedforward=feedforward,
        )
        encoder = SetEncoder(inputs, network, width=entity_size, hidden_size=hidden_size)
        super().__init__(encoder, spaces)
