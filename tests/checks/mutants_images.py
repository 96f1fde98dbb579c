"""Policies that read images (S9) or dicts (S10) wrongly: plainly, and in another author's style."""

from __future__ import annotations

from typing import Any

import torch
from good import DICT, IMAGE, IMAGE_HWC, flat, layer
from good_styles import ConvPolicy, KeyedPolicy
from mutant import Mutant
from torch import Tensor, nn

# -- S9 --------------------------------------------------------------------------------------------


class Unscaled(ConvPolicy):
    """Pixels of 0..255 enter the convolution."""

    def features(self, observations: Any) -> Tensor:
        pixels = observations.movedim(-1, 1) if self.last else observations
        return self.conv(pixels.float())


class ScaledTwice(ConvPolicy):
    """By the features, and by the encoder of another author."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations / 255.0)


class Reshapes(ConvPolicy):
    """reshape where permute was meant: the sizes are right, the colours mixed."""

    def features(self, observations: Any) -> Tensor:
        height, width, channels = self.spaces.observation.shape
        pixels = observations.reshape(-1, channels, height, width)
        return self.conv(pixels.float() / 255.0)


class HeightAsChannels(ConvPolicy):
    """(h, w, C) fed to a convolution as it is."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.conv[0] = layer(nn.Conv2d(self.spaces.observation.shape[0], 8, 3, padding=1))

    def features(self, observations: Any) -> Tensor:
        return self.conv(observations.float() / 255.0)


class TinyImages(ConvPolicy):
    """Built for any size, and fails inside a convolution."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.conv[2] = layer(nn.Conv2d(8, 8, 4))


# -- S10 -------------------------------------------------------------------------------------------


class InsertionOrder(KeyedPolicy):
    """Concatenates in the order of the observation at hand."""

    def features(self, observations: Any) -> Tensor:
        members = self.spaces.observation.spaces
        parts = [self.by_key[key](flat(members[key], each)) for key, each in observations.items()]
        return torch.relu(torch.cat(parts, -1))


class SpaceOrder(KeyedPolicy):
    """Concatenates in the order of the space that it was built for."""

    def features(self, observations: Any) -> Tensor:
        members = self.spaces.observation.spaces
        parts = [self.by_key[key](flat(members[key], observations[key])) for key in members]
        return torch.relu(torch.cat(parts, -1))


MUTANTS_IMAGES = (
    Mutant("S9", "unscaled", Unscaled, IMAGE),
    Mutant("S9", "scaled-twice", ScaledTwice, IMAGE_HWC),
    Mutant("S9", "reshapes", Reshapes, IMAGE_HWC),
    Mutant("S9", "height-as-channels", HeightAsChannels, IMAGE_HWC),
    Mutant("S9", "tiny-images", TinyImages, IMAGE),
    Mutant("S10", "insertion-order", InsertionOrder, DICT),
    Mutant("S10", "space-order", SpaceOrder, DICT),
)
