"""Correct policies in plain torch, without our parts: the ground that mutants break one thing of.

`N` rows are B or B*T, `H` hidden size. A mutant overrides one of the small methods: `features`,
`encode_observations`, `logits`, `value`, `decode_actions`, `forward_eval`, `forward`; of GoodLSTM
also `read`, `reset`, `advance`, `write`. Every class takes an env or `Spaces`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from puffer_policies.spaces import Spaces, action_layout, image_layout, spaces_of

VECTOR = gym.Box(-1.0, 1.0, (4,), np.float32)
MATRIX = gym.Box(-1.0, 1.0, (3, 5), np.float32)
PIXELS_CHW = gym.Box(0, 255, (3, 12, 14), np.uint8)
PIXELS_HWC = gym.Box(0, 255, (12, 14, 3), np.uint8)
MIXED = gym.Dict(
    {
        "where": gym.Box(-1.0, 1.0, (3,), np.float32),
        "inside": gym.Dict({"b": gym.Discrete(3), "a": gym.MultiBinary(2)}),
    }
)
FOUR = gym.Discrete(4)
CHOICES = gym.MultiDiscrete([3, 2, 4])
REALS = gym.Box(-1.0, 1.0, (2,), np.float32)

DISCRETE = Spaces(VECTOR, FOUR)
SEVERAL = Spaces(VECTOR, CHOICES)
CONTINUOUS = Spaces(VECTOR, REALS)
HYBRID = Spaces(
    VECTOR,
    gym.Dict({"tool": FOUR, "aim": REALS, "arm": gym.Tuple((CHOICES, gym.Box(-2.0, 0.5, ())))}),
)
"""Actions of three parts, in another order than that of their sorted keys."""
BOTH = Spaces(VECTOR, gym.Tuple((FOUR, REALS)))
IMAGE = Spaces(PIXELS_CHW, FOUR)
IMAGE_HWC = Spaces(PIXELS_HWC, FOUR)
DICT = Spaces(MIXED, FOUR)


def layer(module: nn.Module, std: float = math.sqrt(2)) -> Any:
    """Orthogonal weight of gain `std`, zero bias."""
    nn.init.orthogonal_(module.weight, std)
    nn.init.zeros_(module.bias)
    return module


def width(space: Any) -> int:
    """How many numbers `flat` makes of one observation."""
    return int(gym.flatdim(space))


def flat(space: Any, observations: Any) -> Tensor:
    """(N, *obs) of any space -> (N, width) float32; pixels of images are scaled to 0..1."""
    if isinstance(space, gym.Dict):
        keys = sorted(space.spaces)
        return torch.cat([flat(space.spaces[key], observations[key]) for key in keys], -1)
    if isinstance(space, gym.Tuple):
        pairs = zip(space.spaces, observations, strict=True)
        return torch.cat([flat(member, each) for member, each in pairs], -1)
    rows = observations.reshape(observations.shape[0], -1)
    if isinstance(space, gym.Discrete):
        return functional.one_hot(rows[:, 0].long() - int(space.start), int(space.n)).float()
    if isinstance(space, gym.MultiDiscrete):
        nvec, start = space.nvec.reshape(-1), np.broadcast_to(space.start, space.shape).reshape(-1)
        columns = zip(rows.long().unbind(1), nvec, start, strict=True)
        hot = [functional.one_hot(column - int(s), int(n)) for column, n, s in columns]
        return torch.cat(hot, -1).float()
    if isinstance(space, gym.Box) and image_layout(space) and space.high.max() == 255:
        return rows.float() / 255.0
    return rows.float()


def first_leaf(space: Any, observations: Any) -> tuple[Any, Tensor]:
    """A leaf of nested observations with its space."""
    if isinstance(space, gym.Dict):
        key = min(space.spaces)
        return first_leaf(space.spaces[key], observations[key])
    if isinstance(space, gym.Tuple):
        return first_leaf(space.spaces[0], observations[0])
    return space, observations


def merged(observations: Any) -> Any:
    """(B, T, *obs) -> (B*T, *obs) in every leaf."""
    if isinstance(observations, dict):
        return {key: merged(each) for key, each in observations.items()}
    if isinstance(observations, tuple):
        return tuple(merged(each) for each in observations)
    return observations.reshape(-1, *observations.shape[2:])


def lead_of(space: Any, observations: Any) -> tuple[int, ...]:
    """The axes before an observation: (B,) or (B, T)."""
    inner, tensor = first_leaf(space, observations)
    return tuple(tensor.shape[: tensor.ndim - len(inner.shape)])


class Head(nn.Module):
    """(N, H) -> logits of any action space."""

    def __init__(self, action_space: Any, hidden_size: int) -> None:
        super().__init__()
        self.layout = action_layout(action_space)
        self.sizes = list(self.layout.nvec)
        outputs = sum(self.sizes) or math.prod(self.layout.shape)
        self.linear = layer(nn.Linear(hidden_size, outputs), 0.01)
        if self.layout.is_continuous:
            self.log_std = nn.Parameter(torch.zeros(self.layout.shape))

    def forward(self, hidden: Tensor) -> Any:
        out = self.linear(hidden)
        if self.layout.is_continuous:
            loc = out.reshape(hidden.shape[0], *self.layout.shape)
            scale = self.log_std.clamp(-5.0, 2.0).exp().expand_as(loc)
            return Normal(loc, scale, validate_args=False)
        return out if self.layout.kind == "discrete" else out.split(self.sizes, -1)


class PartsHead(nn.Module):
    """(N, H) -> a dict or a tuple of the logits of each part, from a head of its own."""

    def __init__(self, action_space: Any, hidden_size: int) -> None:
        super().__init__()
        self.layout = action_layout(action_space)
        self.heads = nn.ModuleDict(
            {str(key): head_for(action_space[key], hidden_size) for key in self.layout.parts}
        )

    def forward(self, hidden: Tensor) -> Any:
        parts = {key: self.heads[str(key)](hidden) for key in self.layout.parts}
        return parts if self.layout.kind == "dict" else tuple(parts.values())


def head_for(action_space: Any, hidden_size: int) -> Head | PartsHead:
    """The head of an action space, or of one of its parts."""
    head = PartsHead if action_layout(action_space).parts else Head
    return head(action_space, hidden_size)


class GoodMLP(nn.Module):
    """One Linear layer and Tanh under an action head and a value, for any spaces."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        self.spaces = spaces_of(env)
        self.hidden_size = hidden_size
        self.encoder = layer(nn.Linear(width(self.spaces.observation), hidden_size))
        self.actor = head_for(self.spaces.action, hidden_size)
        self.critic = layer(nn.Linear(hidden_size, 1), 1.0)
        self.is_continuous = self.actor.layout.is_continuous

    def features(self, observations: Any) -> Tensor:
        """(N, *obs) -> (N, width) float32."""
        return flat(self.spaces.observation, observations)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features(observations)
        return torch.tanh(self.encoder(features.to(self.critic.weight.dtype)))

    def logits(self, hidden: Tensor) -> Any:
        return self.actor(hidden)

    def value(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, 1)."""
        return self.critic(hidden)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.logits(hidden), self.value(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state=state))

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        if len(lead_of(self.spaces.observation, observations)) == 2:
            observations = merged(observations)
        return self.forward_eval(observations, state)


class GoodLSTM(GoodMLP):
    """GoodMLP with one LSTM cell before its heads; episodes reset the state exactly."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.cell = nn.LSTMCell(hidden_size, hidden_size)
        for name, parameter in self.cell.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.data.chunk(4):
                    nn.init.orthogonal_(gate)

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        weight = self.critic.weight
        device = weight.device if device is None else device
        zeros = torch.zeros(batch_size, self.hidden_size, dtype=weight.dtype, device=device)
        return {"lstm_h": zeros, "lstm_c": zeros.clone()}

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        """Return h and c (B, H); missing or None means zeros."""
        initial = self.initial_state(rows)
        entries = {} if state is None else state
        tensors = [entries.get(key) for key in initial]
        h, c = (
            zeros if each is None else each
            for each, zeros in zip(tensors, initial.values(), strict=True)
        )
        return h, c

    def reset(self, h: Tensor, c: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Zero the rows where `start` (B,) is true."""
        if start is None:
            return h, c
        rows = start.bool().unsqueeze(-1)
        return h.masked_fill(rows, 0.0), c.masked_fill(rows, 0.0)

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the cell: three times (B, H) -> twice (B, H)."""
        h, c = self.cell(hidden, (h, c))
        return h, c

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        """Put the state after the last step into `state`, detached."""
        if state is not None:
            state["lstm_h"], state["lstm_c"] = h.detach(), c.detach()

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations, state=state)
        h, c = self.read(state, hidden.shape[0])
        h, c = self.reset(h, c, None if state is None else state.get("episode_start"))
        h, c = self.advance(hidden, h, c)
        self.write(state, h, c)
        return self.decode_actions(h)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        lead = lead_of(self.spaces.observation, observations)
        rows, steps = lead if len(lead) == 2 else (*lead, 1)
        observations = merged(observations) if len(lead) == 2 else observations
        hidden = self.encode_observations(observations, state=state)  # (B*T, H)
        starts = None if state is None else state.get("episode_start")
        h, c = self.read(state, rows)
        h, c, outputs = self.run(hidden.reshape(rows, steps, -1), h, c, starts)
        self.write(state, h, c)
        logits, values = self.decode_actions(outputs.flatten(0, 1))
        return logits, values.reshape(rows, steps)

    def run(
        self, hidden: Tensor, h: Tensor, c: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, H) with starts (B, T), (B,) or None -> h, c, outputs (B, T, H)."""
        if starts is not None and starts.ndim == 1:  # only the first step can start
            starts = functional.pad(starts.unsqueeze(1), (0, hidden.shape[1] - 1))
        outputs = []
        for t, features in enumerate(hidden.unbind(1)):
            h, c = self.reset(h, c, None if starts is None else starts[:, t])
            h, c = self.advance(features, h, c)
            outputs.append(h)
        return h, c, torch.stack(outputs, 1)
