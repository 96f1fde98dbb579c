"""RSNorm: observations standardized by running statistics that do not change within an update.

Section 4.1 of Lee et al. 2024, https://arxiv.org/abs/2410.09754. It differs from the paper's in two
ways. New statistics wait for the end of an update, and standardized numbers are clipped to +-10, so
that a feature that was constant so far can't blow up at its first change.

`N` rows, `F` features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5
"""Added to the variance, as in layer norms: a constant feature is divided by 0.003, not by 0."""

CLIP = 10.0
"""Largest absolute value of a standardized number; VecNormalize clips at the same."""


class RunningNorm(nn.Module):
    """(N, F) -> (N, F): the distance from the mean in standard deviations of the training data.

    PPO compares the policy that acted with the policy that learns. Before the first optimizer step
    these must be the same, so an observation may not be normalized differently in the rollout and
    in the update. Therefore there are two sets of statistics: ``mean`` and ``var`` are used, while
    ``next_mean``, ``next_var`` and ``count`` are collected.

    - A pass that learns (train mode, gradients on) uses the first, and adds its rows to the second.
    - After an update, the second becomes the first: at the next pass in train mode without
      gradients, which is the first step of a rollout, or when the module switches to eval mode.
    - A pass in eval mode changes nothing.

    So every pass of one rollout and its update, in any number of epochs and minibatches, uses the
    same numbers. Before the end of the first update, they are 0 and 1. Both sets are in the
    checkpoint, so that a resumed run continues exactly.
    """

    mean: Tensor
    var: Tensor
    next_mean: Tensor
    next_var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for prefix in ("", "next_"):
            self.register_buffer(f"{prefix}mean", torch.zeros(size))
            self.register_buffer(f"{prefix}var", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) of any floating dtype -> (N, F) in the dtype of the statistics."""
        features = features.to(self.mean.dtype)
        if self.training:
            if torch.is_grad_enabled():
                self._collect(features)
            else:
                self._settle()
        scale = (self.var + EPSILON).rsqrt()
        return ((features - self.mean) * scale).clamp(-CLIP, CLIP)

    def train(self, mode: bool = True) -> RunningNorm:
        """Set train or eval mode; leaving train mode ends an update."""
        if self.training and not mode:
            self._settle()
        return super().train(mode)

    @torch.no_grad()
    def _collect(self, features: Tensor) -> None:
        """Merge the rows into the next statistics: Chan, Golub and LeVeque 1979.

        Without a difference of large sums, float32 suffices.
        """
        rows = len(features)
        var, mean = torch.var_mean(features, 0, correction=0)
        share = rows / (self.count + rows).to(features.dtype)
        gap = mean - self.next_mean
        spread = gap.square() * (share * (1 - share))
        # The first batch has share 1, so that the initial 0 and 1 count for nothing.
        self.next_var.lerp_(var, share).add_(spread)
        self.next_mean.add_(gap * share)
        self.count.add_(rows)

    @torch.no_grad()
    def _settle(self) -> None:
        """Start to use the statistics collected so far."""
        self.mean.copy_(self.next_mean)
        self.var.copy_(self.next_var)
