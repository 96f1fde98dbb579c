"""SimBa: a residual network that stays simple when it grows.

Lee et al. 2024, https://arxiv.org/abs/2410.09754. It differs from the paper's in two ways. Both
heads of an actor-critic share one network, of the size of the paper's actor (128, one block; its
critic has 512 and two). The running statistics do not change within an update, see `running_norm`.
The paper trains it by AdamW with weight decay 0.01 and learning rate 1e-4.

`N` rows, `H` hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.features import make_features
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import spaces_of
from puffer_policies_mlp.running_norm import RunningNorm

EXPANSION = 4
"""The inner layer of a block is this many times as wide as the network."""


class SimbaBlock(nn.Module):
    """LayerNorm, Linear to 4 H, ReLU, Linear back, beside the identity."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = EXPANSION * hidden_size
        self.branch = nn.Sequential(
            nn.LayerNorm(hidden_size),
            _he_init(nn.Linear(hidden_size, inner)),
            nn.ReLU(),
            _he_init(nn.Linear(inner, hidden_size)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, H) -> (N, H)."""
        branch: Tensor = self.branch(x)
        return x + branch


def _he_init(layer: nn.Linear) -> nn.Linear:
    """Draw weights as He et al. 2015, https://arxiv.org/abs/1502.01852, do for ReLU."""
    # As in the paper; the other policies of this package have orthogonal weights.
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class SimbaEncoder(nn.Sequential):
    """Features of any space, normalized, then blocks and a LayerNorm: (N, *obs) -> (N, H)."""

    def __init__(self, space: Any, hidden_size: int, *, num_blocks: int) -> None:
        features = make_features(space)
        super().__init__(
            features,
            RunningNorm(features.size),
            layer_init(nn.Linear(features.size, hidden_size), 1.0),
            *(SimbaBlock(hidden_size) for _ in range(num_blocks)),
            nn.LayerNorm(hidden_size),
        )
        self.hidden_size = hidden_size


class SimBa(ActorCritic):
    """SimBa's residual network under both heads.

    In train mode, a pass with gradients collects statistics of the observations. They are used from
    the next rollout on, so that ``forward`` and ``forward_eval`` agree within an update and PPO's
    ratio is 1 in its first epoch. `running_norm.RunningNorm` explains how.

    Args:
        env: has any spaces.
        hidden_size: width of the network.
        num_blocks: number of residual blocks.
    """

    def __init__(self, env: Any, hidden_size: int = 128, num_blocks: int = 1) -> None:
        spaces = spaces_of(env)
        super().__init__(
            SimbaEncoder(spaces.observation, hidden_size, num_blocks=num_blocks), spaces
        )
