"""Games that can't be played without memory: cards to repeat, and a cue behind masked actions.

`RepeatPrevious` and `RepeatFirst` have the rules of popgym's RepeatPreviousEasy and RepeatFirstEasy
(Morad et al. 2023, arXiv:2303.01859, https://github.com/proroklab/popgym). They differ in this: the
empty deck terminates the episode, which popgym truncates, so that nothing is bootstrapped past it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv
from puffer_policies.errors import EnvError

Array = NDArray[Any]

SUITS, RANKS = 4, 13
DECK = SUITS * RANKS


class Cards(Game):
    """One shuffled deck, dealt card by card in 51 steps, whose suits are in view."""

    observation_space = spaces.Discrete(SUITS)
    action_space = spaces.Discrete(SUITS)
    state_arrays = ("suits", "position")

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        super().__init__(num_games, random)
        self.suits = np.empty((num_games, DECK), dtype=np.int64)
        self.position = np.empty(num_games, dtype=np.int64)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: the last card is in view."""
        last: Array = self.position == DECK - 1
        return last

    def restart(self, rows: Array) -> None:
        """Shuffle the decks of these rows and show their first card."""
        decks = np.tile(np.arange(DECK) // RANKS, (len(rows), 1))
        self.suits[rows] = self.random.permuted(decks, axis=1)
        self.position[rows] = 0

    def observe(self) -> Array:
        """Return the suits in view, (N,) int64."""
        return self._suits_at(self.position)

    def _suits_at(self, card: Array | int) -> Array:
        """Return the suits (N,) of the cards at these places of the decks."""
        suits: Array = self.suits[np.arange(self.num_games), card]
        return suits

    def _deal(self) -> None:
        """Show the next card."""
        # A finished row is stepped once more before it restarts: it must stay within the deck.
        self.position = np.minimum(self.position + 1, DECK - 1)


def require_k(k: int) -> None:
    """Refuse a `k` that no deck has.

    Raises:
        EnvError: it is not a whole number from 1 to the cards of a deck less one.
    """
    if not (isinstance(k, int) and 1 <= k < DECK):
        raise EnvError(f"RepeatPrevious' k is {k!r}.", fix=f"Use 1 to {DECK - 1}.")


class RepeatPrevious(Cards):
    """Name the suit of the k-th last card; the one in view counts as the first, as in popgym.

    A right answer pays 1 / (52 - k), a wrong one the same below zero, and nothing is paid while
    fewer than k cards were shown. So the best return is 1, and guessing gives -0.5.

    Args:
        num_games: N.
        random: shuffles the decks.
        k: 1 asks for the card in view, 4 for the one shown three steps before.
    """

    def __init__(self, num_games: int, random: np.random.Generator, k: int = 4) -> None:
        require_k(k)
        super().__init__(num_games, random)
        self.k = k

    def step(self, actions: Array) -> Array:
        """Judge the answers (N,) and show the next card."""
        card = self.position - (self.k - 1)  # (N,), negative while too few cards were dealt
        rewards = np.where(self._suits_at(card) == actions, 1.0, -1.0) / (DECK - self.k)
        rewards[card < 0] = 0.0  # a negative index has read a card from the end of the deck
        self._deal()
        return rewards


class RepeatPreviousVectorEnv(GameVectorEnv):
    """N decks; see `RepeatPrevious`."""

    def __init__(self, num_envs: int = 1, k: int = 4) -> None:
        super().__init__(partial(RepeatPrevious, k=k), num_envs)


class RepeatPreviousEnv(GameEnv):
    """One deck; see `RepeatPrevious`."""

    def __init__(self, k: int = 4) -> None:
        super().__init__(partial(RepeatPrevious, k=k))


class RepeatFirst(Cards):
    """Name the suit of the deck's first card in every step, long after it was shown.

    A right answer pays 1 / 51, a wrong one the same below zero. So the best return is 1, and
    guessing gives -0.5. Who sees the last 16 cards at once can name the first card in 16 of the
    51 steps and returns -0.03.

    Args:
        num_games: N.
        random: shuffles the decks.
    """

    def step(self, actions: Array) -> Array:
        """Judge the answers (N,) and show the next card."""
        rewards = np.where(self._suits_at(0) == actions, 1.0, -1.0) / (DECK - 1)
        self._deal()
        return rewards


class RepeatFirstVectorEnv(GameVectorEnv):
    """N decks; see `RepeatFirst`."""

    def __init__(self, num_envs: int = 1) -> None:
        super().__init__(RepeatFirst, num_envs)


class RepeatFirstEnv(GameEnv):
    """One deck; see `RepeatFirst`."""

    def __init__(self) -> None:
        super().__init__(RepeatFirst)


class MaskedRecall(Game):
    """Remember the first symbol through steps in which most actions are illegal, then name it.

    The first observation is one of four cues, then come `delay` blanks, then the question. Before
    the question one action of four is legal; there, the cue and one other are. An illegal action
    ends the game without pay, so without the mask hardly any game gets to the question, and without
    memory the answer is a coin's throw. The right answer pays 1.

    The legal actions are in ``infos["action_mask"]``, (N, 4) int8, as in gymnasium's Taxi.

    Args:
        num_games: N.
        random: draws cues and legal actions.
        delay: number of blanks.
    """

    state_arrays = ("cue", "time", "lost", "legal")
    CUES = 4
    BLANK, QUESTION = 4, 5

    def __init__(self, num_games: int, random: np.random.Generator, delay: int = 4) -> None:
        super().__init__(num_games, random)
        if delay < 1:
            raise EnvError(f"MaskedRecall's delay is {delay!r}.", fix="Use 1 or more.")
        self.observation_space = spaces.Discrete(self.CUES + 2)
        self.action_space = spaces.Discrete(self.CUES)
        self.delay = delay
        self.cue = np.empty(num_games, dtype=np.int64)
        self.time = np.empty(num_games, dtype=np.int64)
        self.lost = np.empty(num_games, dtype=bool)
        self.legal = np.empty((num_games, 2), dtype=np.int64)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: an illegal action was taken, or the question answered."""
        over: Array = self.lost | (self.time > self.delay + 1)
        return over

    def restart(self, rows: Array) -> None:
        """Show new cues in these rows."""
        self.cue[rows] = self.random.integers(self.CUES, size=len(rows))
        self.time[rows] = 0
        self.lost[rows] = False
        self._allow(rows)

    def step(self, actions: Array) -> Array:
        """End what was illegal, and pay right answers."""
        self.lost = (self.legal != actions[:, None]).all(axis=1)
        is_question = self.time == self.delay + 1
        right = ~self.lost & is_question & (actions == self.cue)
        self.time += 1
        self._allow(np.arange(self.num_games))
        return np.asarray(right, dtype=np.float64)

    def observe(self) -> Array:
        """Return cues, blanks and questions, (N,) int64."""
        observations = np.where(self.time == 0, self.cue, self.BLANK)
        observations[self.time > self.delay] = self.QUESTION
        return observations

    def infos(self) -> dict[str, Array]:
        """Return the legal actions, (N, 4) int8."""
        mask = np.zeros((self.num_games, self.CUES), dtype=np.int8)
        np.put_along_axis(mask, self.legal, 1, axis=1)
        return {"action_mask": mask}

    def _allow(self, rows: Array) -> None:
        """Draw the legal actions of these rows: twice the same one, or the cue and another."""
        is_question, cue = self.time[rows] == self.delay + 1, self.cue[rows]
        other = (cue + self.random.integers(1, self.CUES, size=len(rows))) % self.CUES
        # Drawn for all rows, so that the number of draws does not depend on where the games are.
        only = self.random.integers(self.CUES, size=len(rows))
        first, second = np.where(is_question, cue, only), np.where(is_question, other, only)
        self.legal[rows] = np.stack([first, second], axis=1)


class MaskedRecallVectorEnv(GameVectorEnv):
    """N games; see `MaskedRecall`."""

    def __init__(self, num_envs: int = 1, delay: int = 4) -> None:
        super().__init__(partial(MaskedRecall, delay=delay), num_envs)


class MaskedRecallEnv(GameEnv):
    """One game; see `MaskedRecall`."""

    def __init__(self, delay: int = 4) -> None:
        super().__init__(partial(MaskedRecall, delay=delay))
