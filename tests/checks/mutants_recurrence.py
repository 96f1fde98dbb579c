"""Memories that break R1-R12: their steps and resets, and what they carry from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from good import GoodLSTM, GoodMLP
from good_memories import Attention, GRUMemory
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor, nn

from puffer_policies.spaces import Spaces

# -- R1 -------------------------------------------------------------------------------------------


class ResidualInTrainingOnly(GoodLSTM):
    """PufferLib 4.0's GRU: forward adds a residual that the step lacks."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        h, c, outputs = super().run(hidden, h, c, starts)
        return h, c, outputs + hidden


class PufferStack(nn.Module):
    """PufferLib 4.0's GRU stack: the norm comes before the residual in one path, after in one."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.GRUCell(size, size) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(layers))

    def step(self, x: Tensor, memory: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
        after = []
        for i, (cell, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            h = cell(x, memory[:, i])
            after.append(h)
            x = norm(x + h) if training else x + norm(h)
        return x, torch.stack(after, 1)


class PufferGRU(GRUMemory):
    def __init__(self, env: Any, **options: Any) -> None:
        super().__init__(env, **options)
        self.network = PufferStack(self.hidden_size, self.gru.num_layers)
        self.sizes, self.gru = (self.gru.num_layers, self.hidden_size), None

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        weight = self.critic.weight
        device = weight.device if device is None else device
        zeros = torch.zeros(batch_size, *self.sizes, dtype=weight.dtype, device=device)
        return {"memory": zeros}

    def recur(self, hidden: Tensor, state: dict[str, Any], *, training: bool = True) -> Tensor:
        rows, steps, _ = hidden.shape
        memory = state.get("memory")
        memory = self.initial_state(rows)["memory"] if memory is None else memory
        starts = state.get("episode_start")
        outputs = []
        for t in range(steps):
            if starts is not None:
                start = starts.reshape(rows, steps)[:, t, None, None]
                memory = memory.masked_fill(start, 0.0)
            out, memory = self.network.step(hidden[:, t], memory, training=training)
            outputs.append(out)
        state["memory"] = memory.detach()
        return torch.stack(outputs, 1)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations).unsqueeze(1)
        carried = {} if state is None else state
        return self.decode_actions(self.recur(hidden, carried, training=False)[:, 0])


class CutsLongSequences(GoodLSTM):
    """Runs long sequences in parts, to spare memory, and hands nothing on from part to part."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        head, tail = hidden[:, :16], hidden[:, 16:]
        if not tail.shape[1]:
            return super().run(hidden, h, c, starts)
        cut = starts if starts is None or starts.ndim == 1 else starts[:, :16]
        first = super().run(head, h, c, cut)
        rest = None if starts is None or starts.ndim == 1 else starts[:, 16:]
        h, c, outputs = self.run(tail, h * 0, c * 0, rest)
        return h, c, torch.cat([first[2], outputs], 1)


# -- R2 -------------------------------------------------------------------------------------------


class SequenceNeverResets(GoodLSTM):
    """Steps reset, forward does not look at the starts."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        return super().run(hidden, h, c, None)


class SequenceResetsAllRows(GoodLSTM):
    """Forward cuts the batch where any row starts, and begins anew with every row."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        if starts is not None:
            starts = starts.any(0, keepdim=True).expand_as(starts)
        return super().run(hidden, h, c, starts)


# -- R3 -------------------------------------------------------------------------------------------


class KeepsCell(GoodLSTM):
    """A reset zeroes h and forgets c."""

    def reset(self, h: Tensor, c: Tensor, start: Any) -> tuple[Tensor, Tensor]:
        return super().reset(h, c, start)[0], c


class ResetsEveryRow(GoodLSTM):
    """One row that starts over resets all."""

    def reset(self, h: Tensor, c: Tensor, start: Any) -> tuple[Tensor, Tensor]:
        return super().reset(h, c, None if start is None else start.any().expand_as(start))


class GuidesWrapper(nn.Module):
    """The LSTM wrapper of PufferLib 3.0's guide: same interface, no resets, twin tensors."""

    def __init__(self, env: Any, policy: nn.Module, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.obs_shape = env.single_observation_space.shape
        self.policy = policy
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.is_continuous = policy.is_continuous
        self.lstm = nn.LSTM(input_size, hidden_size)
        for name, parameter in self.lstm.named_parameters():
            (nn.init.zeros_ if "bias" in name else orthogonal_gates)(parameter)
        self.cell = nn.LSTMCell(input_size, hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.lstm, f"{name}_l0"))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.policy.encode_observations(observations, state=state)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.policy.decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.policy.encode_observations(observations, state=state)
        h, c = (state["lstm_h"], state["lstm_c"]) if state else (None, None)
        h, c = self.cell(hidden, None if h is None else (h, c))
        if state is not None:
            state["lstm_h"], state["lstm_c"] = h, c
        return self.policy.decode_actions(h)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        state = {} if state is None else state
        h, c = state.get("lstm_h"), state.get("lstm_c")
        lead = observations.shape[: observations.ndim - len(self.obs_shape)]
        rows, steps = lead if len(lead) == 2 else (*lead, 1)
        x = observations.reshape(rows * steps, *self.obs_shape)
        hidden = self.policy.encode_observations(x, state).reshape(rows, steps, -1)
        hidden, (h, c) = self.lstm(hidden.transpose(0, 1), None if h is None else (h, c))
        state["lstm_h"], state["lstm_c"] = h.detach(), c.detach()
        flat = hidden.transpose(0, 1).reshape(rows * steps, self.hidden_size)
        logits, values = self.policy.decode_actions(flat)
        return logits, values.reshape(rows, steps)


def orthogonal_gates(parameter: Tensor) -> None:
    for gate in parameter.data.chunk(4):
        nn.init.orthogonal_(gate)


def guides_wrapper(spaces: Any) -> nn.Module:
    return GuidesWrapper(spaces, GoodMLP(spaces), 16, 16)


# -- R4 -------------------------------------------------------------------------------------------


class ResetsAfterTheStep(GoodLSTM):
    """The flag is taken for done[t]: the state is zeroed when the step has been made."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        state = {} if state is None else state
        start = state.pop("episode_start", None)
        answer = super().forward_eval(observations, state)
        self.write(state, *self.reset(state["lstm_h"], state["lstm_c"], start))
        return answer

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        outputs = []
        for t, features in enumerate(hidden.unbind(1)):
            h, c = self.advance(features, h, c)
            outputs.append(h)
            h, c = self.reset(h, c, None if starts is None else starts[:, t])
        return h, c, torch.stack(outputs, 1)


class ShiftedStarts(GRUMemory):
    """forward shifts the starts by one, as if they were dones: the reset comes a step early."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        state = {} if state is None else state
        starts = state.get("episode_start")
        if starts is not None and starts.ndim == 2 and starts.shape[1] > 1:
            state["episode_start"] = torch.cat([starts[:, 1:], starts[:, :1] & False], 1)
        return super().forward(observations, state)


# -- R5 -------------------------------------------------------------------------------------------


class ForgetsStoredState(GoodLSTM):
    """PufferLib 4.0's form: a sequence always begins from zeros."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        entries = {} if state is None else state
        return super().forward(observations, {"episode_start": entries.get("episode_start")})


class WritesIntoState(GRUMemory):
    """PufferLib 4.0's LSTM: the step copies its result into the tensor that it was given."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        memory = None if state is None else state.get("memory")
        answer = super().forward_eval(observations, state)
        if memory is not None:
            state["memory"] = memory.copy_(state["memory"])
        return answer


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
    """Observations are normalized by statistics that move with every step of the rollout."""

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
        tensors = list(state.values())[:2]
        return super().read(dict(zip(("lstm_h", "lstm_c"), tensors, strict=True)), rows)


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


NEVER_RESETS = "a memory that is never reset leaks in both paths"
SHIFTS = "it writes another start into the caller's state"
RATIO = "outputs that can't be reproduced give other log-probabilities"

MUTANTS_RECURRENCE: tuple[Mutant, ...] = (
    Mutant(
        "R1",
        "ResidualInTrainingOnly",
        ResidualInTrainingOnly,
        also=dict.fromkeys(("R2", "R5", "R11"), "the paths differ with resets, too"),
    ),
    Mutant(
        "R1",
        "PufferGRU",
        PufferGRU,
        also=dict.fromkeys(("R2", "R5", "R11"), "what is learned in one path is not in both"),
        note="PufferLib 4.0",
    ),
    Mutant("R1", "CutsLongSequences", CutsLongSequences),
    Mutant(
        "R2",
        "SequenceNeverResets",
        SequenceNeverResets,
        also={"R8": "forward sees the last episode", "R11": RATIO},
    ),
    Mutant("R2", "SequenceResetsAllRows", SequenceResetsAllRows, also={"R11": RATIO}),
    Mutant("R3", "KeepsCell", KeepsCell, also={"R8": NEVER_RESETS}),
    Mutant("R3", "ResetsEveryRow", ResetsEveryRow),
    Mutant(
        "R3",
        "GuidesWrapper",
        guides_wrapper,
        also={"R8": NEVER_RESETS, "P5": "its cell holds the tensors of its lstm"},
        note="PufferLib 3.0's guide",
    ),
    Mutant("R4", "ResetsAfterTheStep", ResetsAfterTheStep, also={"S7": SHIFTS}),
    Mutant(
        "R4",
        "ShiftedStarts",
        ShiftedStarts,
        also={
            "R2": "only forward is early",
            "R8": "the step before is kept",
            "R11": RATIO,
            "S7": SHIFTS,
        },
    ),
    Mutant("R5", "ForgetsStoredState", ForgetsStoredState, also={"R11": RATIO}),
    Mutant("R5", "WritesIntoState", WritesIntoState, also={"S7": "a state is an input"}),
    Mutant("R6", "GrowingCache", GrowingCache, also={"P7": "a graph has one size of state"}),
    Mutant(
        "R6",
        "MemoryOnSelf",
        MemoryOnSelf,
        also=dict.fromkeys(
            ("B3", "P1", "P7", "P8", "S3", "S5", "S6", "S7"), "no call can be repeated"
        ),
    ),
    Mutant("R6", "KeepsGraph", KeepsGraph),
    Mutant("R7", "DecodesEncoder", DecodesEncoder, also={"N6": "nothing reads the cell"}),
    Mutant("R7", "DetachedEveryStep", DetachedEveryStep),
    Mutant("R7", "detached-codes", DetachedEveryStep, Spaces(gym.Discrete(5), gym.Discrete(3))),
    Mutant(
        "R8",
        "AttendsAcrossEpisodes",
        AttendsAcrossEpisodes,
        also={"R2": "acting and training differ", "R11": RATIO},
    ),
    Mutant("R8", "NeverExpires", NeverExpires, also={"R3": NEVER_RESETS}),
    Mutant("R9", "ReshapedLayers", ReshapedLayers),
    Mutant("R9", "LayersFirst", LayersFirst, also={"R6": "its rows are not first"}),
    Mutant("R9", "RolledRows", RolledRows),
    Mutant(
        "R10",
        "LastWindowOnly",
        LastWindowOnly,
        also={"R1": "steps have no window, which a long sequence shows"},
    ),
    Mutant(
        "R10",
        "SortsByLength",
        SortsByLength,
        also={"S3": "zeros are such a length, as a row alone"},
    ),
    Mutant(
        "R11",
        "MovingStatistics",
        MovingStatistics,
        also={"P1": "it moves in train mode only", "S5": "by the mean of all rows"},
    ),
    Mutant(
        "R11",
        "CoolingPolicy",
        CoolingPolicy,
        also={"P1": "it cools in train mode only", "S5": "no call can be repeated"},
    ),
    Mutant("R12", "ReadsByPosition", ReadsByPosition),
    Mutant("R12", "ResetsEveryKey", ResetsEveryKey),
)
