"""The convolutional policy for images: NatureCNN under both heads, as PufferLib 3.0 has it.

Mnih et al. 2015, https://www.nature.com/articles/nature14236; pufferlib/models.py. It differs from
PufferLib's in that layout and sizes are read from the space, and arguments are compared with it.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import ConvEncoder, require_equal
from puffer_policies.spaces import require_kinds, spaces_of


class Convolutional(ActorCritic):
    """NatureCNN for images of 36 x 36 pixels or more.

    Args:
        env: has a Box of three axes as observation space, (C, h, w) or (h, w, C).
        framestack: number of channels; inferred, and checked if given.
        flat_size: features after the convolutions; inferred, and checked if given.
        hidden_size: width of the layer under the heads.
        channels_last: the layout; inferred, and needed where the space does not show it.
    """

    def __init__(
        self,
        env: Any,
        framestack: int | None = None,
        flat_size: int | None = None,
        hidden_size: int = 512,
        channels_last: bool | None = None,
    ) -> None:
        spaces = spaces_of(env)
        if channels_last is None or len(spaces.observation.shape or ()) != 3:
            require_kinds(spaces, "Convolutional", observations=("image",))
        encoder = ConvEncoder(spaces.observation, hidden_size, channels_last=channels_last)
        require_equal("framestack", argument=framestack, inferred=encoder.channels)
        require_equal("flat_size", argument=flat_size, inferred=encoder.flat_size)
        super().__init__(encoder, spaces)
