"""Memories with one defect each in how steps, sequences and episodes agree: R1 to R5."""

from __future__ import annotations

from typing import Any

import torch
from good import GoodLSTM, GoodMLP
from good_memory import GRUMemory
from torch import Tensor, nn

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
        given = {} if state is None else state
        return super().forward(observations, {"episode_start": given.get("episode_start")})


class WritesIntoState(GRUMemory):
    """PufferLib 4.0's LSTM: the step copies its result into the tensor that it was given."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        given = None if state is None else state.get("memory")
        answer = super().forward_eval(observations, state)
        if given is not None:
            state["memory"] = given.copy_(state["memory"])
        return answer
