"""RSNorm: observations standardised by running statistics that stand still within an update.

Section 4.1 of Lee et al. 2024, https://arxiv.org/abs/2410.09754. It differs from the paper's in
this: statistics wait for the end of an update, and standardised numbers are clipped to +-10, so
that a feature that was constant so far can't blow up at its first change.

`N` rows, `F` features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5
CLIP = 10.0


class RunningNorm(nn.Module):
    """(N, F) -> (N, F), less the mean, over the standard deviation, of what was learnt from.

    PPO compares the policy that acted with the policy that learns: before the first optimiser step
    both must be one, so nothing may normalise the same observation differently in the rollout and
    in the update. Therefore two sets of statistics are kept. One is used, ``mean`` and ``var``;
    the other gathers, ``next_mean``, ``next_var`` and ``count``.

    - A pass that learns (train mode, gradients on) uses the first, and adds its rows to the second.
    - When learning is over, the second becomes the first: at the next pass in train mode without
      gradients, the first step of a rollout, or when the module is switched to eval mode.
    - A pass in eval mode changes nothing.

    So every pass of one rollout and its update, in any number of epochs and minibatches, uses the
    same numbers. Until the first update is over, they are 0 and 1. Both sets are in the checkpoint:
    a run goes on exactly as if it had not been stopped.
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
                self._gather(features)
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
    def _gather(self, features: Tensor) -> None:
        """Merge the rows into the gathering statistics: Chan, Golub and LeVeque 1979."""
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
        """Use what was gathered."""
        self.mean.copy_(self.next_mean)
        self.var.copy_(self.next_var)
