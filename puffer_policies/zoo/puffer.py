"""The default policy of PufferLib 5, whose trainer runs without Python; the two share its weights.

https://github.com/PufferAI/PufferLib, src/algo.cu. It differs from the original in its first
weights, which are orthogonal with a small gain for the actor instead of uniform, in that the log
standard deviation is clamped, and in that it serves every observation space of `nn.features`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.cores.mingru import MinGRUCore
from puffer_policies.nn.encoders import MLPEncoder
from puffer_policies.nn.heads import ValueHead, make_linear_head
from puffer_policies.spaces import action_layout, spaces_of
from puffer_policies.wrappers.base import RecurrentPass


class PufferNet(RecurrentPass, ActorCritic):
    """A linear encoder, MinGRU layers with highways and linear heads: PufferLib 5's default.

    No layer has a bias, so that ``puffer_policies.export`` can write and read PufferLib 5's file of
    weights. Its memory is its own; no other goes around it.

    Args:
        env: has any spaces.
        hidden_size: width of the encoder and of each layer of the memory.
        num_layers: layers of the memory.
    """

    def __init__(self, env: Any, hidden_size: int = 128, *, num_layers: int = 4) -> None:
        spaces = spaces_of(env)
        super().__init__(
            MLPEncoder(spaces.observation, (hidden_size,), activation=nn.Identity, bias=False),
            spaces,
            actor=make_linear_head(action_layout(spaces.action), hidden_size, bias=False),
            critic=ValueHead(hidden_size, bias=False),
        )
        self.num_layers = num_layers
        self.core = MinGRUCore(hidden_size, hidden_size, num_layers=num_layers, highway=True)
