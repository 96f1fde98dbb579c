"""BroNet: residual blocks with LayerNorm after every Linear layer, from BRO.

Nauman et al. 2024, https://arxiv.org/abs/2405.16158. It differs from the paper's in that both
heads of an actor-critic share one network, of the size of the paper's actor (256, one block; its
critic has 512 and two). BRO's training (weight decay, resets) is left to the trainer.

`N` rows, `H` hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import InputLinear
from puffer_policies.nn.features import make_features
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import spaces_of


class BroBlock(nn.Module):
    """Two layers beside the identity: Linear, LayerNorm, ReLU, Linear, LayerNorm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            layer_init(nn.Linear(hidden_size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            layer_init(nn.Linear(hidden_size, hidden_size)),
            nn.LayerNorm(hidden_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        branch: Tensor = self.branch(x)
        return x + branch


class BroEncoder(nn.Sequential):
    """Features of any space, one layer with LayerNorm, then blocks: (N, *obs) -> (N, H)."""

    def __init__(self, space: Any, hidden_size: int, *, num_blocks: int) -> None:
        features = make_features(space)
        super().__init__(
            features,
            layer_init(InputLinear(features.size, hidden_size)),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            *(BroBlock(hidden_size) for _ in range(num_blocks)),
        )
        self.hidden_size = hidden_size


class BroNet(ActorCritic):
    """BRO's residual network under both heads.

    Args:
        env: has any spaces.
        hidden_size: width of every layer.
        num_blocks: number of residual blocks.
    """

    def __init__(self, env: Any, hidden_size: int = 256, num_blocks: int = 1) -> None:
        spaces = spaces_of(env)
        super().__init__(BroEncoder(spaces.observation, hidden_size, num_blocks=num_blocks), spaces)
