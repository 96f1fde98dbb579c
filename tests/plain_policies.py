"""Policies in plain torch, as users of PufferLib and CleanRL write them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Plain(nn.Module):
    """A policy in the form of the guide's first example: two methods and nothing else."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        (size,) = env.single_observation_space.shape
        self.net = nn.Sequential(nn.Linear(size, hidden_size), nn.Tanh())
        self.action_head = nn.Linear(hidden_size, int(env.single_action_space.n))
        self.value_head = nn.Linear(hidden_size, 1)

    def forward_eval(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        hidden = self.net(observations)
        return self.action_head(hidden), self.value_head(hidden)

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.forward_eval(observations, state)


class Split(Plain):
    """A policy in the form of the guide's second example, which an LSTM can wrap."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.hidden_size, self.is_continuous = hidden_size, False

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        hidden: Tensor = self.net(observations.float())
        return hidden

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_head(hidden), self.value_head(hidden)


class PufferLSTM(nn.Module):
    """An LSTM in PufferLib's form: (B, H) states in a step, (1, B, H) in training, no resets."""

    def __init__(self, env: Any, policy: Split) -> None:
        super().__init__()
        self.policy, self.hidden_size, self.is_continuous = policy, policy.hidden_size, False
        self.lstm = nn.LSTM(self.hidden_size, self.hidden_size)
        self.cell = nn.LSTMCell(self.hidden_size, self.hidden_size)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, kind, getattr(self.lstm, f"{kind}_l0"))

    def forward_eval(self, observations: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        hidden = self.policy.encode_observations(observations, state)
        assert state["lstm_h"].shape == hidden.shape
        state["lstm_h"], state["lstm_c"] = self.cell(hidden, (state["lstm_h"], state["lstm_c"]))
        return self.policy.decode_actions(state["lstm_h"])

    def forward(self, observations: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        batch, time = observations.shape[:2]
        assert state["lstm_h"].shape == (1, batch, self.hidden_size)
        hidden = self.policy.encode_observations(observations.flatten(0, 1), state)
        hidden = hidden.reshape(batch, time, -1).transpose(0, 1)
        hidden, _ = self.lstm(hidden, (state["lstm_h"], state["lstm_c"]))
        logits, values = self.policy.decode_actions(hidden.transpose(0, 1).flatten(0, 1))
        return logits, values.reshape(batch, time)
