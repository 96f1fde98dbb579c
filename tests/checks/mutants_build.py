"""Policies that break one promise of building each: plainly, and in another author's style."""

from __future__ import annotations

import functools
import os
import random
import sys
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from good import CONTINUOUS, FOUR, GoodLSTM, GoodMLP, layer
from good_actions import typed
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.distributions import Gaussian, distribution
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces, spaces_of


class FirstAxisOnly(GoodMLP):
    """PufferLib's way: the first axis of the shape is the size. Discrete has none."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder = layer(nn.Linear(self.spaces.observation.shape[0], 16))


class RefusesWhatItDeclares(GoodMLP):
    """Its record says vectors, its constructor does not want them."""

    def __init__(self, env: Any, **_: Any) -> None:
        raise IncompatibleSpace("only images, please: observation space unsupported")


@dataclass
class NeedsSize(nn.Module):
    """A dataclass as module, whose field has no default."""

    env: Any
    hidden_size: int


class NoForwardEval(nn.Module):
    """PufferLib's guide, first form: forward and no forward_eval, which wrappers call."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        size = env.single_observation_space.shape[0]
        self.net = nn.Sequential(layer(nn.Linear(size, hidden_size)), nn.ReLU())
        self.action_head = layer(nn.Linear(hidden_size, env.single_action_space.n), 0.01)
        self.value_head = layer(nn.Linear(hidden_size, 1), 1.0)

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def encode_observations(self, observations: Tensor, state: Any = None) -> Tensor:
        return self.net(observations.flatten(0, -2).float())

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_head(hidden), self.value_head(hidden)


class NoStateKeyword(GoodMLP):
    """As 9 of PufferLib 3.0's policies: the wrapper passes state=, the encoder calls it rnn."""

    def encode_observations(self, observations: Any, rnn: Any = None) -> Tensor:  # type: ignore[override]
        return super().encode_observations(observations)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.encode_observations(observations))


class TwoPointOh(GoodMLP):
    """PufferLib 2.0: encode returns (hidden, lookup) and decode takes both."""

    def encode_observations(self, observations: Any, state: Any = None) -> Any:
        return super().encode_observations(observations), None

    def decode_actions(self, hidden: Tensor, lookup: Any) -> Any:  # type: ignore[override]
        return super().decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(*self.encode_observations(observations))


class SaysDiscrete(GoodMLP):
    """A copied line: it draws real numbers and says that it does not."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.is_continuous = False


class StaleWidth(GoodMLP):
    """The attribute is a constant that was right once."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.hidden_size = 128


class HalfHidden(GoodMLP):
    """What is encoded leaves in half the bits."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return super().encode_observations(observations, state).bfloat16()

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return super().decode_actions(hidden.to(self.critic.weight.dtype))


class WideDecoder(GoodLSTM):
    """A memory that hands its decoder h and c together."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.merge = layer(nn.Linear(32, 16))

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return super().decode_actions(torch.tanh(self.merge(hidden)))

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        state = {} if state is None else state
        hidden = self.encode_observations(observations)
        h, c = self.reset(*self.read(state, len(hidden)), state.get("episode_start"))
        h, c = self.advance(hidden, h, c)
        self.write(state, h, c)
        return self.decode_actions(torch.cat([h, hidden], -1))

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        h, c, outputs = super().run(hidden, h, c, starts)
        return h, c, torch.cat([outputs, hidden], -1)


class ListOfLayers(GoodMLP):
    """A Python list of layers."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.extra = [layer(nn.Linear(16, 16)) for _ in range(2)]

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        for each in self.extra:
            hidden = torch.tanh(each(hidden))
        return hidden


class HiddenInClosure(GoodMLP):
    """A layer that only a partial function of a config object knows."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.config = SimpleNamespace(post=functools.partial(_apply, layer(nn.Linear(16, 16))))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.config.post(super().encode_observations(observations, state))


def _apply(linear: nn.Module, hidden: Tensor) -> Tensor:
    return torch.tanh(linear(hidden))


class LooseTensor(GoodMLP):
    """A tensor that wants a gradient and is no nn.Parameter."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.gain = torch.ones(16, requires_grad=True)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return super().encode_observations(observations, state) * self.gain


class NotAModule:
    """Two of PufferLib's recurrent classes: no nn.Module, all the methods."""

    def __init__(self, env: Any) -> None:
        self.inner = GoodMLP(env)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)


class LazyEncoder(GoodMLP):
    """A size left to the first batch."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder = nn.LazyLinear(16)


class ScaledOnFirstCall(GoodMLP):
    """Data-dependent initialization that replaces the parameter."""

    first = True

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        if self.first:
            self.first = False
            self.encoder.weight = nn.Parameter(self.encoder.weight.detach().clone())
        return super().encode_observations(observations, state)


class SwallowsOptions(GoodMLP):
    """Keywords of an old version are accepted for the sake of old configs."""

    def __init__(self, env: Any, hidden_size: int = 16, **_: Any) -> None:
        super().__init__(env, hidden_size)


class MergedOptions(GoodMLP):
    """A config dictionary brought up to date with whatever comes."""

    def __init__(self, env: Any, **options: Any) -> None:
        values = {"hidden_size": 16, "activation": "tanh"}
        values.update(options)
        super().__init__(env, values["hidden_size"])


class WrongSlot(GoodMLP):
    """The width lands in the slot of the number of layers, which nobody reads."""

    def __init__(self, env: Any, hidden_size: int = 16) -> None:
        self._set_up(env, hidden_size)

    def _set_up(self, env: Any, num_layers: int = 1, hidden_size: int = 16) -> None:
        super().__init__(env, hidden_size)


class Reseeds(GoodMLP):
    """Made reproducible, for everyone."""

    def __init__(self, env: Any) -> None:
        torch.manual_seed(0)
        super().__init__(env)


class PythonsDice(GoodMLP):
    """Initial weights from a generator that no seed of torch reaches."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        scale = 1.0 + 0.01 * random.SystemRandom().random()
        self.encoder.weight.data.mul_(scale)


class SharesItsEncoder(GoodMLP):
    """A layer that is made when the class is, as the default of an argument would be."""

    made_once = nn.Linear(4, 16)

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder = self.made_once


class SwitchesGradients(GoodMLP):
    """Gradients are turned off for a step, and on afterwards, whatever they were."""

    def forward_eval(self, observations: Any, state: Any = None) -> Any:
        torch.set_grad_enabled(False)
        answer = super().forward_eval(observations, state)
        torch.set_grad_enabled(True)
        return answer


class LinksResources(GoodMLP):
    """PufferLib's import leaves a link in the working directory."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        if not os.path.islink("resources"):
            os.symlink(os.path.dirname(__file__), "resources")


class LeftOverDebugging(GoodMLP):
    """Lines that once found a NaN."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        torch.autograd.set_detect_anomaly(True)


class Announces(GoodMLP):
    """A line for the terminal."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        print(f"{sum(each.numel() for each in self.parameters())} parameters")


class SetsEnvironment(GoodMLP):
    """A setting of the process."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        os.environ["PUFFER_POLICIES_TEST"] = str(random.SystemRandom().random())


class SetsFlags(GoodMLP):
    """Faster on its author's card, for everyone."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        torch.backends.cudnn.benchmark = True


class SilencesWarnings(GoodMLP):
    """A filter of warnings, for a library that warns too much."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        warnings.filterwarnings("ignore", message=".*deprecated.*")


# -- B5, weights that a pass changes ---------------------------------------------------------------


class ClampsWeights(GoodMLP):
    """Every pass clamps the critic's weights in place, as critics of WGANs do."""

    def value(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            self.critic.weight.clamp_(-0.5, 0.5)
        return super().value(hidden)


class UnitRows(GoodLSTM):
    """Keeps the rows of a weight at norm 1 or below, through .data, while acting only."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        weight = self.encoder.weight.data
        weight /= weight.norm(dim=-1, keepdim=True).clamp(min=2.0) / 2.0
        return super().forward_eval(observations, state)


# -- B8 --------------------------------------------------------------------------------------------


class SeedingNormal(Normal):
    """Samples under a fixed seed, so that an evaluation can be repeated."""


@distribution.register(SeedingNormal)
class SeedingGaussian(Gaussian):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        torch.manual_seed(1234)
        return super().sample()


class ReseedsWhileActing(GoodMLP):
    """A pass that seeds, so that its dropout is reproducible."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        torch.manual_seed(0)
        return super().encode_observations(observations, state)


class PrintsShapes(GoodLSTM):
    """A line of debugging that was left in the sequence."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        print("forward", tuple(observations.shape), file=sys.stderr)
        return super().forward(observations, state)


class WantsDeterminism(GoodMLP):
    """Deterministic kernels from the first pass on, in the whole process."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        torch.backends.cudnn.deterministic = True
        return super().forward_eval(observations, state)


class BoundedByAHook(GoodMLP):
    """A hook of the gradient keeps weights small, whatever the optimizer makes of them."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        weight = self.encoder.weight

        def bound(grad: Tensor) -> Tensor:
            weight.data.clamp_(-0.1, 0.1)
            return grad

        weight.register_hook(bound)


class BoundsMadeFinite(GoodMLP):
    """Writes into the bounds of the space, which are the env's."""

    def __init__(self, env: Any) -> None:
        low = spaces_of(env).observation.low
        low[low < -10] = -10
        super().__init__(env)


class BoundsInPlace(GoodMLP):
    """A tensor of the bounds shares their memory."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        high = torch.from_numpy(self.spaces.action.high)
        self.reach = float(high.mul_(0.5).max())


class TorsoBesideTheHalves(GoodMLP):
    """The halves came later, for a memory, and the layer between them belongs to neither."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.torso = nn.Sequential(nn.Linear(16, 16), nn.Tanh())

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.torso(self.encode_observations(observations)))


class ClippedAfterBoth(GoodMLP):
    """Means are squashed by a step of the policy, and not by decode_actions."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward_eval(observations, state)
        return Normal(3 * torch.tanh(2 * logits.loc), logits.scale, validate_args=False), values


NUMBERED = Spaces(gym.Discrete(5), FOUR)
OPEN = Spaces(gym.Box(-np.inf, np.inf, (4,), np.float32), FOUR)
CLOSED = Spaces(gym.Box(-1.0, 1.0, (4,), np.float32), gym.Box(-1.0, 1.0, (2,), np.float32))
LEFT_BEHIND = {"P8": "what is not registered is not moved to another device"}
DRAWN_LATE = {"P8": "copies made before the first batch draw weights of their own"}
MOVED: dict[str, str] = {}
VECTORS = Capabilities(observations=("vector",))

MUTANTS_BUILD = (
    Mutant("B1", "first-axis-only", FirstAxisOnly, NUMBERED, note="PufferLib's Default"),
    Mutant("B1", "refuses-what-it-declares", RefusesWhatItDeclares, capabilities=VECTORS),
    Mutant("B1", "argument-without-default", NeedsSize),
    Mutant("B2", "no-forward-eval", NoForwardEval, note="32 of PufferLib 3.0's 36 policies"),
    Mutant("B2", "no-state-keyword", NoStateKeyword, note="9 of PufferLib 3.0's 36 policies"),
    Mutant("B2", "two-point-oh", TwoPointOh, note="6 of PufferLib 3.0's policies"),
    Mutant("B2", "says-discrete", SaysDiscrete, CONTINUOUS),
    Mutant("B3", "stale-width", StaleWidth),
    Mutant("B3", "wide-decoder", WideDecoder),
    Mutant("B3", "half-hidden", HalfHidden),
    Mutant("B3", "torso-beside-the-halves", TorsoBesideTheHalves),
    Mutant("B3", "clipped-after-both", ClippedAfterBoth, CONTINUOUS),
    Mutant("B4", "list-of-layers", ListOfLayers, also=LEFT_BEHIND),
    Mutant("B4", "hidden-in-closure", HiddenInClosure, also=LEFT_BEHIND),
    Mutant("B4", "loose-tensor", LooseTensor, also=LEFT_BEHIND),
    Mutant("B4", "no-module", NotAModule, note="2 of PufferLib's recurrent classes"),
    Mutant(
        "B5", "lazy-encoder", LazyEncoder, also=DRAWN_LATE, note="DLR-RM/stable-baselines3#1271"
    ),
    Mutant("B5", "replaced-on-first-call", ScaledOnFirstCall),
    Mutant("B5", "clamps-weights", ClampsWeights, also=MOVED),
    Mutant("B5", "unit-rows", UnitRows, also=MOVED),
    Mutant("B5", "bounded-by-a-hook", BoundedByAHook),
    Mutant("B6", "swallows-options", SwallowsOptions),
    Mutant("B6", "merged-options", MergedOptions),
    Mutant("B6", "wrong-slot", WrongSlot, note="7 of PufferLib's recurrent policies"),
    Mutant("B7", "reseeds", Reseeds),
    Mutant("B7", "python-dice", PythonsDice),
    Mutant("B7", "bounds-made-finite", BoundsMadeFinite, OPEN),
    Mutant("B7", "bounds-in-place", BoundsInPlace, CLOSED),
    Mutant("B7", "shares-its-encoder", SharesItsEncoder),
    Mutant("B7", "links-resources", LinksResources, note="PufferLib, on import"),
    Mutant("B7", "announces", Announces),
    Mutant("B7", "left-over-debugging", LeftOverDebugging),
    Mutant("B7", "sets-environment", SetsEnvironment),
    Mutant("B7", "sets-flags", SetsFlags),
    Mutant("B7", "silences-warnings", SilencesWarnings),
    Mutant("B8", "reseeds-while-acting", ReseedsWhileActing),
    Mutant("B8", "reseeds-while-sampling", typed("SeededNoise", SeedingNormal), CONTINUOUS),
    Mutant("B8", "switches-gradients", SwitchesGradients, also={"P6": "no update has a gradient"}),
    Mutant("B8", "prints-shapes", PrintsShapes),
    Mutant("B8", "wants-determinism", WantsDeterminism),
)
