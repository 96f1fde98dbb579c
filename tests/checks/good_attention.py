"""A correct attention memory in plain torch: a ring of hidden vectors and how many count."""

from __future__ import annotations

from typing import Any

import torch
from good import GoodMLP, lead_of, merged
from torch import Tensor, nn


class Attention(GoodMLP):
    """One head of attention over the last `slots` hidden vectors, in a ring of (B, M, H).

    Correct as it stands; mutants change `allowed` or `expire`.
    """

    slots = 8

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        weight = self.critic.weight
        where = {"device": weight.device if device is None else device}
        memory = torch.zeros(batch_size, self.slots, self.hidden_size, dtype=weight.dtype, **where)
        age = torch.zeros(batch_size, dtype=torch.int64, **where)
        return {"memory": memory, "filled": age}

    def expire(self, filled: Tensor, start: Tensor | None) -> Tensor:
        """How many slots count, after a start."""
        return filled if start is None else filled.masked_fill(start.bool(), 0)

    def look(self, hidden: Tensor, memory: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H), (B, M, H), (B,) -> what is seen (B, H), and the memory with it."""
        memory = torch.cat([memory[:, 1:], hidden.unsqueeze(1)], 1)
        filled = (filled + 1).clamp(max=self.slots)
        place = torch.arange(self.slots, device=hidden.device)
        valid = place >= self.slots - filled.unsqueeze(1)
        scores = (self.key(memory) * self.query(hidden).unsqueeze(1)).sum(-1)
        weights = scores.masked_fill(~valid, -1e9).softmax(-1)
        seen = (weights.unsqueeze(-1) * memory).sum(1)
        return hidden + seen, memory, filled

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations)
        state = {} if state is None else state
        carried = {
            **self.initial_state(len(hidden)),
            **{k: v for k, v in state.items() if v is not None},
        }
        filled = self.expire(carried["filled"], state.get("episode_start"))
        hidden, state["memory"], state["filled"] = self.look(hidden, carried["memory"], filled)
        state["memory"] = state["memory"].detach()
        return self.decode_actions(hidden)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        lead = lead_of(self.spaces.observation, observations)
        rows, steps = lead if len(lead) == 2 else (*lead, 1)
        observations = merged(observations) if len(lead) == 2 else observations
        hidden = self.encode_observations(observations).reshape(rows, steps, -1)
        state = {} if state is None else state
        carried = {**self.initial_state(rows), **{k: v for k, v in state.items() if v is not None}}
        memory, filled, starts = carried["memory"], carried["filled"], carried.get("episode_start")
        outputs = []
        for t in range(steps):
            start = None if starts is None else starts.reshape(rows, -1)[:, t]
            filled = self.in_sequence(filled, start)
            out, memory, filled = self.look(hidden[:, t], memory, filled)
            outputs.append(out)
        state["memory"], state["filled"] = memory.detach(), filled
        logits, values = self.decode_actions(torch.stack(outputs, 1).flatten(0, 1))
        return logits, values.reshape(rows, steps)

    def in_sequence(self, filled: Tensor, start: Tensor | None) -> Tensor:
        return self.expire(filled, start)
