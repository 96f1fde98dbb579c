"""Critics that learn values otherwise than by squared error, for any policy.

Each wrapper puts a head of `puffer_policies.nn.value_heads` in the place of the wrapped policy's
value layer. Values stay numbers (N, 1) to all callers; our trainer takes the head's own loss.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from puffer_policies.nn.value_heads import (
    HLGaussHead,
    PopArtHead,
    Spacing,
    TwoHotHead,
    exchange_value_layer,
)
from puffer_policies.wrappers.base import PolicyWrapper


class HLGaussWrapper(PolicyWrapper):
    """A policy whose critic classifies returns, with Gaussian targets over bins.

    Farebrother et al. 2024, https://arxiv.org/abs/2403.03950. The paper's bins are linear in a
    range that is known beforehand. Here they are fine around 0 and reach far by default, so that no
    range has to be known, and a bin stands for a place beside its middle, so that the mean of a
    target is its return. See `HLGaussHead`.

    Args:
        env: the env of the policy.
        policy: ends its critic in an ``nn.Linear(..., 1)``.
        bins: number of bins.
        low: the lowest value; returns below it are taken for it.
        high: the highest value.
        spacing: ``"symlog"`` for bins that are equally far apart in sign(x) log(1 + |x|), or
            ``"linear"``.
        smoothing: standard deviation of a target, 0.5 to 1 widths of a bin.

    Raises:
        BuildError: there is no such layer, or the bins can't be made.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        *,
        bins: int = 101,
        low: float = -1e4,
        high: float = 1e4,
        spacing: Spacing = "symlog",
        smoothing: float = 0.75,
    ) -> None:
        super().__init__(env, policy)
        exchange_value_layer(
            policy,
            lambda layer: HLGaussHead(
                layer, bins=bins, low=low, high=high, spacing=spacing, smoothing=smoothing
            ),
        )


class TwoHotWrapper(PolicyWrapper):
    """A policy whose critic classifies returns, with the two nearest bins as the target.

    The critic of DreamerV3, Hafner et al. 2023, https://arxiv.org/abs/2301.04104; see `TwoHotHead`.
    The paper has 255 bins from -20 to 20 in symlog; its first weights are 0, where these give the
    values of the layer that was there. Arguments and errors are those of `HLGaussWrapper`, without
    `smoothing`.
    """

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        *,
        bins: int = 101,
        low: float = -1e4,
        high: float = 1e4,
        spacing: Spacing = "symlog",
    ) -> None:
        super().__init__(env, policy)
        exchange_value_layer(
            policy,
            lambda layer: TwoHotHead(layer, bins=bins, low=low, high=high, spacing=spacing),
        )


class PopArtWrapper(PolicyWrapper):
    """A policy whose critic learns returns in units of their running mean and deviation.

    Van Hasselt et al. 2016, https://arxiv.org/abs/1602.07714; see `PopArtHead`. The statistics are
    buffers of the policy. Our trainer moves them once in an update, by the returns of all
    processes; under another trainer they stay at 0 and 1, and the critic is an ordinary one.

    Args:
        env: the env of the policy.
        policy: ends its critic in an ``nn.Linear(..., 1)``.
        rate: share of a new batch in the statistics.
        min_deviation: the smallest deviation that returns are divided by.

    Raises:
        BuildError: there is no such layer, or an argument is out of its range.
    """

    def __init__(
        self, env: Any, policy: nn.Module, *, rate: float = 0.1, min_deviation: float = 1e-4
    ) -> None:
        super().__init__(env, policy)
        exchange_value_layer(
            policy, lambda layer: PopArtHead(layer, rate=rate, min_deviation=min_deviation)
        )
