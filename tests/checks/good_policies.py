"""Correct policies in the styles of other authors, and every correct policy with its spaces."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from good import (
    BOTH,
    CONTINUOUS,
    DICT,
    DISCRETE,
    FOUR,
    HYBRID,
    IMAGE,
    IMAGE_HWC,
    MATRIX,
    SEVERAL,
    GoodLSTM,
    GoodMLP,
    Head,
    flat,
    layer,
    width,
)
from good_actions import MaskedLSTM, OneTypeForAllParts, SquashedAim
from good_memories import AgeingMemory, GRUMemory
from good_privileged import PAIRS_OF_PRIVILEGED
from good_sets import PAIRS_OF_SETS
from gymnasium import spaces as gym
from mutant import subject_of
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.utils.parametrizations import spectral_norm

from puffer_policies.checks.probes.subject import Subject
from puffer_policies.spaces import Spaces, image_layout


@dataclass(frozen=True)
class TowerConfig:
    width: int = 24
    depth: int = 2


class Tower(nn.Module):
    def __init__(self, inputs: int, config: TowerConfig) -> None:
        super().__init__()
        sizes = [inputs, *[config.width] * config.depth]
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"linear": layer(nn.Linear(a, b)), "act": nn.SiLU()})
            for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block["act"](block["linear"](x))
        return x


class NestedPolicy(GoodMLP):
    """Nested modules, and a dataclass for its options."""

    def __init__(self, env: Any, config: TowerConfig | None = None) -> None:
        config = config or TowerConfig()
        super().__init__(env, config.width)
        self.config = config
        self.encoder = Tower(width(self.spaces.observation), config)


class KwargsPolicy(GoodMLP):
    """Options by ``**kwargs``, and an unknown one is refused."""

    DEFAULTS: ClassVar = {"hidden_size": 20, "activation": "relu"}

    def __init__(self, env: Any, **kwargs: Any) -> None:
        unknown = kwargs.keys() - self.DEFAULTS.keys()
        if unknown:
            raise TypeError(f"unknown options {sorted(unknown)}")
        options = SimpleNamespace(**(self.DEFAULTS | kwargs))
        super().__init__(env, hidden_size=options.hidden_size)
        self.options = options


class ForwardingPolicy(GoodMLP):
    """Hands its keywords on to a class that refuses unknown ones."""

    def __init__(self, env: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(env, *args, **kwargs)
        self.layers_for_logging = [self.encoder, self.critic]  # registered above as well


class ScriptedPolicy(GoodMLP):
    """An encoder compiled by TorchScript."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        plain = nn.Sequential(self.encoder, nn.Tanh())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.encoder = torch.jit.script(plain)


class MyModulePolicy(GoodMLP):
    """A submodule called as the prefix that loaders strip carelessly."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.my_module = nn.Sequential(layer(nn.Linear(hidden_size, hidden_size)), nn.Tanh())
        self.module = nn.LayerNorm(hidden_size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.module(self.my_module(super().encode_observations(observations, state)))


class SeparateCritic(GoodMLP):
    """Two networks side by side: the hidden features of both are concatenated."""

    def __init__(self, env: Any, size: int = 16) -> None:
        super().__init__(env, 2 * size)
        inputs = width(self.spaces.observation)
        self.encoder = None
        self.pi = nn.Sequential(layer(nn.Linear(inputs, size)), nn.Tanh())
        self.vf = nn.Sequential(layer(nn.Linear(inputs, size)), nn.Tanh())
        self.actor = Head(self.spaces.action, size)
        self.critic = layer(nn.Linear(size, 1), 1.0)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features(observations).to(self.critic.weight.dtype)
        return torch.cat([self.pi(features), self.vf(features)], -1)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        pi, vf = hidden.chunk(2, -1)
        return self.actor(pi), self.critic(vf)


class SB3Names(GoodMLP):
    """Stable-Baselines3's names of the parts."""

    def __init__(self, env: Any, net_arch: tuple[int, ...] = (16, 16)) -> None:
        super().__init__(env, net_arch[-1])
        del self.encoder, self.actor, self.critic
        self.features_extractor = nn.Flatten()
        sizes = [width(self.spaces.observation), *net_arch]
        pairs = itertools.pairwise(sizes)
        layers = [each for a, b in pairs for each in (layer(nn.Linear(a, b)), nn.Tanh())]
        self.mlp_extractor = nn.ModuleDict({"policy_net": nn.Sequential(*layers)})
        self.action_net = Head(self.spaces.action, self.hidden_size)
        self.value_net = layer(nn.Linear(self.hidden_size, 1), 1.0)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features_extractor(self.features(observations))
        features = features.to(self.value_net.weight.dtype)
        return self.mlp_extractor["policy_net"](features)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.action_net(hidden), self.value_net(hidden)


class EmbeddingPolicy(GoodMLP):
    """A table of vectors for Discrete observations; rows that never occur get no gradient."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.table = nn.Embedding(int(self.spaces.observation.n), hidden_size)
        self.encoder = layer(nn.Linear(hidden_size, hidden_size))

    def features(self, observations: Any) -> Tensor:
        space = self.spaces.observation
        return self.table(observations.reshape(len(observations)).long() - int(space.start))


class ConvPolicy(GoodMLP):
    """A small convolutional network with group norm and the layout of its space."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        shape = self.spaces.observation.shape
        self.last = image_layout(self.spaces.observation) == "HWC"
        channels = shape[2] if self.last else shape[0]
        self.conv = nn.Sequential(
            layer(nn.Conv2d(channels, 8, 3, stride=2, padding=1)),
            nn.ReLU(),
            layer(nn.Conv2d(8, 8, 3, padding=1)),
            nn.GroupNorm(2, 8),
            nn.AdaptiveAvgPool2d((2, 2)),
            nn.Flatten(),
        )
        self.encoder = layer(nn.Linear(32, hidden_size))

    def features(self, observations: Any) -> Tensor:
        pixels = observations.movedim(-1, 1) if self.last else observations
        return self.conv(pixels.to(self.critic.weight.dtype) / 255)


class KeyedPolicy(GoodMLP):
    """A module for every key of a Dict."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        members = self.spaces.observation.spaces
        self.by_key = nn.ModuleDict(
            {key: layer(nn.Linear(width(space), 8)) for key, space in members.items()}
        )
        self.encoder = layer(nn.Linear(8 * len(members), hidden_size))

    def features(self, observations: Any) -> Tensor:
        members = self.spaces.observation.spaces
        dtype = self.critic.weight.dtype
        parts = [
            module(flat(members[key], observations[key]).to(dtype))
            for key, module in sorted(self.by_key.items())
        ]
        return torch.relu(torch.cat(parts, -1))


class StateStd(GoodMLP):
    """A Gaussian whose deviation depends on the observation, bounded in log space."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        shape = self.spaces.action.shape
        self.actor = None
        self.mu = layer(nn.Linear(hidden_size, math.prod(shape)), 0.01)
        self.log_std = layer(nn.Linear(hidden_size, math.prod(shape)), 0.01)
        self.is_continuous = True

    def logits(self, hidden: Tensor) -> Any:
        shape = (len(hidden), *self.spaces.action.shape)
        log_std = -2.0 + 3.0 * torch.tanh(self.log_std(hidden))
        return Normal(self.mu(hidden).view(shape), log_std.exp().view(shape), validate_args=False)


class BranchingHeads(GoodMLP):
    """A head for each choice in a ModuleList, as a list."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        sizes = self.spaces.action.nvec.tolist()
        self.actor = nn.ModuleList(layer(nn.Linear(hidden_size, n), 0.01) for n in sizes)

    def logits(self, hidden: Tensor) -> Any:
        return tuple(head(hidden) for head in self.actor)


class DropoutPolicy(GoodMLP):
    """Dropout while training, none while acting."""

    def __init__(self, env: Any, hidden_size: int = 16, rate: float = 0.1) -> None:
        super().__init__(env, hidden_size)
        self.dropout = nn.Dropout(rate)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.dropout(super().encode_observations(observations, state))


class NormalizedPolicy(GoodMLP):
    """Statistics of observations as buffers, set by `observe`, which the trainer calls."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.register_buffer("mean", torch.zeros(width(self.spaces.observation)))
        self.register_buffer("std", torch.ones(width(self.spaces.observation)))

    def observe(self, observations: Any) -> None:
        features = super().features(observations)
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)

    def features(self, observations: Any) -> Tensor:
        return ((super().features(observations) - self.mean) / self.std).clamp(-10.0, 10.0)


class SpectralPolicy(GoodMLP):
    """A spectral norm, whose estimate moves with every batch while training."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.encoder = nn.Sequential(
            self.encoder, nn.Tanh(), spectral_norm(nn.Linear(hidden_size, hidden_size))
        )


@dataclass(frozen=True)
class Good:
    """A correct policy class on one pair of spaces; it can be built as ``cls(spaces)``."""

    cls: type[nn.Module]
    spaces: Spaces
    declared: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = (type(each).__name__ for each in (self.spaces.observation, self.spaces.action))
        return f"{self.cls.__name__}-{'-'.join(kinds)}"

    def subject(self) -> Subject:
        return subject_of(self.cls, self.spaces, declared=self.declared)


DECLARED: dict[type[nn.Module], dict[str, Any]] = {
    DropoutPolicy: {"train_differs": "it drops out while training"},
    SpectralPolicy: {"train_differs": "its estimate moves while training"},
}
"""What a correct policy has to declare, by class."""

PAIRS: tuple[tuple[type[nn.Module], Spaces], ...] = (
    *((GoodMLP, each) for each in (DISCRETE, SEVERAL, CONTINUOUS, IMAGE, IMAGE_HWC, DICT)),
    (GoodMLP, Spaces(MATRIX, gym.MultiBinary(3))),
    (GoodMLP, Spaces(gym.MultiDiscrete([3, 2]), gym.Discrete(3, start=2))),
    (GoodMLP, Spaces(gym.Tuple((gym.Discrete(2), MATRIX)), gym.Box(-1.0, 1.0, (2, 3)))),
    (GoodMLP, Spaces(gym.Box(-1.0, 1.0, (3,), "float64"), gym.Box(-1.0, 1.0, ()))),
    *((GoodLSTM, each) for each in (DISCRETE, SEVERAL, CONTINUOUS, IMAGE, DICT)),
    *((GRUMemory, each) for each in (DISCRETE, SEVERAL, CONTINUOUS)),
    (GoodMLP, BOTH),
    *((cls, HYBRID) for cls in (GoodLSTM, SquashedAim, OneTypeForAllParts, MaskedLSTM)),
    (AgeingMemory, DISCRETE),
    (NestedPolicy, DISCRETE),
    (KwargsPolicy, SEVERAL),
    (ForwardingPolicy, DISCRETE),
    (ScriptedPolicy, DISCRETE),
    (MyModulePolicy, CONTINUOUS),
    (SeparateCritic, DISCRETE),
    (SB3Names, DISCRETE),
    (EmbeddingPolicy, Spaces(gym.Discrete(6, start=-1), FOUR)),
    (ConvPolicy, IMAGE),
    (ConvPolicy, IMAGE_HWC),
    (KeyedPolicy, DICT),
    (StateStd, CONTINUOUS),
    (BranchingHeads, SEVERAL),
    (DropoutPolicy, DISCRETE),
    (NormalizedPolicy, DISCRETE),
    (SpectralPolicy, DISCRETE),
    *PAIRS_OF_SETS,
    *PAIRS_OF_PRIVILEGED,
)

GOOD = tuple(Good(cls, spaces, DECLARED.get(cls, {})) for cls, spaces in PAIRS)
