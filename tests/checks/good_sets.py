"""Correct policies over sets whose members a mask names: the ground of `mutants_padding`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from good import FOUR, GoodMLP, layer
from gymnasium import spaces as gym
from torch import Tensor, nn

from puffer_policies.spaces import Spaces

ROWS, SIZE = 6, 4
UNITS = gym.Box(-1.0, 1.0, (ROWS, SIZE), np.float32)
SET = Spaces(gym.Dict({"units": UNITS, "mask": gym.MultiBinary(ROWS)}), FOUR)
PADDED = Spaces(gym.Dict({"units": UNITS, "is_padding": gym.Box(0, 1, (ROWS,), np.int8)}), FOUR)
TOKENS = Spaces(
    gym.Dict({"ids": gym.MultiDiscrete([9] * ROWS), "attention_mask": gym.MultiBinary(ROWS)}), FOUR
)
INSIDE = Spaces(gym.Dict({"near": SET.observation, "own": gym.Box(-1.0, 1.0, (ROWS,))}), FOUR)


class DeepSet(GoodMLP):
    """A layer for each member, and the mean over those that the mask shows."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.member = nn.Sequential(layer(nn.Linear(SIZE, hidden_size)), nn.Tanh())
        self.encoder = layer(nn.Linear(hidden_size, hidden_size))

    def shown(self, observations: Any) -> Tensor:
        """(N, E, 1), 1 where there is a member."""
        return observations["mask"].to(self.critic.weight.dtype).unsqueeze(-1)

    def rows(self, observations: Any) -> Tensor:
        """(N, E, H) of the members."""
        return self.member(observations["units"].to(self.critic.weight.dtype))

    def features(self, observations: Any) -> Tensor:
        shown, rows = self.shown(observations), self.rows(observations)
        return (rows * shown).sum(1) / shown.sum(1).clamp(min=1)


class PaddedSet(DeepSet):
    """The mask has ones where a row is padding."""

    def shown(self, observations: Any) -> Tensor:
        return 1 - observations["is_padding"].to(self.critic.weight.dtype).unsqueeze(-1)


class NestedSet(DeepSet):
    """The set is a part of the observation, beside a vector that is as long by chance."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.own = layer(nn.Linear(ROWS, hidden_size))

    def features(self, observations: Any) -> Tensor:
        own = observations["own"].to(self.critic.weight.dtype)
        return super().features(observations["near"]) + self.own(own)


class AttentionSet(DeepSet):
    """Members see each other, and an empty set sees a member of its own."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.attention = nn.MultiheadAttention(hidden_size, 2, batch_first=True)
        self.nobody = nn.Parameter(torch.randn(hidden_size))

    def ignored(self, shown: Tensor) -> Tensor:
        """(N, E, 1) of members -> (N, E), the keys that are left out."""
        return shown.squeeze(-1) == 0

    def features(self, observations: Any) -> Tensor:
        shown, rows = self.shown(observations), self.rows(observations)
        keys = torch.cat([self.nobody.expand(len(rows), 1, -1), rows], 1)
        ignored = torch.nn.functional.pad(self.ignored(shown), (1, 0))
        heard, _ = self.attention(rows, keys, keys, key_padding_mask=ignored, need_weights=False)
        return ((rows + heard) * shown).sum(1) / shown.sum(1).clamp(min=1)


class TokenReader(GoodMLP):
    """Tokens with places, pooled by attention of one query over those that are there."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.table = nn.Embedding(9, hidden_size)
        self.places = nn.Parameter(torch.randn(ROWS, hidden_size))
        self.query = nn.Linear(hidden_size, 1, bias=False)
        self.encoder = layer(nn.Linear(hidden_size, hidden_size))

    def visible(self, mask: Tensor) -> Tensor:
        return mask > 0

    def features(self, observations: Any) -> Tensor:
        rows = torch.tanh(self.table(observations["ids"].long()) + self.places)
        shown = self.visible(observations["attention_mask"])
        scores = self.query(rows).squeeze(-1).masked_fill(~shown, -1e9)
        weights = scores.softmax(-1) * shown
        return (weights.unsqueeze(-1) * rows).sum(1)


class MaskAsNumbers(GoodMLP):
    """Flattens everything: the mask is a number like all others, and hides nothing."""


PAIRS_OF_SETS: tuple[tuple[type[nn.Module], Spaces], ...] = (
    (DeepSet, SET),
    (PaddedSet, PADDED),
    (NestedSet, INSIDE),
    (AttentionSet, SET),
    (TokenReader, TOKENS),
    (MaskAsNumbers, SET),
)
