"""Policies with one defect each in what outlives a process: plain and disguised, P1 to P9."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from good import GoodLSTM, GoodMLP, layer
from mutant import Mutant
from torch import Tensor, nn

from puffer_policies.assembly.factory import get_policy


class DropsOut(GoodMLP):
    """Dropout while training, which nothing declares."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return nn.functional.dropout(hidden, 0.2, self.training)


class EvaluatesItself(GoodMLP):
    """A step puts a nested module into eval mode, and leaves it there."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.body = nn.ModuleDict({"trunk": nn.Sequential(layer(nn.Linear(16, 16)), nn.ReLU())})

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        trunk = self.body["trunk"].eval()
        return trunk(super().encode_observations(observations, state))


class RandomFeatures(GoodMLP):
    """A random scale drawn at construction, in no tensor."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.gain = 0.5 + float(torch.rand(()))

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden) * self.gain


@dataclass
class ProjectionConfig:
    inputs: int = 4
    persistent: bool = False
    seeds: list[int] = field(default_factory=list)


class ForgottenProjection(GoodMLP):
    """A fixed random projection, in a buffer of a nested module that is not saved."""

    def __init__(self, env: Any, config: ProjectionConfig | None = None) -> None:
        super().__init__(env)
        config = config or ProjectionConfig()
        self.parts = nn.ModuleDict({"projection": nn.Module()})
        matrix = nn.init.orthogonal_(torch.empty(config.inputs, config.inputs))
        self.parts["projection"].register_buffer("matrix", matrix, persistent=config.persistent)

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) @ self.parts["projection"].matrix


class SpecOfItsOwn(GoodMLP):
    """The attribute that holds the recipe holds something else."""

    spec = {"id": "CartPole-v1"}  # noqa: RUF012


class HandsOnEverything(nn.Module):
    """A wrapper made by hand that hands on what it lacks, and so the inner policy's recipe."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.inner = get_policy("Default", env, hidden_size=16)
        self.scale = nn.Parameter(torch.ones(()))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        logits, values = self.inner.decode_actions(hidden * self.scale)
        return logits, values

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.inner.encode_observations(observations))

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        rows = observations.flatten(0, -2) if observations.ndim == 3 else observations
        return self.forward_eval(rows)


class StripsEverywhere(GoodMLP):
    """Drops PufferLib's prefix wherever it stands, while weights are loaded."""

    def _load_from_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
        for key in list(state_dict):
            state_dict[key.replace("module.", "").replace("_orig_mod.", "")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, *args, **kwargs)


class PrefixBlind(GoodMLP):
    """Renames its keys in a hook that knows nothing of being inside another module."""

    def __init__(self, env: Any, **options: Any) -> None:
        super().__init__(env, **options)
        self.register_state_dict_post_hook(self._named)

    @staticmethod
    def _named(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            state[key.rpartition("module.")[2].rpartition("_orig_mod.")[2]] = state.pop(key)


class TwinTensors(GoodLSTM):
    """A second module for fast stepping that shares the first one's parameters."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.fast = nn.LSTMCell(16, 16)
        for name, parameter in self.cell.named_parameters():
            setattr(self.fast, name, parameter)


class LoadsLoosely(GoodMLP):
    """Accepts whatever it is given."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state_dict, strict=False, assign=assign)


class CountsUpdates(GoodMLP):
    """A temperature that falls with the number of updates, counted in an int."""

    updates = 0

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        factor = 1.0 + 0.5 * min(self.updates, 10)
        if self.training and torch.is_grad_enabled():
            self.updates += 1
        return logits * factor, values


class Average:
    """Mean and count of targets, kept by a plain object."""

    def __init__(self) -> None:
        self.mean, self.count = 0.0, 0

    def update(self, values: Tensor) -> None:
        self.count += 1
        self.mean += (float(values.detach().mean()) - self.mean) / self.count


class CentredValues(GoodMLP):
    """Values are centred by statistics of the updates, which no file holds."""

    def __init__(self, env: Any, **options: Any) -> None:
        super().__init__(env, **options)
        self.helpers = {"average": Average()}

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        centred = values - 0.1 * self.helpers["average"].mean
        if self.training and torch.is_grad_enabled():
            self.helpers["average"].update(values)
        return logits, centred


class ExportsWithoutResets(GoodLSTM):
    """Resets are thought to be a matter of training, and left out of the exported program."""

    def reset(self, h: Tensor, c: Tensor, start: Any) -> tuple[Tensor, Tensor]:
        return (h, c) if torch.compiler.is_exporting() else super().reset(h, c, start)


class Deployment:
    """What is different in deployment, far from the policy."""

    @staticmethod
    def scale() -> float:
        return 0.5 if torch.compiler.is_exporting() else 1.0


class ExportsOtherHeads(GoodMLP):
    """The exported head is cooler than the one that was trained."""

    def __init__(self, env: Any, **kwargs: Any) -> None:
        super().__init__(env, **kwargs)
        self.deployment = Deployment()

    def logits(self, hidden: Tensor) -> Any:
        return super().logits(hidden) * self.deployment.scale()


class OneDevice(GoodMLP):
    """A new tensor on the CPU, whatever the inputs are on."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return hidden + torch.zeros(len(hidden), self.hidden_size)


class HoldsLambda(GoodMLP):
    """An activation that pickle refuses, inside a nested module."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.body = nn.Sequential(nn.Identity())
        self.body[0].activation = lambda x: torch.nn.functional.silu(x)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.body[0].activation(super().encode_observations(observations, state))


class CompiledApproximation(GoodMLP):
    """A cheaper activation where it is compiled."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return hidden.clamp(-0.5, 0.5)
        return hidden


class Profiler:
    """What the last step was called."""

    def __init__(self) -> None:
        self.label, self.steps = "step 0", 0

    @torch.compiler.disable
    def tick(self) -> None:
        self.steps += 1
        self.label = f"step {self.steps}"


class RecompilesAlways(GoodMLP):
    """A name that changes at every step, on which every compilation depends."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.profiler = Profiler()

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward_eval(observations, state)
        if self.profiler.label == "off":
            values = values.detach()
        self.profiler.tick()
        return logits, values


class StatisticsNotSaved(GoodMLP):
    """The mean of what it saw, in a buffer that no file keeps."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def features(self, observations: Any) -> Tensor:
        return super().features(observations) - self.mean.float()

    def update_statistics(self, observations: Any) -> None:
        self.mean.lerp_(observations.to(self.mean.dtype).mean(0), 0.1)


class CountNotSaved(StatisticsNotSaved):
    """The mean is saved, and how many observations it is of is a number on the side."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("mean", torch.zeros(4))
        self.count = 1

    def update_statistics(self, observations: Any) -> None:
        self.count += len(observations)
        self.mean += (observations.to(self.mean.dtype) - self.mean).sum(0) / self.count


class CountsItsRows(GoodMLP):
    """It tells a batch from a single row, by a length that an export takes for a constant."""

    def features(self, observations: Any) -> Tensor:
        features = super().features(observations)
        return features.expand(len(observations), -1)


class KeepsTheEnv(GoodMLP):
    """The env is at hand, for whatever may be needed."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.env = env


class AsksTheEnv(GoodMLP):
    """A list of helpers, one of which is bound to the env."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.sources = {"spaces": [Source(env)]}


class Source:
    def __init__(self, env: Any) -> None:
        self.read = env


MOVES = {"P1": "a pass of an update moves it"}

MUTANTS_PERSISTENCE: tuple[Mutant, ...] = (
    Mutant("P1", "DropsOut", DropsOut),
    Mutant("P1", "EvaluatesItself", EvaluatesItself),
    Mutant("P2", "RandomFeatures", RandomFeatures),
    Mutant("P2", "ForgottenProjection", ForgottenProjection),
    Mutant("P3", "SpecOfItsOwn", SpecOfItsOwn),
    Mutant(
        "P3",
        "HandsOnEverything",
        HandsOnEverything,
        also={"P2": "a new process builds the inner policy instead"},
    ),
    Mutant("P4", "StripsEverywhere", StripsEverywhere),
    Mutant("P4", "PrefixBlind", PrefixBlind),
    Mutant("P5", "TwinTensors", TwinTensors, note="PufferLib 3.0's cell"),
    Mutant("P5", "LoadsLoosely", LoadsLoosely),
    Mutant("P6", "CountsUpdates", CountsUpdates, also=MOVES),
    Mutant("P6", "CentredValues", CentredValues, also=MOVES),
    Mutant("P6", "StatisticsNotSaved", StatisticsNotSaved, also={"P2": "no file has them"}),
    Mutant("P6", "CountNotSaved", CountNotSaved),
    Mutant("P7", "ExportsWithoutResets", ExportsWithoutResets),
    Mutant("P7", "ExportsOtherHeads", ExportsOtherHeads),
    Mutant("P7", "CountsItsRows", CountsItsRows),
    Mutant("P8", "OneDevice", OneDevice),
    Mutant("P8", "HoldsLambda", HoldsLambda),
    Mutant("P8", "KeepsTheEnv", KeepsTheEnv),
    Mutant("P8", "AsksTheEnv", AsksTheEnv),
    Mutant("P9", "CompiledApproximation", CompiledApproximation),
    Mutant("P9", "RecompilesAlways", RecompilesAlways),
)
