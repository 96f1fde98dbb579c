"""Correct actors and critics that see different keys, in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from good import DICT, GoodLSTM, GoodMLP, Head, flat, layer, width
from gymnasium import spaces as gym
from torch import Tensor, nn

PRIVILEGED = "inside"
"""The key of `DICT` that the critics alone see."""


class PrivilegedMLP(GoodMLP):
    """Two networks side by side, of which the critic's sees every key."""

    privileged_keys = (PRIVILEGED,)

    def __init__(self, env: Any, size: int = 12) -> None:
        super().__init__(env, 2 * size)
        members = self.spaces.observation.spaces
        self.seen = gym.Dict({k: each for k, each in members.items() if k != PRIVILEGED})
        self.encoder = None
        self.pi = layer(nn.Linear(width(self.seen), size))
        self.vf = layer(nn.Linear(width(self.spaces.observation), size))
        self.actor = Head(self.spaces.action, size)
        self.critic = layer(nn.Linear(size, 1), 1.0)

    def own(self, observations: Any) -> Tensor:
        """(N, *obs) -> what the actor sees, (N, numbers)."""
        return flat(self.seen, observations)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        dtype = self.critic.weight.dtype
        own, every = (each(observations).to(dtype) for each in (self.own, self.features))
        return torch.tanh(torch.cat([self.pi(own), self.vf(every)], -1))

    def logits(self, hidden: Tensor) -> Any:
        return self.actor(hidden.chunk(2, -1)[0])

    def value(self, hidden: Tensor) -> Tensor:
        return self.critic(hidden.chunk(2, -1)[1])


class PrivilegedLSTM(PrivilegedMLP, GoodLSTM):
    """A cell for each of the two, and the state of each under keys of its own."""

    def __init__(self, env: Any, size: int = 12) -> None:
        super().__init__(env, size)
        self.cell = None
        self.cells = nn.ModuleList(nn.LSTMCell(size, size) for _ in range(2))

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        halves = super().initial_state(batch_size, device).items()
        own = {key: each.chunk(2, -1)[0] for key, each in halves}
        return own | {f"critic_{key}": each.clone() for key, each in own.items()}

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        entries = {} if state is None else {k: v for k, v in state.items() if v is not None}
        parts = self.initial_state(rows) | entries
        h, c = (torch.cat([parts[key], parts[f"critic_{key}"]], -1) for key in ("lstm_h", "lstm_c"))
        return h, c

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        halves = zip(self.cells, *(each.chunk(2, -1) for each in (hidden, h, c)), strict=True)
        after = [cell(features, (own_h, own_c)) for cell, features, own_h, own_c in halves]
        h, c = (torch.cat(each, -1) for each in zip(*after, strict=True))
        return h, c

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        if state is not None:
            for key, both in (("lstm_h", h), ("lstm_c", c)):
                own, critics = both.detach().chunk(2, -1)
                state[key], state[f"critic_{key}"] = own.clone(), critics.clone()


PAIRS_OF_PRIVILEGED = ((PrivilegedMLP, DICT), (PrivilegedLSTM, DICT))
