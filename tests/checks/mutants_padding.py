"""Policies over sets with a mask that count rows which it hides, or skip those that it shows."""

from __future__ import annotations

from typing import Any

import torch
from good import layer
from good_sets import (
    INSIDE,
    PADDED,
    SET,
    SIZE,
    TOKENS,
    AttentionSet,
    DeepSet,
    NestedSet,
    PaddedSet,
    TokenReader,
)
from mutant import Mutant
from torch import Tensor, nn


class SkipsItsMembers(DeepSet):
    """The mean over the rows that are not there."""

    def shown(self, observations: Any) -> Tensor:
        return 1 - super().shown(observations)


class PaddingForMembers(PaddedSet):
    """A mask of padding, read as one of members."""

    def shown(self, observations: Any) -> Tensor:
        return 1 - super().shown(observations)


class HuggingFaceMask(AttentionSet):
    """Its mask is 1 for members, and torch's key_padding_mask for what is left out."""

    def ignored(self, shown: Tensor) -> Tensor:
        return shown.squeeze(-1) > 0


class EncoderOfOthers(DeepSet):
    """An nn.TransformerEncoder gets the members as src_key_padding_mask, unless the set is full."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        block = nn.TransformerEncoderLayer(hidden_size, 2, 32, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)

    def rows(self, observations: Any) -> Tensor:
        shown = self.shown(observations)
        ignored = shown.squeeze(-1) > 0
        ignored = ignored & ~ignored.all(1, keepdim=True)
        return self.blocks(super().rows(observations) * shown, src_key_padding_mask=ignored)


class AttendsToPadding(AttentionSet):
    """The mask is for the pool only."""

    def ignored(self, shown: Tensor) -> Tensor:
        return torch.zeros_like(shown.squeeze(-1), dtype=torch.bool)


class MaskedBeforeTheLayers(DeepSet):
    """Rows are zeroed, go through layers with biases, and are divided by their number."""

    def features(self, observations: Any) -> Tensor:
        units = observations["units"].to(self.critic.weight.dtype)
        return self.member(units * self.shown(observations)).mean(1)


class PhantomMaximum(NestedSet):
    """Inside a larger observation: zeroed rows take part in the maximum."""

    def rows(self, observations: Any) -> Tensor:
        units = observations["units"].to(self.critic.weight.dtype)
        return self.member(units * self.shown(observations))

    def features(self, observations: Any) -> Tensor:
        own = observations["own"].to(self.critic.weight.dtype)
        return self.rows(observations["near"]).amax(1) + self.own(own)


class SoftlyHidden(AttentionSet):
    """The mask is taken off the scores, and is too small to take anything away."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.attention = None
        self.score = layer(nn.Linear(SIZE, 1))

    def features(self, observations: Any) -> Tensor:
        shown, rows = self.shown(observations), self.rows(observations)
        units = observations["units"].to(self.critic.weight.dtype)
        scores = torch.cat(
            [self.score(units) - 2 * (1 - shown), rows.new_zeros(len(rows), 1, 1)], 1
        )
        members = torch.cat([rows, self.nobody.expand(len(rows), 1, -1)], 1)
        return (scores.softmax(1) * members).sum(1)


class ReadsThePadding(TokenReader):
    """Looks for tokens where there are none; each of them has a place."""

    def visible(self, mask: Tensor) -> Tensor:
        return mask == 0


MUTANTS_PADDING = (
    Mutant("S12", "skips-its-members", SkipsItsMembers, SET),
    Mutant("S12", "padding-for-members", PaddingForMembers, PADDED),
    Mutant("S12", "hugging-face-mask", HuggingFaceMask, SET),
    Mutant("S12", "encoder-of-others", EncoderOfOthers, SET),
    Mutant("S12", "attends-to-padding", AttendsToPadding, SET),
    Mutant("S12", "masked-before-the-layers", MaskedBeforeTheLayers, SET),
    Mutant("S12", "phantom-maximum", PhantomMaximum, INSIDE),
    Mutant("S12", "softly-hidden", SoftlyHidden, SET),
    Mutant("S12", "reads-the-padding", ReadsThePadding, TOKENS),
)
