"""Memories with one defect each in their state, its use and its rows: R6 to R12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from good import GoodLSTM, GoodMLP
from good_attention import Attention
from good_memory import GRUMemory
from torch import Tensor, nn

# -- R6 -------------------------------------------------------------------------------------------


class GrowingCache(GoodLSTM):
    """A history of hidden vectors in the state, longer at every step."""

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        state = super().initial_state(batch_size, device)
        return {**state, "history": state["lstm_h"].unsqueeze(1)}

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        h, c, _ = (
            zeros if not state or state.get(key) is None else state[key]
            for key, zeros in self.initial_state(rows).items()
        )
        return h, c

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        super().write(state, h, c)
        if state is not None and state.get("history") is not None:
            state["history"] = torch.cat([state["history"], h.detach().unsqueeze(1)], 1)


class MemoryOnSelf(GoodMLP):
    """Nobody is told of the memory: it lies beside the modules, by the number of rows."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.brain = nn.ModuleDict({"trunk": nn.Identity()})
        self._traces: dict[int, Tensor] = {}

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = self.brain["trunk"](super().encode_observations(observations, state))
        if torch.is_grad_enabled():
            return hidden
        trace = self._traces.get(len(hidden), torch.zeros_like(hidden))
        self._traces[len(hidden)] = 0.5 * (trace + hidden)
        return hidden + 0.1 * trace


class KeepsGraph(GoodLSTM):
    """forward hands out a state that holds the graph of its whole segment."""

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        if state is not None:
            state["lstm_h"], state["lstm_c"] = h, c


# -- R7 -------------------------------------------------------------------------------------------


class DecodesEncoder(GoodLSTM):
    """The cell runs, but the heads read the encoder."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        _, c = super().advance(hidden, h, c)
        return hidden, c


@dataclass(frozen=True)
class TruncationConfig:
    steps: int = 1


class DetachedEveryStep(GRUMemory):
    """Backpropagation through time cut after each step."""

    def __init__(self, env: Any, config: TruncationConfig | None = None) -> None:
        super().__init__(env)
        self.config = config or TruncationConfig()

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        starts, outputs = state.get("episode_start"), []
        rows, steps, _ = hidden.shape
        for t in range(0, steps, self.config.steps):
            now = {"memory": state.get("memory")}
            if starts is not None:
                now["episode_start"] = starts.reshape(rows, -1)[:, t : t + 1]
            outputs.append(super().recur(hidden[:, t : t + self.config.steps], now))
            state["memory"] = now["memory"]
        return torch.cat(outputs, 1)


# -- R8 -------------------------------------------------------------------------------------------


class AttendsAcrossEpisodes(Attention):
    """Training's attention has no mask at the boundary; acting has."""

    def in_sequence(self, filled: Tensor, start: Tensor | None) -> Tensor:
        return filled


class NeverExpires(Attention):
    """The cache lives as long as the run, in both paths."""

    def expire(self, filled: Tensor, start: Tensor | None) -> Tensor:
        return filled


# -- R9 -------------------------------------------------------------------------------------------


class ReshapedLayers(GRUMemory):
    """(L, B, H) reshaped to (B, L, H) instead of transposed: right for a whole batch only."""

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        rows = len(hidden)
        size = (self.gru.num_layers, rows, self.hidden_size)
        memory = state.get("memory")
        if memory is not None:
            state["memory"] = memory.reshape(size).transpose(0, 1)
        outputs = super().recur(hidden, state)
        state["memory"] = state["memory"].transpose(0, 1).reshape(rows, size[0], size[2])
        return outputs


class LayersFirst(GRUMemory):
    """PufferLib 4.0's shape: (L, B, H)."""

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        memory = super().initial_state(batch_size, device)["memory"]
        return {"memory": memory.transpose(0, 1).contiguous()}

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        memory = state.get("memory")
        memory = self.initial_state(len(hidden))["memory"] if memory is None else memory
        state["memory"] = memory.transpose(0, 1)
        outputs = super().recur(hidden, state)
        state["memory"] = state["memory"].transpose(0, 1)
        return outputs


class RolledRows(GoodLSTM):
    """Rows of the state lie one place off, as when env ids are counted from one."""

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        h, c = super().read(state, rows)
        return h.roll(1, 0), c.roll(1, 0)

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        super().write(state, h.roll(-1, 0), c.roll(-1, 0))


# -- R10 ------------------------------------------------------------------------------------------


class LastWindowOnly(GoodLSTM):
    """Long sequences are cut to their last steps, and the others answered with zeros."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        skipped = max(0, hidden.shape[1] - 8)
        starts = None if starts is None or starts.ndim == 1 else starts[:, skipped:]
        h, c, outputs = super().run(hidden[:, skipped:], h, c, starts)
        return h, c, nn.functional.pad(outputs, (0, 0, skipped, 0))


class SortsByLength(GRUMemory):
    """Rows are sorted by length for packing, with zeros as padding, and never sorted back."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        if observations.ndim == 3:
            lengths = (observations != 0).any(-1).sum(1)
            order = lengths.argsort(descending=True, stable=True)
            observations = observations[order]
        return super().forward(observations, state)


# -- R11 ------------------------------------------------------------------------------------------


class MovingStatistics(GoodLSTM):
    """Observations are normalised by statistics that move with every step of the rollout."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("mean", torch.zeros(4))

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        answer = super().forward_eval(observations, state)
        if self.training:
            self.mean.lerp_(observations.float().mean(0), 0.1)
        return answer

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) - self.mean


class Schedule:
    """How many actions were taken: on no module and in no buffer."""

    def __init__(self) -> None:
        self.calls = 0


class CoolingPolicy(GRUMemory):
    """Exploration cools down at each step of training."""

    def __init__(self, env: Any, **kwargs: Any) -> None:
        super().__init__(env, **kwargs)
        self.schedule = Schedule()

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward_eval(observations, state)
        factor = 1.0 + 0.2 * self.schedule.calls * self.training
        self.schedule.calls += self.training and not torch.is_grad_enabled()
        return logits * factor, values


# -- R12 ------------------------------------------------------------------------------------------


class ReadsByPosition(GoodLSTM):
    """Takes the first two values of the state, whatever they are called."""

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        if not state or "lstm_h" not in state:
            return super().read(None, rows)
        found = list(state.values())[:2]
        return super().read(dict(zip(("lstm_h", "lstm_c"), found, strict=True)), rows)


class ResetsEveryKey(GRUMemory):
    """Multiplies everything in the state by the mask, as only memories are expected there."""

    def recur(self, hidden: Tensor, state: dict[str, Any]) -> Tensor:
        starts = state.get("episode_start")
        if starts is not None and hidden.shape[1] == 1:
            for key in state.keys() - {"episode_start"}:
                state[key] = state[key] * (~starts.reshape(-1, 1, 1))
            if any(
                state[key].shape != state["memory"].shape
                for key in state.keys() - {"episode_start"}
            ):
                raise KeyError("unknown memory")
        return super().recur(hidden, state)
