"""IMPALA's residual network, and Impoola, which averages where IMPALA flattens.

Espeholt et al. 2018, https://arxiv.org/abs/1802.01561 (the deep network of figure 3), with the
widths of Cobbe et al. 2019, https://arxiv.org/abs/1912.01588; Trumpp et al. 2025,
https://arxiv.org/abs/2503.05546. They differ from the papers in that the memory is left to a
wrapper, and that weights are orthogonal, with gain 1 inside the residual branches, so that
activations grow little through the six blocks.

`N` rows, `C` channels, `h` and `w` pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from puffer_policies.errors import BuildError
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.encoders import ImageEncoder
from puffer_policies.nn.images import ImageInput
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import require_kinds, spaces_of

CHANNELS = (16, 32, 32)
"""Channels of the three stages at width 1."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, beside the identity.

    With the ReLU in front, nothing but sums lies on the way of the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = layer_init(nn.Conv2d(channels, channels, 3, padding=1), 1.0)
        self.second = layer_init(nn.Conv2d(channels, channels, 3, padding=1), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        branch: Tensor = self.second(relu(self.first(relu(x))))
        return x + branch


class Stage(nn.Sequential):
    """A 3x3 convolution, a pooling that halves both sides (rounded up), two residual blocks."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(
            layer_init(nn.Conv2d(channels_in, channels, 3, padding=1)),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(channels),
            ResidualBlock(channels),
        )


class ImpalaEncoder(ImageEncoder):
    """Three stages over images of any size, then one Linear layer with ReLU.

    Args:
        space: a Box of three axes.
        hidden_size: width of the Linear layer.
        width: multiplies the channels of every stage.
        pooled: average each channel over all pixels before the Linear layer, as Impoola does.
        channels_last: the layout; the space's if None.
    """

    def __init__(
        self,
        space: Any,
        hidden_size: int,
        *,
        width: int = 1,
        pooled: bool = False,
        channels_last: bool | None = None,
    ) -> None:
        if width < 1:
            raise BuildError(f"width={width} leaves no channels.", fix="Published are 1, 2 and 4.")
        images = ImageInput(space, channels_last=channels_last)
        channels = [images.channels, *(width * each for each in CHANNELS)]
        stages = [Stage(before, after) for before, after in pairwise(channels)]
        # The Linear layer has most of the weights. With averaging its size is that of one pixel:
        # 106,192 weights instead of 1,089,232 for 84 x 84 x 4.
        pixels = 1 if pooled else math.prod(_pooled_size(side) for side in images.size)
        pooling = [nn.AdaptiveAvgPool2d(1)] if pooled else []
        network = nn.Sequential(*stages, nn.ReLU(), *pooling, nn.Flatten())
        flat_size = channels[-1] * pixels
        super().__init__(images, network, flat_size=flat_size, hidden_size=hidden_size)


def _pooled_size(side: int) -> int:
    """Return the pixels of a side after the stages, each of which halves it, rounded up."""
    return math.ceil(side / (1 << len(CHANNELS)))


class ImpalaResNet(ActorCritic):
    """IMPALA's deep network for images of any size.

    Args:
        env: has images as observations, (C, h, w) or (h, w, C).
        hidden_size: width of the layer under the heads.
        width: multiplies the channels; published are 1, 2 and 4.
        channels_last: the layout; inferred, and needed where the space does not show it.
    """

    pooled = False

    def __init__(
        self,
        env: Any,
        hidden_size: int = 256,
        width: int = 1,
        channels_last: bool | None = None,
    ) -> None:
        spaces = spaces_of(env)
        if channels_last is None:
            require_kinds(spaces, type(self).__name__, observations=("image",))
        encoder = ImpalaEncoder(
            spaces.observation,
            hidden_size,
            width=width,
            pooled=self.pooled,
            channels_last=channels_last,
        )
        super().__init__(encoder, spaces)


class Impoola(ImpalaResNet):
    """IMPALA's deep network with global average pooling; its arguments are `ImpalaResNet`'s."""

    pooled = True
