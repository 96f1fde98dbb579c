"""Policies that read the last action and reward where, when or as they must not."""

from __future__ import annotations

from typing import Any

import torch
from good import CONTINUOUS, FOUR, VECTOR, GoodLSTM, GoodMLP, layer
from mutant import Mutant
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.spaces import Spaces


class ReadsPrevious(GoodMLP):
    """A vector beside the last action and reward, which are 0 where an episode starts."""

    needs_previous = True

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        layout = self.actor.layout
        self.actions = layout.nvec[0] if layout.nvec else layout.shape[0]
        self.encoder = layer(nn.Linear(4 + self.actions + 1, hidden_size))

    def previous(self, state: Any, rows: int) -> Tensor:
        """(N, actions + 1): what the state holds, or zeros."""
        state = {} if state is None else state
        action, reward = state.get("prev_action"), state.get("prev_reward")
        if action is None or reward is None:
            return self.critic.weight.new_zeros(rows, self.actions + 1)
        both = [self.numbers(action, rows), reward.reshape(rows, 1)]
        return self.forget(torch.cat(both, -1).to(self.critic.weight.dtype), state)

    def numbers(self, action: Tensor, rows: int) -> Tensor:
        """The last action as (N, actions)."""
        if self.actor.layout.nvec:
            action = functional.one_hot(action.reshape(rows).long(), self.actions)
        return action.reshape(rows, -1)

    def forget(self, previous: Tensor, state: Any) -> Tensor:
        starts = state.get("episode_start")
        if starts is None:
            return previous
        return previous.masked_fill(starts.reshape(len(previous), 1).bool(), 0.0)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features(observations).to(self.critic.weight.dtype)
        previous = self.previous(state, len(features))
        return torch.tanh(self.encoder(torch.cat([features, previous], -1)))


class KeepsPreviousAtStarts(ReadsPrevious):
    def forget(self, previous: Tensor, state: Any) -> Tensor:
        return previous


class RemembersTheFinalReward(ReadsPrevious, GoodLSTM):
    """Takes the action away where an episode starts, and leaves the reward to the memory."""

    def forget(self, previous: Tensor, state: Any) -> Tensor:
        forgotten = super().forget(previous, state)
        return torch.cat([forgotten[:, :-1], previous[:, -1:]], -1)


class RewardUnread(ReadsPrevious):
    """A reward scaled to nothing."""

    def previous(self, state: Any, rows: int) -> Tensor:
        previous = super().previous(state, rows)
        return torch.cat([previous[:, :-1], 0 * previous[:, -1:]], -1)


class LaterOptionsAlike(ReadsPrevious):
    """The number of an option, clipped like a real action."""

    def previous(self, state: Any, rows: int) -> Tensor:
        previous = super().previous(state, rows)
        is_later = previous[:, 1:-1].sum(-1, keepdim=True).expand(rows, self.actions - 1)
        return torch.cat([previous[:, :1], is_later, previous[:, -1:]], -1)


class AsksForNothing(ReadsPrevious):
    """Reads them, but no trainer knows that it wants them."""

    needs_previous = False


MUTANTS_PREVIOUS = (
    Mutant("R13", "keeps-previous-at-starts", KeepsPreviousAtStarts, CONTINUOUS),
    Mutant("R13", "remembers-the-final-reward", RemembersTheFinalReward),
    Mutant("R13", "reward-unread", RewardUnread, Spaces(VECTOR, FOUR)),
    Mutant("R13", "later-options-alike", LaterOptionsAlike),
    Mutant("R13", "asks-for-nothing", AsksForNothing),
)
