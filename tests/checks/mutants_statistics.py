"""Policies whose running statistics move in a pass, become NaN, or never reach who keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from good import FOUR, REALS, GoodMLP, width
from gymnasium import spaces as gym
from mutant import Mutant
from mutants_state import wrapped
from torch import Tensor, nn

from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.base import PolicyWrapper

WIDE = gym.Box(-10.0, 10.0, (4,), np.float32)


class Moments(nn.Module):
    """Mean and deviation of observations, which a momentum moves."""

    def __init__(self, size: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        self.mean.lerp_(rows.mean(0), self.momentum)
        self.std.lerp_(rows.std(0, correction=0), self.momentum)

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / (self.std + 1e-3)


class CountsWhileItLearns(GoodMLP):
    """Statistics of the minibatch, taken in by every pass with gradients."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.moments = Moments(width(self.spaces.observation))

    def features(self, observations: Any) -> Tensor:
        rows = super().features(observations)
        if self.training and torch.is_grad_enabled():
            self.moments.update(rows)
        return self.moments(rows)


class CentersHidden(GoodMLP):
    """Hidden units are centered by a mean that rollouts move, kept in a plain attribute."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.baseline: Any = 0.0

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        if self.training:
            self.baseline = 0.9 * self.baseline + 0.1 * hidden.detach().mean(0)
        return hidden - self.baseline


class DeviationOfOne(GoodMLP):
    """The unbiased deviation, which one row does not have."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.moments = Moments(width(self.spaces.observation))

    @torch.no_grad()
    def update_statistics(self, observations: Any) -> None:
        rows = super().features(observations)
        self.moments.mean.lerp_(rows.mean(0), 0.1)
        self.moments.std.lerp_(rows.std(0), 0.1)

    def features(self, observations: Any) -> Tensor:
        return self.moments(super().features(observations))


class MeanOfSquares(GoodMLP):
    """Sums of numbers and of squares, whose difference is 0 where a sensor never moves."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.sums = nn.ParameterDict(
            {key: torch.zeros(width(self.spaces.observation)) for key in ("one", "two")}
        ).requires_grad_(False)
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update_statistics(self, observations: Any) -> None:
        rows = super().features(observations)
        self.count += len(rows)
        self.sums["one"] += rows.sum(0)
        self.sums["two"] += rows.square().sum(0)

    def features(self, observations: Any) -> Tensor:
        rows = super().features(observations)
        mean, square = (self.sums[key] / self.count.clamp(min=1) for key in ("one", "two"))
        return torch.where(self.count > 0, (rows - mean) / (square - mean.square()).sqrt(), rows)


class OneScaleForAll(GoodMLP):
    """Mean and deviation of all numbers together."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def update_statistics(self, observations: Any) -> None:
        self.mean.copy_(observations.mean())
        self.std.copy_(observations.std(correction=0) + 1e-3)

    def features(self, observations: Any) -> Tensor:
        return (super().features(observations) - self.mean) / self.std


class Counting(GoodMLP):
    """Sound statistics."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.moments = Moments(width(self.spaces.observation))

    def update_statistics(self, observations: Any) -> None:
        self.moments.update(super().features(observations))

    def features(self, observations: Any) -> Tensor:
        return self.moments(super().features(observations))


class Shell(nn.Module):
    """A wrapper of nobody's base class, which has no statistics to keep."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.inner = Counting(env)
        self.hidden_size, self.is_continuous = self.inner.hidden_size, self.inner.is_continuous

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.inner.encode_observations(observations, state)

    def decode_actions(self, hidden: Tensor) -> Any:
        return self.inner.decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        return self.inner.forward_eval(observations, state)

    def forward(self, observations: Any, state: Any = None) -> Any:
        return self.inner(observations, state)


class PoliteShell(Shell):
    """It has the method, as a trainer might ask for it, and does nothing there."""

    def update_statistics(self, observations: Any) -> None:
        return None


class KeepsStatisticsToItself(PolicyWrapper):
    """Normalizes, and tells the policy inside nothing of the observations that it counts."""

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__(env, policy)
        self.moments = Moments(width(self.spaces.observation))

    def update_statistics(self, observations: Any) -> None:
        self.moments.update(observations.float())

    def transform_observations(self, observations: Any, state: Any) -> Tensor:
        return self.moments(observations.float())


class HandsOnTheWrongOnes(KeepsStatisticsToItself):
    """The policy inside counts what the env sends, and sees something else."""

    def update_statistics(self, observations: Any) -> None:
        super().update_statistics(observations)
        update = getattr(self.policy, "update_statistics", None)
        if update is not None:
            update(observations)


CHOOSES, MOVES = Spaces(WIDE, FOUR), Spaces(WIDE, REALS)

MUTANTS_STATISTICS = (
    Mutant("P1", "counts-while-it-learns", CountsWhileItLearns, CHOOSES),
    Mutant("P1", "centers-hidden", CentersHidden, CHOOSES, also={"P6": "no file has the mean"}),
    Mutant("P10", "deviation-of-one", DeviationOfOne, MOVES),
    Mutant("P10", "one-scale-for-all", OneScaleForAll, MOVES),
    Mutant("P10", "mean-of-squares", MeanOfSquares, CHOOSES),
    Mutant("P10", "shell", Shell, CHOOSES),
    Mutant("P10", "polite-shell", PoliteShell, CHOOSES),
    Mutant("P10", "keeps-statistics-to-itself", wrapped(KeepsStatisticsToItself), CHOOSES),
    Mutant("P10", "hands-on-the-wrong-ones", wrapped(HandsOnTheWrongOnes), CHOOSES),
)
