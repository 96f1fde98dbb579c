"""The policies of this package: each is a class that chooses an encoder and heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import InputLinear
from puffer_policies.nn.features import make_features
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import spaces_of


class Encoder(nn.Module):
    """Two normalized SiLU layers over the features of any observation space."""

    def __init__(self, space: Any, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.features = make_features(space)  # (N, *obs) of any space -> (N, size) float32
        # Change this: any layers that end in (N, hidden_size) will do.
        self.layers = nn.Sequential(
            layer_init(InputLinear(self.features.size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.SiLU(),
            layer_init(nn.Linear(hidden_size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.SiLU(),
        )

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs) -> (N, hidden_size)."""
        hidden: Tensor = self.layers(self.features(observations))
        return hidden


class MyNet(ActorCritic):
    """An encoder under an action head and a value head; memory comes by ``LSTMWrapper(MyNet)``."""

    def __init__(self, env: Any, hidden_size: int = 64) -> None:
        spaces = spaces_of(env)
        super().__init__(Encoder(spaces.observation, hidden_size), spaces)
