"""The small dense policies of PufferLib 3.0 and of its guide, for vectors and any flattened space.

https://puffer.ai/docs.html and pufferlib/models.py. They differ from the originals in that they
serve every observation space of `nn.features` and every action space of `nn.heads`, unless their
name says otherwise, and that the log standard deviation is clamped.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import LinearEncoder, MLPEncoder
from puffer_policies.nn.heads import GaussianHead, StateGaussianHead
from puffer_policies.spaces import action_layout, require_kinds, spaces_of


class Default(ActorCritic):
    """One Linear layer with GELU under both heads: PufferLib's default.

    Args:
        env: has any spaces.
        hidden_size: width of a layer.
        num_layers: hidden layers; some tasks, such as LunarLander, want two.
    """

    def __init__(self, env: Any, hidden_size: int = 128, *, num_layers: int = 1) -> None:
        spaces = spaces_of(env)
        encoder = LinearEncoder(spaces.observation, hidden_size, num_layers=num_layers)
        super().__init__(encoder, spaces)


class Structured(ActorCritic):
    """The guide's example of an encode/decode policy: as `Default`, twice as wide."""

    def __init__(self, env: Any, hidden_size: int = 256) -> None:
        spaces = spaces_of(env)
        super().__init__(LinearEncoder(spaces.observation, hidden_size), spaces)


class Continuous(ActorCritic):
    """The guide's policy for Box actions: two Linear layers with Tanh.

    Args:
        env: has a Box of floats as action space.
        hidden_size: width of both layers.
        state_dependent_std: whether the deviation depends on the hidden features, too, instead of
            being one learned number for each dimension.
    """

    def __init__(
        self, env: Any, hidden_size: int = 256, *, state_dependent_std: bool = False
    ) -> None:
        spaces = spaces_of(env)
        require_kinds(spaces, "Continuous", actions=("box",))
        encoder = MLPEncoder(spaces.observation, (hidden_size, hidden_size), activation=nn.Tanh)
        head = StateGaussianHead if state_dependent_std else GaussianHead
        actor = head(action_layout(spaces.action), hidden_size)
        super().__init__(encoder, spaces, actor=actor)


class MultiDiscrete(ActorCritic):
    """The guide's policy for several choices at once: one Linear layer with GELU."""

    def __init__(self, env: Any, hidden_size: int = 256) -> None:
        spaces = spaces_of(env)
        require_kinds(spaces, "MultiDiscrete", actions=("multidiscrete",))
        super().__init__(LinearEncoder(spaces.observation, hidden_size), spaces)
