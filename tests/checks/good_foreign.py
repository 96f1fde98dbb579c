"""Correct policies as other libraries and other authors write them, each a style of its own.

None of them has our parts, a record or the shape of a policy of ours: what they share here is heads
and four methods. `FOREIGN` lists them with the spaces that each is written for.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from good import IMAGE, IMAGE_HWC, MIXED, VECTOR
from gymnasium import spaces as gym
from torch import Tensor, nn
from torch.distributions import Beta, Normal
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from puffer_policies.nn.distributions import Categorical, distribution
from puffer_policies.spaces import Spaces

DISCRETE = Spaces(VECTOR, gym.Discrete(3))
CONTINUOUS = Spaces(VECTOR, gym.Box(-1.0, 1.0, (2,), np.float32))
SEVERAL = Spaces(VECTOR, gym.MultiDiscrete([3, 2]))
AGENTS = Spaces(gym.Box(-1.0, 1.0, (3, 4), np.float32), gym.Discrete(3))
TEAM = Spaces(gym.Box(-1.0, 1.0, (3, 4), np.float32), gym.MultiDiscrete([4, 4, 4]))
UNITS = Spaces(
    gym.Dict(
        {
            "units": gym.Box(-1.0, 1.0, (3, 4), np.float32),
            "mask": gym.Box(0.0, 1.0, (3,), np.float32),
        }
    ),
    gym.Discrete(3),
)
FRAMES = Spaces(gym.Box(-1.0, 1.0, (6, 4), np.float32), gym.Discrete(3))
CELLS = Spaces(gym.Box(0, 255, (9,), np.uint8), gym.Discrete(3))
HALF_BOUNDED = Spaces(
    gym.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32)), gym.Discrete(2)
)
IDS = Spaces(gym.MultiDiscrete([5, 7]), gym.Discrete(3))
KEYS = Spaces(MIXED, gym.Discrete(4))
PAIR = Spaces(gym.Tuple((gym.Discrete(3), VECTOR)), gym.Discrete(3))
SEEN = Spaces(
    gym.Dict({"camera": gym.Box(0, 255, (8, 8, 3), np.uint8), "speed": VECTOR}), gym.Discrete(3)
)


def small(module: Any, gain: float = 0.01) -> Any:
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


def mlp(*sizes: int, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers = [(nn.Linear(a, b), act()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable(layers))


class Style(nn.Module):
    """Heads of a Discrete space over `body`; rows in, rows out, as PufferLib's guide has it."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        self.space = env.single_observation_space
        self.actor = small(nn.Linear(hidden_size, int(env.single_action_space.n)))
        self.critic = nn.Linear(hidden_size, 1)
        self.body = self.make(hidden_size)

    def make(self, size: int) -> Any:
        return mlp(self.space.shape[0], size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(observations.to(self.critic.weight.dtype))

    def decode_actions(self, hidden: Tensor) -> Any:
        return self.actor(hidden), self.critic(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Any, state: Any = None) -> Any:
        return self.forward_eval(observations, state)


class Lambda(nn.Module):
    """A body made of submodules and one method."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


# -- libraries of reinforcement learning -----------------------------------------------------------


class CleanRL(nn.Module):
    """ppo.py's Agent: two networks, and the observation itself as what lies between."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        size = int(np.prod(envs.single_observation_space.shape))
        self.hidden_size, self.is_continuous = size, False
        self.critic = nn.Sequential(*mlp(size, 16, 16), small(nn.Linear(16, 1), 1.0))
        n = int(envs.single_action_space.n)
        self.actor = nn.Sequential(*mlp(size, 16, 16), small(nn.Linear(16, n)))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return observations.to(self.actor[0].weight.dtype)

    def decode_actions(self, hidden: Tensor) -> Any:
        return self.actor(hidden), self.critic(hidden)

    def forward(self, observations: Any, state: Any = None) -> Any:
        return self.decode_actions(self.encode_observations(observations))

    forward_eval = forward


class RslRl(CleanRL):
    """rsl_rl's ActorCritic: ELU networks and one std parameter, kept positive by a clamp."""

    def __init__(self, env: Any) -> None:
        nn.Module.__init__(self)
        size, numbers = env.single_observation_space.shape[0], env.single_action_space.shape[0]
        self.hidden_size, self.is_continuous = size, True
        self.actor = nn.Sequential(*mlp(size, 16, 8, act=nn.ELU), small(nn.Linear(8, numbers)))
        self.critic = nn.Sequential(*mlp(size, 16, 8, act=nn.ELU), nn.Linear(8, 1))
        self.std = nn.Parameter(torch.ones(numbers))

    def decode_actions(self, hidden: Tensor) -> Any:
        mean = self.actor(hidden)
        return Normal(mean, mean * 0.0 + self.std.clamp(1e-3, 1e3)), self.critic(hidden)


class RlGames(Style):
    """rl_games: inputs and values normalized by buffers, and a sigma that is not trained."""

    def __init__(self, env: Any) -> None:
        env = Spaces(env.single_observation_space, gym.Discrete(env.single_action_space.shape[0]))
        super().__init__(env)
        self.is_continuous = True
        self.register_buffer("running_mean", torch.zeros(self.space.shape))
        self.register_buffer("running_var", torch.ones(self.space.shape))
        self.register_buffer("value_std", torch.tensor(1.5))
        self.sigma = nn.Parameter(torch.zeros(self.actor.out_features), requires_grad=False)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.running_mean.dtype) - self.running_mean
        return self.body((x / (self.running_var + 1e-5).sqrt()).clamp(-5.0, 5.0))

    def decode_actions(self, hidden: Tensor) -> Any:
        mu = self.actor(hidden)
        sigma = self.sigma.clamp(-5, 2).exp().expand_as(mu)
        return Normal(mu, sigma), self.critic(hidden) * self.value_std


class TorchRL(RslRl):
    """TorchRL: one head gives loc and a softplus scale side by side; leading axes are merged."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        del self.std
        size, numbers = env.single_observation_space.shape[0], env.single_action_space.shape[0]
        self.actor = nn.Sequential(*mlp(size, 16), small(nn.Linear(16, 2 * numbers)))

    def decode_actions(self, hidden: Tensor) -> Any:
        loc, scale = self.actor(hidden).chunk(2, -1)
        return Normal(loc, F.softplus(scale + 0.54).clamp(1e-4, 1e4)), self.critic(hidden)

    def forward(self, observations: Any, state: Any = None) -> Any:
        return self.forward_eval(observations.flatten(0, -2))


class NatureCNN(Style):
    """Stable-Baselines3's NatureCNN: the flat size is found by a pass when it is built."""

    def make(self, size: int) -> nn.Module:
        cnn = nn.Sequential(
            nn.Conv2d(self.space.shape[0], 8, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = cnn(torch.zeros(1, *self.space.shape)).shape[1]
        return nn.Sequential(cnn, nn.Linear(flat, size), nn.ReLU())

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(observations.to(self.critic.weight.dtype) / 255.0)


class CombinedExtractor(Style):
    """Stable-Baselines3's extractors, one for every key, and the results side by side."""

    def make(self, size: int) -> nn.Module:
        pixels = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU())
        extractors = nn.ModuleDict({"camera": pixels, "speed": nn.Flatten()})
        return Lambda(extractors=extractors, last=nn.Linear(12, size))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        dtype = self.critic.weight.dtype
        inputs = {key: each.to(dtype) for key, each in observations.items()}
        inputs["camera"] = inputs["camera"] / 255
        parts = [part(inputs[key]) for key, part in self.body.extractors.items()]
        return torch.tanh(self.body.last(torch.cat(parts, 1)))


class MaskablePPO(Style):
    """sb3-contrib: a mask in the state where there is one, and no mask else."""

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        logits, values = super().forward_eval(observations)
        mask = None if state is None else state.get("action_mask")
        if mask is None:
            return logits, values
        if not torch.compiler.is_compiling() and not bool(mask.any(-1).all()):
            raise ValueError("a row allows no action")
        return logits.masked_fill(~mask.reshape(logits.shape), -math.inf), values


class Branches(Style):
    """ML-Agents: one wide layer, split into branches."""

    def __init__(self, env: Any) -> None:
        self.sizes = env.single_action_space.nvec.tolist()
        super().__init__(Spaces(env.single_observation_space, gym.Discrete(sum(self.sizes))))

    def decode_actions(self, hidden: Tensor) -> Any:
        return torch.split(self.actor(hidden), self.sizes, dim=-1), self.critic(hidden)


# -- blocks of other fields ------------------------------------------------------------------------


class Transformer(Style):
    """A pre-norm block of the Hugging Face kind, over the numbers of an observation as tokens."""

    def make(self, size: int) -> nn.Module:
        self.cls = nn.Parameter(torch.randn(1, 1, size) * 0.02)
        self.position = nn.Parameter(torch.randn(1, self.space.shape[0] + 1, size) * 0.02)
        return Lambda(
            embed=nn.Linear(1, size),
            norm=nn.LayerNorm(size),
            attention=nn.MultiheadAttention(size, 2, batch_first=True),
            mlp=nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size), nn.GELU()),
        )

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = self.body.embed(observations.to(self.cls.dtype).unsqueeze(-1))
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        y = self.body.norm(x)
        x = x + self.body.attention(y, y, y, need_weights=False)[0]
        return (x + self.body.mlp(x))[:, 0]


class Llama(Style):
    """RMS norms without a bias, a gated SiLU, and a residual stream."""

    def make(self, size: int) -> nn.Module:
        widen = nn.Linear(size, 4 * size, bias=False)
        narrow = nn.Linear(2 * size, size, bias=False)
        embed = nn.Linear(self.space.shape[0], size, bias=False)
        return Lambda(embed=embed, norm=nn.RMSNorm(size), widen=widen, narrow=narrow)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = self.body.embed(observations.to(self.critic.weight.dtype))
        gate, up = self.body.widen(self.body.norm(x)).chunk(2, -1)
        return x + self.body.narrow(F.silu(gate) * up)


class Patches(Style):
    """Patches as einops would cut them, by a view and a permutation."""

    def make(self, size: int) -> nn.Module:
        channels = self.space.shape[-1]
        return Lambda(embed=nn.Linear(4 * channels, size), norm=nn.LayerNorm(size))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.critic.weight.dtype) / 255
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)
        position = torch.linspace(-1, 1, x.shape[1], device=x.device, dtype=x.dtype)
        return self.body.norm((self.body.embed(x) * position[:, None]).mean(1))


class Experts(Style):
    """A soft mixture of experts."""

    def make(self, size: int) -> nn.Module:
        inputs = self.space.shape[0]
        return Lambda(
            gate=nn.Linear(inputs, 3), experts=nn.ModuleList(mlp(inputs, size) for _ in range(3))
        )

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.critic.weight.dtype)
        outputs = torch.stack([expert(x) for expert in self.body.experts], 1)  # (N, E, H)
        return (self.body.gate(x).softmax(-1).unsqueeze(-1) * outputs).sum(1)


class Units(Style):
    """The mean over units that are there, by flags that the space calls real numbers."""

    def make(self, size: int) -> nn.Module:
        return nn.Linear(4, size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        there = self.flags(observations["mask"]).unsqueeze(-1)
        units = observations["units"].to(self.critic.weight.dtype).masked_fill(~there, 0.0)
        pooled = self.body(units).tanh().masked_fill(~there, 0.0).sum(-2)
        return pooled / there.sum(-2).clamp(min=1)

    def flags(self, mask: Tensor) -> Tensor:
        return mask.bool()


class UnitsAboveHalf(Units):
    """The same by a comparison, which takes NaN for an absence."""

    def flags(self, mask: Tensor) -> Tensor:
        return mask > 0.5


class HyperNetwork(Style):
    """One half of the observation makes the weights that the other half goes through."""

    def make(self, size: int) -> nn.Module:
        return nn.Linear(2, 2 * size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        context, x = observations.to(self.critic.weight.dtype).split(2, -1)
        weight = self.body(context).unflatten(-1, (2, self.hidden_size))
        return torch.einsum("ni,nih->nh", x, weight).tanh()


class Ensemble(Style):
    """Stacked weights under one einsum, and the mean of the members."""

    def make(self, size: int) -> nn.Module:
        weights = torch.randn(4, self.space.shape[0], size) / 2
        return nn.ParameterDict(
            {"w": nn.Parameter(weights), "b": nn.Parameter(torch.zeros(4, size))}
        )

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.body["w"].dtype)
        return (torch.einsum("ni,eih->neh", x, self.body["w"]) + self.body["b"]).tanh().mean(1)


class DeepSets(Style):
    """Entities through one network, pooled: at (B, T, E, F) it would pool the wrong axis."""

    def make(self, size: int) -> nn.Module:
        return mlp(self.space.shape[-1], size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(observations.to(self.critic.weight.dtype)).amax(1)


class Team(Style):
    """Agents that share weights and attend to each other; an action for each of them."""

    def __init__(self, env: Any) -> None:
        n = int(env.single_action_space.nvec[0])
        super().__init__(Spaces(env.single_observation_space, gym.Discrete(n)), 48)
        self.actor, self.critic = small(nn.Linear(16, n)), nn.Linear(48, 1)

    def make(self, size: int) -> nn.Module:
        return Lambda(
            embed=nn.Linear(4, 16), attention=nn.MultiheadAttention(16, 1, batch_first=True)
        )

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = self.body.embed(observations.to(self.critic.weight.dtype))
        return (x + self.body.attention(x, x, x)[0]).flatten(1)

    def decode_actions(self, hidden: Tensor) -> Any:
        logits = self.actor(hidden.unflatten(-1, (3, 16)))
        return list(logits.unbind(1)), self.critic(hidden)


class Conv1d(Style):
    """A convolution over time steps that lie side by side in the observation."""

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(self.space.shape[1], 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, size)
        )

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(observations.to(self.critic.weight.dtype).transpose(1, 2))


class KeyedTuple(Style):
    """An embedded code beside a vector, from a Tuple."""

    def make(self, size: int) -> nn.Module:
        return Lambda(code=nn.Embedding(3, 8), vector=nn.Linear(4, 8))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        code, vector = observations
        vector = self.body.vector(vector.to(self.critic.weight.dtype))
        return torch.cat([self.body.code(code.long().flatten()), vector], -1).tanh()


class Nested(Style):
    """A Dict in a Dict, by attribute of each key, with one-hot codes."""

    def make(self, size: int) -> nn.Module:
        return mlp(8, size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        inside = observations["inside"]
        code = F.one_hot(inside["b"].long().flatten(), 3)
        parts = (inside["a"], code, observations["where"])
        return self.body(torch.cat([each.to(self.critic.weight.dtype) for each in parts], -1))


class Codes(Style):
    """An embedding for each of several codes, summed."""

    def make(self, size: int) -> nn.Module:
        return nn.ModuleList(nn.Embedding(int(n), size) for n in self.space.nvec)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        columns = observations.long().unbind(-1)
        return sum(table(each) for table, each in zip(self.body, columns, strict=True)).tanh()


class Cells(Style):
    """Cells of a grid in a space of bytes, of which only twelve occur."""

    conformance: ClassVar = {"codes": 12}

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(36, size), nn.ReLU())

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(observations.long())


# -- weights of other kinds ------------------------------------------------------------------------


class LoRA(Style):
    """A frozen layer with a trained difference of low rank, which begins at zero."""

    def make(self, size: int) -> nn.Module:
        base = nn.Linear(self.space.shape[0], size).requires_grad_(False)
        down = nn.Linear(self.space.shape[0], 2, bias=False)
        up = nn.Linear(2, size, bias=False)
        nn.init.zeros_(up.weight)
        return Lambda(base=base, down=down, up=up)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.critic.weight.dtype)
        return torch.tanh(self.body.base(x) + 2.0 * self.body.up(self.body.down(x)))


class WeightNorm(Style):
    """Weights as a direction and a length."""

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(
            parametrizations.weight_norm(nn.Linear(self.space.shape[0], size)), nn.ELU()
        )


class OrthogonalWeights(Style):
    """Weights on the manifold of orthogonal matrices."""

    def make(self, size: int) -> nn.Module:
        square = parametrizations.orthogonal(nn.Linear(size, size), orthogonal_map="householder")
        return nn.Sequential(nn.Linear(self.space.shape[0], size), nn.Tanh(), square)


class SpectralCritic(Style):
    """A critic of bounded slope, whose estimate moves with every batch while training."""

    conformance: ClassVar = {"train_differs": "its estimate of the norm moves while training"}

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.critic = parametrizations.spectral_norm(nn.Linear(self.hidden_size, 1))


class Tied(Style):
    """Logits as products with vectors of the actions, which the value reads as well."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor = nn.Embedding(int(env.single_action_space.n), self.hidden_size)
        nn.init.normal_(self.actor.weight, 0, 0.01)

    def decode_actions(self, hidden: Tensor) -> Any:
        logits = hidden @ self.actor.weight.T
        return logits, self.critic(hidden + logits.softmax(-1) @ self.actor.weight)


class SharedLayer(Style):
    """One layer under two names, declared as tied."""

    conformance: ClassVar = {"tied": ["body.last.weight", "body.last.bias"]}

    def make(self, size: int) -> nn.Module:
        first = nn.Linear(size, size)
        return Lambda(embed=nn.Linear(self.space.shape[0], size), first=first, last=first)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = self.body.embed(observations.to(self.critic.weight.dtype)).tanh()
        return self.body.last(self.body.first(x).tanh())


class Complex(Style):
    """Complex weights, whose size and angle become the features."""

    def make(self, size: int) -> nn.Module:
        weight = torch.randn(self.space.shape[0], size // 2, dtype=torch.complex64) / 2
        return nn.ParameterList([nn.Parameter(weight)])

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        weight = self.body[0]
        product = torch.view_as_real(observations.to(weight.dtype) @ weight).flatten(1)
        return product.to(self.critic.weight.dtype).tanh()


class FourierFeatures(Style):
    """Random frequencies in a buffer, and a spectrum."""

    def make(self, size: int) -> nn.Module:
        self.register_buffer("frequencies", torch.randn(self.space.shape[0], 8))
        return nn.Linear(16 + 3, size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.to(self.frequencies.dtype)
        angles = x @ self.frequencies
        spectrum = torch.fft.rfft(x).abs()
        return self.body(torch.cat([angles.sin(), angles.cos(), spectrum], -1)).tanh()


class BFloat16(Style):
    """A trunk in bfloat16 under heads in float32."""

    def make(self, size: int) -> nn.Module:
        return mlp(self.space.shape[0], size, size, act=nn.ReLU).bfloat16()

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        dtype = self.body[0].weight.dtype
        return self.body(observations.to(dtype)).to(self.critic.weight.dtype)


class Autocast(Style):
    """Products in bfloat16 by autocast, which weights don't show, so that it is declared."""

    conformance: ClassVar = {"half_precision": "autocast in the encoder"}

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        with torch.autocast(observations.device.type, torch.bfloat16):
            hidden = self.body(observations.to(self.critic.weight.dtype))
        return hidden.to(self.critic.weight.dtype)


class DoubleInside(Style):
    """A sensitive formula in float64, and float32 outside."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        x = observations.double()
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-3).sqrt()
        return self.body(x.to(self.critic.weight.dtype))


class Frozen(Style):
    """A pretrained trunk that stays in eval mode and is not trained."""

    def make(self, size: int) -> nn.Module:
        self.trunk = nn.Sequential(
            nn.Linear(self.space.shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)
        ).requires_grad_(False)
        return nn.Linear(8, size)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.trunk.eval()
        return self

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        with torch.no_grad():
            features = self.trunk(observations.to(self.critic.weight.dtype))
        return self.body(features).tanh()


class BatchNorm(Style):
    """Batch norms, declared."""

    conformance: ClassVar = {"train_differs": "batch norm"}

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(self.space.shape[0], size), nn.BatchNorm1d(size), nn.ReLU())


class GroupNorms(NatureCNN):
    """Instance and group norms between convolutions."""

    def make(self, size: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(self.space.shape[0], 8, 3, stride=2),
            nn.InstanceNorm2d(8, affine=True),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3),
            nn.GroupNorm(4, 8),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, size),
        )


class Bounds(Style):
    """The bounds of the space in buffers, some infinite, and a NaN where nothing is known yet."""

    def make(self, size: int) -> nn.Module:
        self.register_buffer("low", torch.as_tensor(self.space.low))
        self.register_buffer("high", torch.as_tensor(self.space.high))
        self.register_buffer("best_return", torch.tensor(math.nan))
        return mlp(self.space.shape[0], size)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body(torch.clamp(observations.to(self.low.dtype), self.low, self.high))


class Traced(Style):
    """A body traced by TorchScript."""

    def make(self, size: int) -> nn.Module:
        return torch.jit.trace(super().make(size), torch.zeros(2, self.space.shape[0]))


class Compiled(Style):
    """A body inside torch.compile, whose keys have a prefix."""

    def make(self, size: int) -> nn.Module:
        return torch.compile(super().make(size), backend="eager")


# -- heads of other kinds --------------------------------------------------------------------------


@dataclass
class BetaLogits:
    alpha: Tensor
    beta: Tensor
    low: Tensor
    high: Tensor


@distribution.register(BetaLogits)
class BetaActions:
    def __init__(self, logits: BetaLogits) -> None:
        self.beta = Beta(logits.alpha, logits.beta, validate_args=False)
        self.low, self.width = logits.low, logits.high - logits.low

    def sample(self, generator: Any = None) -> Tensor:
        return (self.low + self.width * self.beta.sample()).detach()

    def mode(self) -> Tensor:
        a, b = self.beta.concentration1, self.beta.concentration0
        return self.low + self.width * (a - 1) / (a + b - 2)

    def log_prob(self, action: Tensor) -> Tensor:
        unit = ((action - self.low) / self.width).clamp(1e-6, 1 - 1e-6)
        return (self.beta.log_prob(unit) - self.width.log()).sum(-1)

    def entropy(self) -> Tensor:
        return (self.beta.entropy() + self.width.log()).sum(-1)


class BetaPolicy(RslRl):
    """A Beta distribution on a Box that lies off zero, as logits of its own type."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        del self.std
        space = env.single_action_space
        size, numbers = env.single_observation_space.shape[0], space.shape[0]
        self.actor = nn.Sequential(*mlp(size, 16), small(nn.Linear(16, 2 * numbers)))
        self.register_buffer("low", torch.as_tensor(space.low))
        self.register_buffer("high", torch.as_tensor(space.high))

    def decode_actions(self, hidden: Tensor) -> Any:
        alpha, beta = (1.1 + F.softplus(self.actor(hidden)).clamp(max=100)).chunk(2, -1)
        return BetaLogits(alpha, beta, self.low, self.high), self.critic(hidden)


@dataclass
class Mixture:
    weights: Tensor
    logits: Tensor


@distribution.register(Mixture)
class MixtureActions(Categorical):
    def __init__(self, mixture: Mixture) -> None:
        parts = mixture.weights.log_softmax(-1).unsqueeze(-1) + mixture.logits.log_softmax(-1)
        super().__init__(parts.logsumexp(1))


class MixtureOfSoftmaxes(Style):
    """Three softmaxes and their weights, as logits of its own type."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.gate = nn.Linear(self.hidden_size, 3)
        self.actor = small(nn.Linear(self.hidden_size, 3 * int(env.single_action_space.n)))

    def decode_actions(self, hidden: Tensor) -> Any:
        logits = self.actor(hidden).unflatten(-1, (3, -1))
        return Mixture(self.gate(hidden), logits), self.critic(hidden)


class TwoHot(Style):
    """DreamerV3's critic: a softmax over bins of symlog returns, whose mean is the value."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.critic = small(nn.Linear(self.hidden_size, 15))
        self.register_buffer("bins", torch.linspace(-5, 5, 15))

    def decode_actions(self, hidden: Tensor) -> Any:
        mean = (self.critic(hidden).softmax(-1) * self.bins).sum(-1, keepdim=True)
        return self.actor(hidden), mean.sign() * mean.abs().expm1()


class Quantiles(Style):
    """A critic of quantiles, whose mean is the value."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.critic = nn.Linear(self.hidden_size, 8)

    def decode_actions(self, hidden: Tensor) -> Any:
        return self.actor(hidden), self.critic(hidden).mean(-1, keepdim=True)


class NoisyNet(Style):
    """Noise in the actor while training, declared; the mean of the weights else."""

    conformance: ClassVar = {"train_differs": "noise while training", "first_entropy": 0.5}

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.noise = nn.Parameter(torch.full_like(self.actor.weight, 0.01))

    def decode_actions(self, hidden: Tensor) -> Any:
        weight = self.actor.weight
        if self.training:
            weight = weight + self.noise * torch.randn_like(self.noise)
        else:
            weight = weight + 0.0 * self.noise
        return F.linear(hidden, weight, self.actor.bias), self.critic(hidden)


# -- memories --------------------------------------------------------------------------------------


class Memory(Style):
    """Steps a state of named tensors; `advance` says how, `empty` how it begins."""

    def empty(self, rows: int) -> dict[str, Tensor]:
        raise NotImplementedError

    def advance(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        return {key: each.to(device) for key, each in self.empty(batch_size).items()}

    def run(self, x: Tensor, state: Any) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        state = {} if state is None else state
        fresh = {key: each.to(x.device) for key, each in self.empty(len(x)).items()}
        carry = {k: each if state.get(k) is None else state[k] for k, each in fresh.items()}
        starts, outputs = state.get("episode_start"), []
        for t in range(x.shape[1]):
            if starts is not None:
                now = starts.reshape(len(x), -1)[:, t].bool()
                carry = {
                    k: torch.where(now.reshape(-1, *[1] * (v.ndim - 1)), fresh[k], v)
                    for k, v in carry.items()
                }
            out, carry = self.advance(x[:, t], carry)
            outputs.append(out)
        state.update({key: each.detach() for key, each in carry.items()})
        return torch.stack(outputs, 1)

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        hidden = self.encode_observations(observations).unsqueeze(1)
        return self.decode_actions(self.run(hidden, state)[:, 0])

    def forward(self, observations: Any, state: Any = None) -> Any:
        if observations.ndim == len(self.space.shape) + 1:
            return self.forward_eval(observations, state)
        rows, steps = observations.shape[:2]
        hidden = self.encode_observations(observations.flatten(0, 1)).unflatten(0, (rows, steps))
        logits, values = self.decode_actions(self.run(hidden, state).flatten(0, 1))
        return logits, values.reshape(rows, steps)


class LearnedStart(Memory):
    """A GRU cell that begins in a state which is trained."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.cell = nn.GRUCell(self.hidden_size, self.hidden_size)
        self.start = nn.Parameter(torch.full((self.hidden_size,), 0.1))

    def empty(self, rows: int) -> dict[str, Tensor]:
        return {"hidden": self.start.expand(rows, -1)}

    def advance(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = self.cell(x, carry["hidden"])
        return hidden, {"hidden": hidden}


class StartAtResets(LearnedStart):
    """The same, but the state begins at zero and takes the trained one where episodes start."""

    def empty(self, rows: int) -> dict[str, Tensor]:
        return {"hidden": torch.zeros(rows, self.hidden_size, dtype=self.start.dtype)} | {
            "fresh": torch.ones(rows, dtype=torch.bool)
        }

    def advance(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        before = torch.where(carry["fresh"].unsqueeze(-1), self.start, carry["hidden"])
        hidden = self.cell(x, before)
        return hidden, {"hidden": hidden, "fresh": torch.zeros_like(carry["fresh"])}


class Clock(Memory):
    """A state that counts the steps of an episode, and remembers no observation."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.time = nn.Linear(2, self.hidden_size)

    def empty(self, rows: int) -> dict[str, Tensor]:
        return {"age": torch.zeros(rows, 1)}

    def advance(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        angle = carry["age"].to(x.dtype) * 0.3
        return x + self.time(torch.cat([angle.sin(), angle.cos()], -1)), {"age": carry["age"] + 1}


class Window(Memory):
    """The last three encodings in a ring, which the heads read at once."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.mix = nn.Linear(3 * self.hidden_size, self.hidden_size)

    def empty(self, rows: int) -> dict[str, Tensor]:
        return {"window": torch.zeros(rows, 3, self.hidden_size, dtype=self.mix.weight.dtype)}

    def advance(self, x: Tensor, carry: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        window = torch.cat([carry["window"][:, 1:], x.unsqueeze(1)], 1)
        return self.mix(window.flatten(1)).tanh(), {"window": window}


FOREIGN: tuple[tuple[type[nn.Module], Spaces], ...] = (
    (CleanRL, DISCRETE),
    (RslRl, CONTINUOUS),
    (RlGames, CONTINUOUS),
    (TorchRL, CONTINUOUS),
    (NatureCNN, IMAGE),
    (CombinedExtractor, SEEN),
    (MaskablePPO, DISCRETE),
    (Branches, SEVERAL),
    (Transformer, DISCRETE),
    (Llama, DISCRETE),
    (Patches, IMAGE_HWC),
    (Experts, DISCRETE),
    (Units, UNITS),
    (UnitsAboveHalf, UNITS),
    (HyperNetwork, DISCRETE),
    (Ensemble, DISCRETE),
    (DeepSets, AGENTS),
    (Team, TEAM),
    (Conv1d, FRAMES),
    (KeyedTuple, PAIR),
    (Nested, KEYS),
    (Codes, IDS),
    (Cells, CELLS),
    (LoRA, DISCRETE),
    (WeightNorm, DISCRETE),
    (OrthogonalWeights, DISCRETE),
    (SpectralCritic, DISCRETE),
    (Tied, DISCRETE),
    (SharedLayer, DISCRETE),
    (Complex, DISCRETE),
    (FourierFeatures, DISCRETE),
    (BFloat16, DISCRETE),
    (Autocast, DISCRETE),
    (DoubleInside, DISCRETE),
    (Frozen, DISCRETE),
    (BatchNorm, DISCRETE),
    (GroupNorms, IMAGE),
    (Bounds, HALF_BOUNDED),
    (Traced, DISCRETE),
    (Compiled, DISCRETE),
    (BetaPolicy, Spaces(VECTOR, gym.Box(-1.0, 3.0, (2,), np.float32))),
    (MixtureOfSoftmaxes, DISCRETE),
    (TwoHot, DISCRETE),
    (Quantiles, DISCRETE),
    (NoisyNet, DISCRETE),
    (LearnedStart, DISCRETE),
    (StartAtResets, DISCRETE),
    (Clock, DISCRETE),
    (Window, DISCRETE),
)
