"""Policies whose actor learns what only the critic may see."""

from __future__ import annotations

from typing import Any

import torch
from good import DICT, GoodMLP, flat, width
from good_privileged import PRIVILEGED, PrivilegedLSTM, PrivilegedMLP
from mutant import Mutant
from mutants_statistics import Moments
from torch import Tensor, nn


class OneEncoder(GoodMLP):
    """Declares the keys, and gives everything to the network that both share."""

    privileged_keys = (PRIVILEGED,)


class NormOverBoth(PrivilegedMLP):
    """The features of both networks pass through one LayerNorm."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.norm = nn.LayerNorm(self.hidden_size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.norm(super().encode_observations(observations, state))


class CriticInTheActorsCell(PrivilegedLSTM):
    """The actor's memory takes in features of the critic, so that only later steps show it."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        _, features = hidden.chunk(2, -1)
        h, c = super().advance(hidden, h, c)
        own, critics = c.chunk(2, -1)
        return h, torch.cat([own + 0.1 * features, critics], -1)


class CriticUnderTheActorsKeys(PrivilegedLSTM):
    """Both memories lie under the same keys, as of one twice as wide."""

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        state = super().initial_state(batch_size, device)
        return {key: torch.cat([state[key]] * 2, -1) for key in ("lstm_h", "lstm_c")}

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        entries = {} if state is None else {k: v for k, v in state.items() if v is not None}
        both = self.initial_state(rows) | entries
        return both["lstm_h"], both["lstm_c"]

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        if state is not None:
            state["lstm_h"], state["lstm_c"] = h.detach(), c.detach()


class ScaledByTheCritic(PrivilegedMLP):
    """The actor's numbers are divided by the deviation of all numbers, which rollouts move."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.moments = Moments(width(self.spaces.observation))

    def update_statistics(self, observations: Any) -> None:
        self.moments.update(flat(self.spaces.observation, observations))

    def own(self, observations: Any) -> Tensor:
        return super().own(observations) / self.moments.std.mean()


MUTANTS_PRIVILEGED = (
    Mutant("S13", "one-encoder", OneEncoder, DICT),
    Mutant("S13", "norm-over-both", NormOverBoth, DICT),
    Mutant("S13", "critic-in-the-actors-cell", CriticInTheActorsCell, DICT),
    Mutant("S13", "critic-under-the-actors-keys", CriticUnderTheActorsKeys, DICT),
    Mutant("S13", "scaled-by-the-critic", ScaledByTheCritic, DICT),
)
