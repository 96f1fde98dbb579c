"""The two tanh networks behind most PPO results: that of PPO's paper, and RLlib's default.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347, with the initialization of CleanRL, as in
https://github.com/vwxyzjn/cleanrl/blob/master/cleanrl/ppo_continuous_action.py; RLlib's
``fcnet_hiddens`` and ``fcnet_activation``. They differ from the originals in that every
space is served, and that `MLPTanh` returns both of its networks as one hidden row, so that a memory
fits between the networks and their heads.

`N` rows, `H` hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import InputLinear, MLPEncoder
from puffer_policies.nn.features import make_features
from puffer_policies.nn.heads import ValueHead, make_head
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import spaces_of


class TwinEncoder(nn.Module):
    """Two tanh networks that share nothing: (N, *obs) -> (N, H), the actor's half first."""

    def __init__(self, space: Any, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.features = make_features(space)
        self.actor = _tanh_network(self.features.size, hidden_size // 2)
        self.critic = _tanh_network(self.features.size, hidden_size // 2)

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs) in any dtype of the space -> (N, H)."""
        features = self.features(observations)
        return torch.cat([self.actor(features), self.critic(features)], -1)


def _tanh_network(size: int, width: int) -> nn.Sequential:
    first, second = InputLinear(size, width), nn.Linear(width, width)
    return nn.Sequential(layer_init(first), nn.Tanh(), layer_init(second), nn.Tanh())


class HalfHead(nn.Module):
    """A head that reads only `part` of the hidden row: (N, H) -> the outputs of `head`."""

    def __init__(self, head: nn.Module, part: slice) -> None:
        super().__init__()
        self.head = head
        self.part = part
        self.is_continuous = bool(getattr(head, "is_continuous", False))

    def forward(self, hidden: Tensor) -> Any:
        """(N, H) -> logits or values of N rows."""
        return self.head(hidden[:, self.part])


class MLPTanh(ActorCritic):
    """PPO's reference: separate networks of two tanh layers for actor and critic.

    ``encode_observations`` returns both, side by side, and each head takes its half. A memory
    between them sees both; without one, actor and critic share nothing.

    Args:
        env: has any spaces.
        hidden_size: width of both networks together, so an even number: 128 is 64 for each.
    """

    def __init__(self, env: Any, hidden_size: int = 128) -> None:
        if hidden_size < 2 or hidden_size % 2:
            raise BuildError(
                f"hidden_size={hidden_size} can't be shared by actor and critic in equal parts.",
                fix="Give an even number: 128 is 64 for each.",
            )
        spaces = spaces_of(env)
        half = hidden_size // 2
        super().__init__(
            TwinEncoder(spaces.observation, hidden_size),
            spaces,
            actor=HalfHead(make_head(spaces.action, half), slice(0, half)),
            critic=HalfHead(ValueHead(half), slice(half, hidden_size)),
        )


class MLPWide(ActorCritic):
    """RLlib's default: two tanh layers under both heads.

    Args:
        env: has any spaces.
        hidden_size: width of both layers.
    """

    def __init__(self, env: Any, hidden_size: int = 256) -> None:
        spaces = spaces_of(env)
        super().__init__(MLPEncoder(spaces.observation, (hidden_size, hidden_size)), spaces)
