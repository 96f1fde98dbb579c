"""Policies that do not run, or return what nobody can judge: plainly, and in other styles."""

from __future__ import annotations

import sys
from typing import Any

import torch
from good import IMAGE_HWC, SEVERAL, GoodLSTM, GoodMLP, layer
from mutant import Mutant
from torch import Tensor, nn
from torch.distributions import Categorical


class ThreeOutputs(GoodMLP):
    """Hands out its features, too."""

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        hidden = self.encode_observations(observations, state)
        return (*self.decode_actions(hidden), hidden)


class ReturnsDistribution(GoodMLP):
    """A Categorical instead of its logits, as many tutorials have it."""

    def logits(self, hidden: Tensor) -> Any:
        return Categorical(logits=super().logits(hidden))


class PicksTheAction(GoodMLP):
    """The likeliest option, as whole numbers, where logits belong."""

    def logits(self, hidden: Tensor) -> Any:
        return super().logits(hidden).argmax(-1, keepdim=True)


class ForgetsToReturn(GoodLSTM):
    """A step that computes everything and returns nothing."""

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        super().forward_eval(observations, state)


class FailsOnSequences(GoodLSTM):
    """A name that is misspelled in the pass of training alone."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        return logits, values * self.value_scale


class ChannelsFirst(nn.Module):
    """A convolution for (C, H, W), given (H, W, C): another author's way to write a policy."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        channels = env.single_observation_space.shape[-1]
        self.network = nn.Sequential(
            layer(nn.Conv2d(channels, 8, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.linear = layer(nn.Linear(8, hidden_size))
        self.actor = layer(nn.Linear(hidden_size, int(env.single_action_space.n)), 0.01)
        self.critic = layer(nn.Linear(hidden_size, 1), 1.0)

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        return torch.relu(self.linear(self.network(observations.float() / 255.0)))

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(hidden), self.critic(hidden)

    def forward_eval(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward_eval(observations, state)


class GivesUp(GoodMLP):
    """Ends the process of its user."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        if state is not None:
            sys.exit("this policy has no use for a state")
        return super().encode_observations(observations)


MUTANTS_PASSES = (
    Mutant("B9", "three-outputs", ThreeOutputs),
    Mutant("B9", "returns-distribution", ReturnsDistribution),
    Mutant("B9", "picks-the-action", PicksTheAction),
    Mutant("B9", "forgets-to-return", ForgetsToReturn, SEVERAL),
    Mutant("B9", "fails-on-sequences", FailsOnSequences),
    Mutant("B9", "channels-first", ChannelsFirst, IMAGE_HWC),
    Mutant("B9", "gives-up", GivesUp),
)
