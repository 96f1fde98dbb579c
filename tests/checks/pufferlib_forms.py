"""The classes of PufferLib 3.0, reduced to what decides a verdict: their members, heads and states.

Sizes are small, and the code is ours; what a class lacks or does otherwise is as it is there. The
file imports PufferLib as its own files do, and is only ever imported by the checker.
"""

import numpy as np
import pufferlib.models
import pufferlib.pytorch
import pufferlib.spaces
import torch
from pufferlib.pytorch import layer_init, nativize_tensor  # noqa: F401, the second is not ours
from torch import nn
from torch.nn import functional as F


class Default(nn.Module):
    def __init__(self, env, hidden_size=128):
        super().__init__()
        action = env.single_action_space
        self.hidden_size = hidden_size
        self.is_multidiscrete = isinstance(action, pufferlib.spaces.MultiDiscrete)
        self.is_continuous = isinstance(action, pufferlib.spaces.Box)
        if isinstance(env.observation_space, pufferlib.spaces.Dict):
            self.dtype = pufferlib.pytorch.nativize_dtype(env.emulated)
        size = int(np.prod(env.single_observation_space.shape))
        self.encoder = nn.Sequential(layer_init(nn.Linear(size, hidden_size)), nn.GELU())
        if self.is_continuous:
            self.decoder_mean = layer_init(nn.Linear(hidden_size, action.shape[0]), std=0.01)
            self.decoder_logstd = nn.Parameter(torch.zeros(1, action.shape[0]))
        else:
            self.nvec = tuple(action.nvec) if self.is_multidiscrete else (action.n,)
            self.decoder = layer_init(nn.Linear(hidden_size, sum(self.nvec)), std=0.01)
        self.value = layer_init(nn.Linear(hidden_size, 1), std=1)

    def forward_eval(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations, state=state))

    def forward(self, observations, state=None):
        return self.forward_eval(observations, state)

    def encode_observations(self, observations, state=None):
        return self.encoder(observations.view(len(observations), -1).float())

    def decode_actions(self, hidden):
        if self.is_continuous:
            mean = self.decoder_mean(hidden)
            std = self.decoder_logstd.expand_as(mean).exp()
            return torch.distributions.Normal(mean, std), self.value(hidden)
        logits = self.decoder(hidden)
        return logits.split(self.nvec, 1) if self.is_multidiscrete else logits, self.value(hidden)


class LSTMWrapper(nn.Module):
    def __init__(self, env, policy, input_size=128, hidden_size=128):
        super().__init__()
        self.obs_shape = env.single_observation_space.shape
        self.policy, self.is_continuous = policy, policy.is_continuous
        self.input_size, self.hidden_size = input_size, hidden_size
        for name, parameter in self.named_parameters():  # the wrapped policy's: there is no other
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif "weight" in name and parameter.ndim >= 2:
                nn.init.orthogonal_(parameter, 1.0)
        self.lstm = nn.LSTM(input_size, hidden_size)
        self.cell = nn.LSTMCell(input_size, hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.lstm, f"{name}_l0"))

    def forward_eval(self, observations, state):
        hidden = self.policy.encode_observations(observations, state=state)
        h, c = state["lstm_h"], state["lstm_c"]
        h, c = self.cell(hidden, None if h is None else (h, c))
        state["hidden"] = state["lstm_h"] = h
        state["lstm_c"] = c
        return self.policy.decode_actions(h)

    def forward(self, observations, state):
        h, c = state["lstm_h"], state["lstm_c"]
        lead = observations.shape[: observations.ndim - len(self.obs_shape)]
        rows, steps = lead if len(lead) == 2 else (*lead, 1)
        x = observations.reshape(rows * steps, *self.obs_shape)
        x = self.policy.encode_observations(x, state).reshape(rows, steps, -1).transpose(0, 1)
        hidden, (h, c) = self.lstm(x, None if h is None else (h, c))
        hidden = hidden.transpose(0, 1)
        logits, values = self.policy.decode_actions(hidden.reshape(rows * steps, -1))
        state["hidden"], state["lstm_h"], state["lstm_c"] = hidden, h.detach(), c.detach()
        return logits, values.reshape(rows, steps)


class Convolutional(nn.Module):
    def __init__(
        self, env, *args, framestack, flat_size, hidden_size=16, channels_last=False, **kwargs
    ):
        super().__init__()
        self.hidden_size, self.is_continuous, self.channels_last = hidden_size, False, channels_last
        conv, linear = nn.Conv2d(framestack, 4, 4, 2), nn.Linear(flat_size, hidden_size)
        self.network = nn.Sequential(
            layer_init(conv), nn.ReLU(), nn.Flatten(), layer_init(linear), nn.ReLU()
        )
        self.actor = layer_init(nn.Linear(hidden_size, env.single_action_space.n), std=0.01)
        self.value_fn = layer_init(nn.Linear(hidden_size, 1), std=1)

    def forward(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations))

    def forward_train(self, observations, state=None):
        return self.forward(observations, state)

    def encode_observations(self, observations, state=None):
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)
        return self.network(observations.float() / 255.0)

    def decode_actions(self, flat_hidden):
        return self.actor(flat_hidden), self.value_fn(flat_hidden)


def convolutional(env):
    return Convolutional(env, framestack=4, flat_size=100)


class ProcgenResnet(Convolutional):
    def __init__(self, env, cnn_width=4, mlp_width=16):
        h, w, c = env.single_observation_space.shape
        flat = 4 * (h // 2 - 1) * (w // 2 - 1)
        super().__init__(env, framestack=c, flat_size=flat, hidden_size=mlp_width)

    def encode_observations(self, x):
        return self.network(x.permute((0, 3, 1, 2)) / 255.0)


class Ocean(nn.Module):
    """Boids, Terraform, Go, TrashPickup, TowerClimb, MOBA, Drive: forward, but no forward_eval."""

    def __init__(self, env, hidden_size=16, **kwargs):
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        self.network = nn.Sequential(self.first(env), nn.ReLU())
        self.actor = layer_init(nn.Linear(hidden_size, env.single_action_space.n), std=0.01)
        self.value_fn = layer_init(nn.Linear(hidden_size, 1), std=1)

    def first(self, env):
        return layer_init(nn.Linear(env.single_observation_space.shape[0], self.hidden_size))

    def forward(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations))

    def forward_train(self, observations, state=None):
        return self.forward(observations, state)

    def encode_observations(self, observations, state=None):
        return self.network(observations.float())

    def decode_actions(self, flat_hidden):
        return self.actor(flat_hidden), self.value_fn(flat_hidden)


class G2048(Ocean):
    def __init__(self, env, hidden_size=16):
        super().__init__(env, hidden_size)

    def forward_eval(self, observations, state=None):
        return self.decode_actions(self.encode_observations(observations))

    def forward(self, observations, state=None):
        return self.forward_eval(observations, state)


class Snake(G2048):
    """Snake and Grid: one-hot codes of a space of bytes."""

    def first(self, env):
        return layer_init(nn.Linear(8 * env.single_observation_space.shape[0], self.hidden_size))

    def encode_observations(self, observations, state=None):
        return self.network(F.one_hot(observations.long(), 8).flatten(1).float())


class EnvColumns(G2048):
    """NMMO3, ImpulseWars and others that read more of their env than its spaces."""

    def __init__(self, env, hidden_size=16):
        super().__init__(env, hidden_size)
        self.n_cols = env.n_cols
