"""Correct memories in plain torch: a GRU, one that ages, and attention over a ring."""

from __future__ import annotations

from typing import Any

import torch
from good import GoodMLP, lead_of, merged
from torch import Tensor, nn


class GRUMemory(GoodMLP):
    """Two GRU layers; the state lies under a key of its own, (B, L, H)."""

    def __init__(self, env: Any, hidden_size: int = 12, num_layers: int = 2) -> None:
        super().__init__(env, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size, num_layers, batch_first=True)
        for name, parameter in self.gru.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.data.chunk(3):
                    nn.init.orthogonal_(gate)

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        weight = self.critic.weight
        size = (batch_size, self.gru.num_layers, self.gru.hidden_size)
        return {"memory": torch.zeros(size, dtype=weight.dtype, device=device or weight.device)}

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        """(B, T, H) -> (B, T, H), with `state` brought up to date."""
        rows, steps, _ = hidden.shape
        memory = state.get("memory")
        memory = self.initial_state(rows)["memory"] if memory is None else memory
        starts = state.get("episode_start")
        if starts is None:
            starts = torch.zeros(rows, steps, dtype=torch.bool)
        starts = starts.reshape(rows, -1)
        outputs = []
        for t in range(steps):
            if t < starts.shape[1]:
                memory = torch.where(starts[:, t, None, None].bool(), 0.0, memory)
            out, after = self.gru(hidden[:, t : t + 1], memory.transpose(0, 1).contiguous())
            memory = after.transpose(0, 1)
            outputs.append(out)
        state["memory"] = memory.detach()
        return torch.cat(outputs, 1)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations).unsqueeze(1)
        return self.decode_actions(self.recur(hidden, {} if state is None else state)[:, 0])

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        lead = lead_of(self.spaces.observation, observations)
        rows, steps = lead if len(lead) == 2 else (*lead, 1)
        observations = merged(observations) if len(lead) == 2 else observations
        hidden = self.encode_observations(observations).reshape(rows, steps, -1)
        hidden = self.recur(hidden, {} if state is None else state)
        logits, values = self.decode_actions(hidden.flatten(0, 1))
        return logits, values.reshape(rows, steps)


class AgeingMemory(GRUMemory):
    """Also counts the steps of an episode, in int64, and looks their number up in a table."""

    def __init__(self, env: Any, hidden_size: int = 12) -> None:
        super().__init__(env, hidden_size)
        self.ages = nn.Embedding(4, hidden_size)

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        memory = super().initial_state(batch_size, device)
        age = torch.zeros(batch_size, dtype=torch.long, device=memory["memory"].device)
        return {**memory, "age": age}

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        rows, steps, _ = hidden.shape
        age, starts = state.get("age"), state.get("episode_start")
        age = self.initial_state(rows)["age"] if age is None else age
        looked_up = []
        for t in range(steps):
            if starts is not None and t < starts.reshape(rows, -1).shape[1]:
                age = torch.where(starts.reshape(rows, -1)[:, t].bool(), 0, age)
            looked_up.append(self.ages(age.clamp(max=3)))
            age = age + 1
        state["age"] = age
        return super().recur(hidden + torch.stack(looked_up, 1), state)


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
        summary = (weights.unsqueeze(-1) * memory).sum(1)
        return hidden + summary, memory, filled

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations)
        state = {} if state is None else state
        carried = {
            **self.initial_state(hidden.shape[0]),
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
