"""PQN's network: two layers, each Linear, LayerNorm, ReLU.

Gallici et al. 2024, https://arxiv.org/abs/2407.04811. It differs from the paper's in that
both heads of an actor-critic read it, instead of Q values, and that weights are orthogonal.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import InputLinear
from puffer_policies.nn.features import make_features
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import spaces_of


class LayerNormEncoder(nn.Sequential):
    """Features of any space, then two layers with LayerNorm: (N, *obs) -> (N, H)."""

    def __init__(self, space: Any, hidden_size: int) -> None:
        features = make_features(space)
        super().__init__(
            features,
            layer_init(InputLinear(features.size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            layer_init(nn.Linear(hidden_size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
        )
        self.hidden_size = hidden_size


class MLPLayerNorm(ActorCritic):
    """Two layers with LayerNorm and ReLU under both heads.

    Args:
        env: has any spaces.
        hidden_size: width of both layers.
    """

    def __init__(self, env: Any, hidden_size: int = 128) -> None:
        spaces = spaces_of(env)
        super().__init__(LayerNormEncoder(spaces.observation, hidden_size), spaces)
