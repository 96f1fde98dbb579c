"""Policies that break one promise of numbers each: plainly, and in another author's style."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from good import CONTINUOUS, FOUR, MATRIX, SEVERAL, VECTOR, GoodLSTM, GoodMLP, layer
from good_policies import EmbeddingPolicy
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.spaces import Spaces, spaces_of

UNBOUNDED = Spaces(gym.Box(-np.inf, np.inf, (4,), np.float32), FOUR)

# -- N1 --------------------------------------------------------------------------------------------


class CleansObservations(GoodMLP):
    def features(self, observations: Any) -> Tensor:
        return super().features(torch.nan_to_num(observations))


class CleansLogits(GoodLSTM):
    """PufferLib's guard against NaN logits, by another function."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return torch.where(torch.isfinite(logits), logits, torch.zeros_like(logits))


class InfinityIsNothing(GoodMLP):
    """Infinite readings count as missing, that is as 0."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations.masked_fill(observations.isinf(), 0.0))


# -- N2 --------------------------------------------------------------------------------------------


class Exponential(GoodMLP):
    """Features are the exponential of observations."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations).exp()


class LogOfSoftmax(GoodMLP):
    """Logits by way of probabilities, whose logarithm ends at 0."""

    def logits(self, hidden: Tensor) -> Any:
        return torch.log(torch.softmax(super().logits(hidden), -1))


class LogOfOdds(GoodMLP):
    """The logits of two-way choices by way of the probability of each."""

    def logits(self, hidden: Tensor) -> Any:
        chances = (torch.sigmoid(each[:, 1:] - each[:, :1]) for each in super().logits(hidden))
        return tuple(torch.log(torch.cat([1 - each, each], -1)) for each in chances)


class ExplodingMemory(GoodLSTM):
    """The cell grows a little at each step: nothing in ten, too much in a thousand."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, c = super().advance(hidden, h, c)
        return h, c * 2.5


class GrowingMemory(GoodLSTM):
    """A linear recurrence whose factor is a little above 1; what it shows of it is bounded."""

    def advance(self, hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, _ = super().advance(hidden, h, c.tanh())
        return h, 1.02 * c + 0.1 * h


class Sharpened(nn.Module):
    """The share of each number's eighth power in their sum: infinity of infinity at extremes."""

    def forward(self, x: Tensor) -> Tensor:
        powers = x.pow(8)
        return x.sign() * powers / (powers.sum(-1, keepdim=True) + 1e-6)


class Sharp(GoodMLP):
    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)
        self.sharpen = Sharpened()

    def features(self, observations: Any) -> Tensor:
        return self.sharpen(super().features(observations))


class DividesByItsNorm(GoodMLP):
    """Directions only: an observation of zeros has none."""

    def features(self, observations: Any) -> Tensor:
        features = super().features(observations)
        return features / features.norm(dim=-1, keepdim=True)


class PoolsOverPresent(GoodMLP):
    """A mean over the entities that are there, which the empty set has none of."""

    def features(self, observations: Any) -> Tensor:
        rows = observations.reshape(len(observations), 3, 5)
        present = rows.ne(0).any(-1, keepdim=True)
        if bool(present.all()):
            return super().features(observations)
        pooled = (rows * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
        return super().features(rows * present + 0 * pooled)


class CodesFromZero(EmbeddingPolicy):
    """A table of n rows for codes that begin at 1: the last has no row."""

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.reshape(len(observations)).long())


# -- N3 --------------------------------------------------------------------------------------------


class Unclamped(GoodMLP):
    """The scale of PufferLib and CleanRL: exp of a parameter, as it is."""

    def logits(self, hidden: Tensor) -> Any:
        loc = self.actor.linear(hidden)
        return Normal(loc, self.actor.log_std.exp().expand_as(loc), validate_args=False)


class ClampedAfterExp(GoodMLP):
    """A state-dependent scale whose bounds come after exp: NaN gradients beyond."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        del self.actor.log_std
        self.spread = layer(nn.Linear(self.hidden_size, self.spaces.action.shape[0]), 0.01)

    def logits(self, hidden: Tensor) -> Any:
        loc = self.actor.linear(hidden)
        return Normal(loc, self.spread(hidden).exp().clamp(1e-6, 1e3), validate_args=False)


class RowOfScales(Unclamped):
    """The scale as PufferLib and CleanRL have it, (1, n)."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor.log_std = nn.Parameter(torch.zeros(1, 2))


class ClampsWhereItTrains(GoodMLP):
    """forward bounds the scale and forward_eval does not: a drift shows in the ratio only."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        hidden = self.encode_observations(observations)
        loc = self.actor.linear(hidden)
        scale = (self.actor.log_std.clamp(-20, 20)).exp().expand_as(loc)
        return Normal(loc, scale, validate_args=False), self.value(hidden)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.encode_observations(observations.flatten(0, -2)))


# -- N4 --------------------------------------------------------------------------------------------


class Around(nn.Module):
    """A wrapper in plain torch that changes nothing."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.policy = GoodMLP(env)
        self.hidden_size, self.is_continuous = 16, self.policy.is_continuous

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.policy.encode_observations(observations, state=state)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.policy.decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.policy.forward_eval(observations, state)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.policy(observations, state)


class InitialisesAll(Around):
    """PufferLib 3.0's LSTMWrapper: every weight it can reach becomes orthogonal with gain 1."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        for name, parameter in self.named_parameters():
            if "bias" not in name and parameter.ndim > 1:
                nn.init.orthogonal_(parameter, 1.0)


class Hub(nn.ModuleDict):
    """A wrapper of another style: its parts are in a dict, and it resets those it calls trunk."""

    def __init__(self, env: Any) -> None:
        super().__init__({"inner": GoodMLP(env)})
        self["inner"].encoder.reset_parameters()
        self.hidden_size, self.is_continuous = 16, self["inner"].is_continuous

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self["inner"].encode_observations(observations, state)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self["inner"].decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self["inner"].forward_eval(observations, state)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self["inner"](observations, state)


class OneDrawForAllGates(GoodLSTM):
    """One orthogonal draw over the four gates, where each gate is declared orthogonal."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        nn.init.orthogonal_(self.cell.weight_hh)


# -- N5 --------------------------------------------------------------------------------------------


class OpinionatedActor(GoodMLP):
    """The actor's gain is that of a hidden layer."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        layer(self.actor.linear, math.sqrt(2))


class OptimisticCritic(GoodLSTM):
    """Optimism in the face of uncertainty, as a bias."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        nn.init.constant_(self.critic.bias, 25.0)


class InitializesAll(GoodMLP):
    """A wrapper whose loop over its parameters meets those of what it holds."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.policy = GoodMLP(env)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.1)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        inside = self.policy.encode_observations(observations)
        return torch.tanh(super().encode_observations(observations) + inside)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        (logits, values), (more, others) = (
            super().decode_actions(hidden),
            self.policy.decode_actions(hidden),
        )
        return logits + more, values + others


# -- N6 --------------------------------------------------------------------------------------------


class DetachedEncoder(GoodMLP):
    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return super().encode_observations(observations, state).detach()


class LeftOver(GoodMLP):
    """A layer from an earlier version is still there."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.old_head = nn.Sequential(layer(nn.Linear(16, 16)), nn.ReLU())


class ActorDetached(GoodMLP):
    """The actor reads what only the critic trains."""

    def logits(self, hidden: Tensor) -> Any:
        return super().logits(hidden.detach())


class BothFactorsZero(GoodMLP):
    """An adapter of two factors, of which each waits for the other."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        width = self.encoder.out_features
        self.down, self.up = (nn.Linear(a, b, bias=False) for a, b in ((width, 2), (2, width)))
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return hidden + self.up(self.down(hidden))


class OneUnitManyTimes(GoodMLP):
    """Weights are constants, for the sake of repeatable runs."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        for weight in (self.encoder.weight, self.actor.linear.weight, self.critic.weight):
            nn.init.constant_(weight, 0.1)


class HalfOfTheRows(GoodLSTM):
    """Some rows of a weight are taken out of the graph, as in a mask of what is pruned."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        features = self.features(observations).to(self.critic.weight.dtype)
        weight = torch.cat([self.encoder.weight[:12], self.encoder.weight[12:].detach()])
        return torch.tanh(nn.functional.linear(features, weight, self.encoder.bias))


class OneScaleStandsStill(GoodMLP):
    """One of two scales begins outside the clamp, where no gradient reaches it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        with torch.no_grad():
            self.actor.log_std.copy_(torch.tensor([0.0, -9.0]))


class GivenVectors(GoodMLP):
    """`from_pretrained` freezes what it is given, here a random table."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        codes = int(self.spaces.observation.n)
        self.table = nn.Embedding.from_pretrained(torch.randn(codes, 16))
        self.encoder = layer(nn.Linear(16, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        return self.table(observations.reshape(len(observations)).long())


class WarmUpWithoutEnd(GoodMLP):
    """The encoder stands still for the first iterations, and for all others."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder.requires_grad_(False)


# -- N7 --------------------------------------------------------------------------------------------


class Reversal(torch.autograd.Function):
    """Passes numbers on and turns gradients round, as domain adaptation does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -grads[0]


class WrongSign(GoodMLP):
    def logits(self, hidden: Tensor) -> Any:
        return Reversal.apply(super().logits(hidden))


class Lukewarm(GoodLSTM):
    """A temperature so high that no logit can matter."""

    def logits(self, hidden: Tensor) -> Any:
        return super().logits(hidden) / 1e4


class TanhOnLogits(GoodMLP):
    """Logits between -1 and 1: the best of four options never gets more than 71 %."""

    def logits(self, hidden: Tensor) -> Any:
        return torch.tanh(super().logits(hidden))


class SoftmaxTwice(GoodLSTM):
    """Probabilities where logits were meant."""

    def logits(self, hidden: Tensor) -> Any:
        return tuple(each.softmax(-1) for each in super().logits(hidden))


class ReLUOnLogits(GoodMLP):
    """The activation of the hidden layers after the last one, too: an option that falls is dead."""

    def logits(self, hidden: Tensor) -> Any:
        return torch.relu(super().logits(hidden))


class NeverNegative(GoodMLP):
    """Values behind a ReLU."""

    def value(self, hidden: Tensor) -> Tensor:
        return torch.relu(super().value(hidden) + 0.1)


class HalfTheRange(GoodMLP):
    """tanh as the mean, where the Box is wider and lies elsewhere."""

    def logits(self, hidden: Tensor) -> Any:
        normal = super().logits(hidden)
        return Normal(torch.tanh(normal.loc), normal.scale, validate_args=False)


class OneHeadForTwo(GoodMLP):
    """Both wheels get the number of one."""

    def logits(self, hidden: Tensor) -> Any:
        normal = super().logits(hidden)
        loc = normal.loc.sum(-1, keepdim=True).expand_as(normal.loc)
        return Normal(loc, normal.scale, validate_args=False)


class OneHeadForAll(GoodMLP):
    """Every choice reads the first options of one head."""

    def logits(self, hidden: Tensor) -> Any:
        largest = max(super().logits(hidden), key=lambda each: each.shape[-1])
        return tuple(largest[:, :n] for n in self.actor.sizes)


# -- N8 --------------------------------------------------------------------------------------------


class HalfPrecision(GoodMLP):
    """Autocast inside the policy, for speed."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = super().encode_observations(observations, state)
        return hidden.to(self.critic.weight.dtype)


class OnePassVariance(nn.Module):
    """Variance as mean of squares less square of mean: no digits are left far from 0."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        self.inner = GoodMLP(spaces_of(env), hidden_size)
        self.hidden_size, self.is_continuous = hidden_size, self.inner.is_continuous

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        shifted = observations.to(self.inner.critic.weight.dtype) + 300.0
        mean = shifted.mean(-1, keepdim=True)
        variance = shifted.square().mean(-1, keepdim=True) - mean.square()
        normed = (shifted - mean) / (variance.clamp(min=0) + 0.01).sqrt()
        return self.inner.encode_observations(normed)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.inner.decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.forward_eval(observations.reshape(-1, observations.shape[-1]), state)


DOES_NOT_LEARN = "what has no useful gradient can't learn a bandit either"
SHARED: dict[str, str] = {}
WIDE = Spaces(VECTOR, gym.Box(0.0, 4.0, (2,), np.float32))
RECURRENT = {"init": {"recurrent": "orthogonal"}}

MUTANTS_NUMERICS = (
    Mutant("N1", "cleans-observations", CleansObservations),
    Mutant("N1", "cleans-logits", CleansLogits, note="PufferLib 3.0: nan_to_num in sampling"),
    Mutant("N1", "infinity-is-nothing", InfinityIsNothing),
    Mutant("N2", "exponential", Exponential, UNBOUNDED),
    Mutant("N2", "exploding-memory", ExplodingMemory),
    Mutant("N2", "growing-memory", GrowingMemory),
    Mutant("N2", "sharpened", Sharp, UNBOUNDED),
    Mutant("N2", "divides-by-its-norm", DividesByItsNorm, UNBOUNDED),
    Mutant("N2", "pools-over-present", PoolsOverPresent, Spaces(MATRIX, FOUR)),
    Mutant("N2", "codes-from-zero", CodesFromZero, Spaces(gym.Discrete(3000, start=1), FOUR)),
    Mutant("N2", "log-of-softmax", LogOfSoftmax),
    Mutant("N2", "log-of-odds", LogOfOdds, Spaces(VECTOR, gym.MultiBinary(2))),
    Mutant("N3", "unclamped", Unclamped, CONTINUOUS, note="PufferLib 3.0 and CleanRL"),
    Mutant("N3", "clamped-after-exp", ClampedAfterExp, CONTINUOUS, note="lerobot#2108"),
    Mutant("N3", "row-of-scales", RowOfScales, CONTINUOUS),
    Mutant("N3", "clamps-where-it-trains", ClampsWhereItTrains, CONTINUOUS),
    Mutant(
        "N4",
        "initialises-all",
        InitialisesAll,
        also={"N5": "an actor of gain 1 is its consequence"},
        note="PufferLib#459",
    ),
    Mutant("N4", "resets-the-trunk", Hub),
    Mutant(
        "N4",
        "initialized-in-a-factory",
        InitializesAll,
        declared={"built": "a factory made it, and perhaps loaded its weights"},
    ),
    Mutant("N4", "one-draw-for-all-gates", OneDrawForAllGates, declared=RECURRENT),
    Mutant("N5", "opinionated-actor", OpinionatedActor),
    Mutant("N5", "optimistic-critic", OptimisticCritic),
    Mutant("N6", "detached-encoder", DetachedEncoder, also={"T1": "it moves nowhere"}),
    Mutant("N6", "left-over", LeftOver, also={"T1": "it moves nowhere"}),
    Mutant("N6", "actor-detached", ActorDetached),
    Mutant("N6", "both-factors-zero", BothFactorsZero, also={"T1": "they stay at 0"}),
    Mutant("N6", "one-unit-many-times", OneUnitManyTimes),
    Mutant("N6", "given-vectors", GivenVectors, Spaces(gym.Discrete(6), FOUR)),
    Mutant("N6", "warm-up-without-end", WarmUpWithoutEnd),
    Mutant("N6", "half-of-the-rows", HalfOfTheRows),
    Mutant("N6", "one-scale-stands-still", OneScaleStandsStill, CONTINUOUS),
    Mutant("N7", "tanh-on-logits", TanhOnLogits),
    Mutant("N7", "softmax-twice", SoftmaxTwice, SEVERAL),
    Mutant("N7", "relu-on-logits", ReLUOnLogits),
    Mutant("N7", "never-negative", NeverNegative),
    Mutant("N7", "half-the-range", HalfTheRange, WIDE),
    Mutant("N7", "one-head-for-two", OneHeadForTwo, CONTINUOUS, also=SHARED),
    Mutant("N7", "one-head-for-all", OneHeadForAll, SEVERAL, also=SHARED),
    Mutant("N7", "wrong-sign", WrongSign, also={"T3": DOES_NOT_LEARN}),
    Mutant("N7", "lukewarm", Lukewarm, also={"T2": DOES_NOT_LEARN}),
    Mutant("N8", "half-precision", HalfPrecision),
    Mutant("N8", "one-pass-variance", OnePassVariance),
)
