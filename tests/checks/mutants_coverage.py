"""Policies that leave a part of an observation unread, or take one number for another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from good import DICT, FOUR, IMAGE, IMAGE_HWC, GoodLSTM, GoodMLP, flat, layer
from good_policies import ConvPolicy, EmbeddingPolicy, KeyedPolicy
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor, nn

from puffer_policies.spaces import Spaces, spaces_of

HALF = gym.Box(-1.0, 1.0, (3,), np.float32)
TWINS = Spaces(gym.Dict({"left": HALF, "right": HALF}), FOUR)


class LastNumberDropped(GoodMLP):
    """A slice that is off by one."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) * (torch.arange(4) < 3)


class HashedCodes(EmbeddingPolicy):
    """A table with half of the rows, as a hash into a table that is large enough has."""

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.reshape(-1).long() % 4)


class ThroughHalf(EmbeddingPolicy):
    """Codes go through float16, which knows every second number above 2048."""

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.reshape(-1).half().long().clamp(max=2999))


class OneEncoderForTwo(KeyedPolicy):
    """Parts of one shape share a layer, and are summed up."""

    def features(self, observations: Any) -> Tensor:
        shared, dtype = self.by_key["left"], self.critic.weight.dtype
        total = shared(observations["left"].to(dtype)) + shared(observations["right"].to(dtype))
        return torch.relu(torch.cat([total, total], -1))


class KeyForgotten(KeyedPolicy):
    """A module for every key, and a concatenation that lists them by hand."""

    def features(self, observations: Any) -> Tensor:
        inside = flat(self.spaces.observation["inside"], observations["inside"])
        hidden = self.by_key["inside"](inside.to(self.critic.weight.dtype))
        return torch.relu(torch.cat([hidden, hidden], -1))


class LastFrameOnly(ConvPolicy):
    """Of stacked frames it convolves the last, as a colleague's env had one."""

    def features(self, observations: Any) -> Tensor:
        last = observations[:, -1:].expand_as(observations)
        return super().features(last)


class LastCodeClamped(EmbeddingPolicy):
    """Codes begin at 1, and the table is looked up with a clamp that hides it."""

    def features(self, observations: Any) -> Tensor:
        space = self.spaces.observation
        codes = (observations.reshape(len(observations)).long() - int(space.start) + 1).clamp(
            max=int(space.n) - 1
        )
        return self.table(codes)


class ScaledByItsBounds(GoodLSTM):
    """Brings each number to 0..1 by the bounds of the space, infinite ones too."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        space = self.spaces.observation
        self.register_buffer("reach", torch.as_tensor(np.abs([space.low, space.high]).max(0)))

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) / self.reach


class Glimpse(ConvPolicy):
    """A crop to the middle that was meant for a larger image."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations[..., 4:, :])


class OneTableForAll(GoodMLP):
    """Codes of all numbers look up one table, each from a multiple of the first number's size."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        sizes = self.spaces.observation.nvec
        self.register_buffer("offsets", torch.arange(len(sizes)) * int(sizes[0]))
        self.table = nn.EmbeddingBag(int(sizes.sum()), self.hidden_size, mode="sum")
        self.encoder = layer(nn.Linear(self.hidden_size, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.long() + self.offsets)


class MixedRadix(EmbeddingPolicy):
    """Two keys make one code, by a radix that is too small."""

    def __init__(self, env: Any) -> None:
        super().__init__(Spaces(gym.Discrete(12), spaces_of(env).action))
        self.spaces = spaces_of(env)

    def features(self, observations: Any) -> Tensor:
        row, column = (observations[key].reshape(-1).long() for key in ("row", "column"))
        return self.table(row * 2 + column)


class Rectified(GoodMLP):
    """An activation before the first layer."""

    def features(self, observations: Any) -> Tensor:
        return torch.relu(super().features(observations))


class Distances(KeyedPolicy):
    """The size of each number, where its direction counts as well."""

    def features(self, observations: Any) -> Tensor:
        return super().features({**observations, "where": observations["where"].abs()})


class PooledFeatures(GoodMLP):
    """A mean over the last axis, which was that of tokens in another model."""

    def features(self, observations: Any) -> Tensor:
        rows = super().features(observations)
        return rows.mean(-1, keepdim=True).expand_as(rows)


class ThroughBytes(EmbeddingPolicy):
    """Codes go through uint8, in which 256 is 0."""

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.reshape(-1).to(torch.uint8).long())


class BagOfCodes(GoodMLP):
    """One table for the slots of a hand, summed up: which slot held what is lost."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        sizes = self.spaces.observation.nvec
        self.table = nn.EmbeddingBag(int(sizes.max()), self.hidden_size, mode="sum")
        self.encoder = layer(nn.Linear(self.hidden_size, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.long())


class CountedBits(GoodMLP):
    """How many switches are on, instead of which."""

    def features(self, observations: Any) -> Tensor:
        bits = super().features(observations)
        return bits.sum(1, keepdim=True).expand_as(bits)


class TokensWithoutPlaces(GoodMLP):
    """Attention among codes, then a mean, and no vector for their places."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.table = nn.Embedding(int(self.spaces.observation.nvec.max()), 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.encoder = layer(nn.Linear(16, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        tokens = self.table(observations.long())
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


class GrayByHeight(GoodMLP):
    """A mean over axis 1, which is that of channels elsewhere."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        _, columns, channels = self.spaces.observation.shape
        self.encoder = layer(nn.Linear(columns * channels, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        return (observations.float() / 255).mean(1).flatten(1)


class PatchesWithoutPlaces(ConvPolicy):
    """Each patch by itself, then the mean of all: a transformer without its positions."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.conv = nn.Sequential(layer(nn.Conv2d(3, 32, 2, stride=2)), nn.Tanh())

    def features(self, observations: Any) -> Tensor:
        return super().features(observations).mean((2, 3))


HAND = Spaces(gym.MultiDiscrete([6, 6, 6]), FOUR)
SWITCHES = Spaces(gym.MultiBinary(5), FOUR)

CODES = Spaces(gym.MultiDiscrete([3, 5, 2]), FOUR)
PLACES = Spaces(gym.Dict({"row": gym.Discrete(3), "column": gym.Discrete(4)}), FOUR)
NUMBERED = Spaces(gym.Discrete(6, start=-1), FOUR)

MUTANTS_COVERAGE = (
    Mutant("S11", "last-number-dropped", LastNumberDropped),
    Mutant("S11", "key-forgotten", KeyForgotten, DICT, also={"N6": "its layer gets no gradient"}),
    Mutant("S11", "last-frame-only", LastFrameOnly, IMAGE),
    Mutant("S11", "hashed-codes", HashedCodes, Spaces(gym.Discrete(8), FOUR)),
    Mutant("S11", "through-half", ThroughHalf, Spaces(gym.Discrete(3000), FOUR)),
    Mutant("S11", "one-encoder-for-two", OneEncoderForTwo, TWINS, also={"N6": "one is left over"}),
    Mutant("S11", "through-bytes", ThroughBytes, Spaces(gym.Discrete(600), FOUR)),
    Mutant("S11", "bag-of-codes", BagOfCodes, HAND),
    Mutant("S11", "counted-bits", CountedBits, SWITCHES),
    Mutant("S11", "tokens-without-places", TokensWithoutPlaces, HAND),
    Mutant("S11", "gray-by-height", GrayByHeight, IMAGE_HWC),
    Mutant("S11", "patches-without-places", PatchesWithoutPlaces, IMAGE),
    Mutant("S11", "last-code-clamped", LastCodeClamped, NUMBERED),
    Mutant("S11", "scaled-by-its-bounds", ScaledByItsBounds),
    Mutant("S11", "glimpse", Glimpse, IMAGE),
    Mutant("S11", "one-table-for-all", OneTableForAll, CODES),
    Mutant("S11", "mixed-radix", MixedRadix, PLACES),
    Mutant("S11", "rectified", Rectified),
    Mutant("S11", "distances", Distances, DICT),
    Mutant("S11", "pooled-features", PooledFeatures),
)
