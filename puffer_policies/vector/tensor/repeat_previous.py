"""`RepeatPrevious` of `envs.recall` on a device: cards to repeat from memory."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor

from puffer_policies.envs.recall import DECK, RANKS, SUITS, require_k
from puffer_policies.vector.tensor.base import Tensors, TorchVectorEnv


class TorchRepeatPrevious(TorchVectorEnv):
    """N decks, with the rules of `envs.recall.RepeatPrevious`: name the suit of the k-th last card.

    Cards are drawn as they are dealt, a suit by its share of those that are left, which gives decks
    the chances that shuffling does. To sort random numbers at every step, for rows that seldom
    restart, would cost many times more.

    Args:
        num_envs: N.
        k: 1 asks for the card in view, 4 for the one shown three steps before.
        device: where all tensors are.
        compiled: as in `TorchVectorEnv`.

    Raises:
        EnvError: no deck has so many cards, or there are no rows.
    """

    single_observation_space = spaces.Discrete(SUITS)
    single_action_space = spaces.Discrete(SUITS)
    num_draws: ClassVar[int] = 1

    def __init__(
        self,
        num_envs: int = 1,
        k: int = 4,
        *,
        device: torch.device | str = "cpu",
        compiled: bool = False,
    ) -> None:
        require_k(k)
        super().__init__(num_envs, device=device, compiled=compiled)
        self.k = k
        self._suits = torch.arange(SUITS, device=self.device)

    def begin(self, draws: Tensor) -> Tensors:
        """Return decks of which one card was dealt."""
        suit = (draws[:, 0] * SUITS).long()
        shown = torch.cat((suit.new_zeros(len(suit), self.k - 1), suit[:, None]), dim=1)  # (N, k)
        left = (RANKS - self._one_hot(suit)).float()
        return {"left": left, "shown": shown, "dealt": torch.ones_like(suit)}

    def advance(self, game: Tensors, actions: Tensor, draws: Tensor) -> tuple[Tensors, Tensor]:
        """Judge the answers (N,) and show the next card."""
        left, shown, dealt = game["left"], game["shown"], game["dealt"]
        pay = 1.0 / (DECK - self.k)
        rewards = torch.where(shown[:, 0] == actions, pay, -pay).masked_fill(dealt < self.k, 0.0)
        # The suit whose share of the cards that are left holds the drawn number. Rounding never
        # brings it up to their number; only a finished row, without any card, needs the limit.
        number = draws * (DECK - dealt)[:, None]  # (N, 1)
        suit = (left.cumsum(-1) <= number).sum(-1).clamp(max=SUITS - 1)
        following = {
            "left": left - self._one_hot(suit),
            "shown": torch.cat((shown[:, 1:], suit[:, None]), dim=1),
            "dealt": dealt + 1,
        }
        return following, rewards

    def over(self, game: Tensors) -> Tensor:
        """Return (N,) bool: the last card is in view."""
        return game["dealt"] == DECK

    def observe(self, game: Tensors) -> Any:
        """Return the suits in view, (N,) int64."""
        return game["shown"][:, -1]

    def _one_hot(self, suit: Tensor) -> Tensor:
        return (suit[:, None] == self._suits).long()  # (N, 4)
