"""Policies that keep every promise of a single pass and don't learn: plain, and in disguise."""

from __future__ import annotations

from typing import Any

import torch
from good import CONTINUOUS, SEVERAL, GoodLSTM, GoodMLP
from mutant import Mutant
from torch import Tensor, nn


class WhisperedGradient(GoodMLP):
    """The encoder has a gradient, too small for any optimiser to act on."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return hidden.detach() + 1e-24 * (hidden - hidden.detach())


class OldCritic(GoodLSTM):
    """The critic looks at hidden units through a layer that is not trained with it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.bridge = nn.Linear(self.hidden_size, self.hidden_size)

    def value(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            bridged = self.bridge(hidden)
        return self.critic(bridged)


class ShyActor(GoodMLP):
    """Logits are bounded so near to 0 that no preference can show."""

    def logits(self, hidden: Tensor) -> Any:
        return 0.06 * torch.tanh(super().logits(hidden))


class StandardizedLogits(GoodLSTM):
    """Logits are divided by their deviation, so that entropy is the same for ever."""

    def logits(self, hidden: Tensor) -> Any:
        parts = super().logits(hidden)
        return tuple(0.1 * each / (each.std(-1, keepdim=True) + 0.01) for each in parts)


class ScaledThrice(GoodMLP):
    """Observations are divided by 255 again and again until they are all the same."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) / 255.0**3


class Averaged(GoodMLP):
    """Squashes what it sees around the middle of a huge range."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features(observations).to(self.critic.weight.dtype)
        return torch.tanh(self.encoder(torch.tanh(features * 1e-6)))


class ShortSighted(GoodLSTM):
    """Remembers the step before, and nothing of what that step remembered."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, _ = super().advance(hidden, c, torch.zeros_like(c))
        return h, hidden


class Forgetful(GoodLSTM):
    """What it remembers fades by a thousand at every step."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return super().advance(hidden, h * 1e-3, c * 1e-3)


SQUEEZED = {"N7": "logits that are bounded never reach a probability of 90 %"}

MUTANTS_LEARNING = (
    Mutant("T1", "whispered-gradient", WhisperedGradient, CONTINUOUS),
    Mutant("T1", "old-critic", OldCritic, also={"N6": "a layer without a gradient does not move"}),
    Mutant("T2", "shy-actor", ShyActor, also=SQUEEZED),
    Mutant("T2", "standardized-logits", StandardizedLogits, SEVERAL, also=SQUEEZED),
    Mutant("T3", "scaled-thrice", ScaledThrice),
    Mutant("T3", "averaged", Averaged, CONTINUOUS, also={"S11": "the mean of all numbers is left"}),
    Mutant("T4", "short-sighted", ShortSighted),
    Mutant("T4", "forgetful", Forgetful),
)
