"""Small convolutional policies: IMPALA's shallow network, and MinAtar's for its 10x10 grids.

Espeholt et al. 2018, https://arxiv.org/abs/1802.01561 (the shallow network of figure 3); Young and
Tian 2019, https://arxiv.org/abs/1903.03176. They differ from the papers in three ways: the
memory is left to a wrapper, weights are orthogonal with gain sqrt(2), and MinAtar's network has
ReLU, where its authors' actor-critic has SiLU and dSiLU.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import ConvEncoder, ConvLayer
from puffer_policies.spaces import require_kinds, spaces_of

IMPALA_SMALL = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2))
"""Also the network of Mnih et al. 2013, the first DQN."""

MINATAR = (ConvLayer(16, 3, 1),)
"""One layer is enough where each kind of object has a channel and each pixel is a cell."""


class ImpalaSmall(ActorCritic):
    """IMPALA's shallow network for images of 20 x 20 pixels or more.

    Args:
        env: has images as observations, (C, h, w) or (h, w, C).
        hidden_size: width of the layer under the heads.
        channels_last: the layout; inferred, and needed where the space does not show it.
    """

    def __init__(self, env: Any, hidden_size: int = 256, channels_last: bool | None = None) -> None:
        spaces = spaces_of(env)
        if channels_last is None:
            require_kinds(spaces, "ImpalaSmall", observations=("image",))
        encoder = ConvEncoder(
            spaces.observation, hidden_size, channels_last=channels_last, layers=IMPALA_SMALL
        )
        super().__init__(encoder, spaces)


class MinAtarCNN(ActorCritic):
    """MinAtar's network for grids of 3 x 3 cells or more, with a channel for each kind of object.

    Args:
        env: has grids as observations, (h, w, C) in MinAtar, or (C, h, w); bools and numbers alike.
        hidden_size: width of the layer under the heads.
        channels_last: the layout; inferred, and needed where the space does not show it: Seaquest's
            is 10 x 10 x 10.
    """

    def __init__(self, env: Any, hidden_size: int = 128, channels_last: bool | None = None) -> None:
        spaces = spaces_of(env)
        if channels_last is None:
            require_kinds(spaces, "MinAtarCNN", observations=("image",))
        encoder = ConvEncoder(
            spaces.observation, hidden_size, channels_last=channels_last, layers=MINATAR
        )
        super().__init__(encoder, spaces)
