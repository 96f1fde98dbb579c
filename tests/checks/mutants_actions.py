"""Policies that break one promise of actions each: plainly, and in another author's style."""

from __future__ import annotations

from typing import Any

import torch
from good import CONTINUOUS, SEVERAL, VECTOR, GoodMLP, Head
from good_actions import MaskedLSTM, MaskedMLP, insisting, masked, typed
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.nn.distributions import Gaussian, MultiCategorical, distribution
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces

# -- A1 --------------------------------------------------------------------------------------------


class ExtraOption(GoodMLP):
    """One logit too many, as for a no-op that the environment lacks."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor = Head(gym.Discrete(self.spaces.action.n + 1), self.hidden_size)


class OneBased(tuple[Tensor, ...]):
    """Logits whose samples count from 1."""

    __slots__ = ()


@distribution.register(OneBased)
class OneBasedChoices(MultiCategorical):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(generator) + 1

    def log_prob(self, action: Tensor) -> Tensor:
        return super().log_prob((action - 1).clamp(min=0))


# -- A2 --------------------------------------------------------------------------------------------


class ClippedNormal(Normal):
    """Samples are clipped to the box as they are drawn."""


@distribution.register(ClippedNormal)
class ClippedGaussian(Gaussian):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(generator).clamp(-1.0, 1.0)


class SafeNormal(Normal):
    """The sample is as drawn, and what is scored is what the environment saw."""


@distribution.register(SafeNormal)
class SafeGaussian(Gaussian):
    def log_prob(self, action: Tensor) -> Tensor:
        return super().log_prob(action.clamp(-1.0, 1.0))


# -- A3 --------------------------------------------------------------------------------------------


class MoodyNormal(Normal):
    """Its likeliest action is another every time."""


@distribution.register(MoodyNormal)
class MoodyGaussian(Gaussian):
    def mode(self) -> Tensor:
        return self.sample()


class GreedyChoices(tuple[Tensor, ...]):
    """Epsilon-greedy also where the likeliest action is asked for."""

    __slots__ = ()


@distribution.register(GreedyChoices)
class EpsilonGreedy(MultiCategorical):
    def mode(self) -> Tensor:
        best = super().mode()
        explore = torch.rand(best.shape) < 0.3
        return torch.where(explore, self.sample(), best)


# -- A4, A5 ----------------------------------------------------------------------------------------


class SoftMask(MaskedMLP):
    """Forbidden options are only unlikely."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return logits - 6.0 * (~mask)


class FlooredMask(MaskedLSTM):
    """Probabilities are masked, then kept above a floor against log(0)."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return ((logits.softmax(-1) * mask) + 1e-3).log()


class AllowsNothing(MaskedMLP):
    """A row without any option gets all of them."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return masked(logits, mask | ~mask.any(-1, keepdim=True))


class DeafToMasks(GoodMLP):
    """Its record says that it needs a mask, and it reads none."""


class MaskInRolloutOnly(MaskedMLP):
    def mask_in_sequence(self, logits: Any, state: Any) -> Any:
        return logits


class TimeMajorMask(MaskedLSTM):
    """The mask of a sequence is flattened time first."""

    def mask_in_sequence(self, logits: Any, state: Any) -> Any:
        mask = state["action_mask"]
        flat = mask.transpose(0, 1).flatten(0, 1) if mask.ndim == 3 else mask
        return self.apply_mask(logits, flat)


# -- A6 --------------------------------------------------------------------------------------------


class TanhNoJacobian(Normal):
    """The action is tanh of a normal number, and scored as that number."""


@distribution.register(TanhNoJacobian)
class TanhGaussian(Gaussian):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.tanh(super().sample(generator))

    def mode(self) -> Tensor:
        return torch.tanh(self.loc)

    def log_prob(self, action: Tensor) -> Tensor:
        inner = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        return super().log_prob(inner)


class OwnDensity(Normal):
    """A subclass with a correct log_prob of its own, which nobody calls as it is not registered."""

    def log_prob(self, value: Tensor) -> Tensor:
        inner = torch.atanh(value.clamp(-1 + 1e-6, 1 - 1e-6))
        return super().log_prob(inner) - (1 - inner.tanh().square()).log()


class HotChoices(tuple[Tensor, ...]):
    """Samples at twice the temperature that log_prob scores."""

    __slots__ = ()


@distribution.register(HotChoices)
class HotCategorical(MultiCategorical):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return MultiCategorical([each / 2 for each in self.log_probs.unbind(1)]).sample(generator)


class Eager(tuple[Tensor, ...]):
    """An entropy of the wrong sign, shifted so that it is never negative."""

    __slots__ = ()


@distribution.register(Eager)
class EagerCategorical(MultiCategorical):
    def entropy(self) -> Tensor:
        return 8.0 - super().entropy()


class WidensNormal(Normal):
    """An entropy that counts the precision for the scale."""


@distribution.register(WidensNormal)
class WidensGaussian(Gaussian):
    def entropy(self) -> Tensor:
        return -super().entropy()


class Worst(tuple[Tensor, ...]):
    """argmin where argmax was meant."""

    __slots__ = ()


@distribution.register(Worst)
class WorstCategorical(MultiCategorical):
    def mode(self) -> Tensor:
        return self.log_probs.masked_fill(self.log_probs.isinf(), 0).argmin(-1)


class MirroredNormal(Normal):
    """A mode of the other sign, far from where it samples."""


@distribution.register(MirroredNormal)
class MirroredGaussian(Gaussian):
    def mode(self) -> Tensor:
        return -9.0 * self.scale - self.loc


class SeededChoices(tuple[Tensor, ...]):
    """Samples by a generator that each distribution seeds anew, so that runs can be repeated."""

    __slots__ = ()


@distribution.register(SeededChoices)
class SeededCategorical(MultiCategorical):
    def __init__(self, logits: Any) -> None:
        super().__init__(logits)
        self.generator = torch.Generator().manual_seed(7)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(self.generator)


class CommonNoise(Normal):
    """One draw of noise for all rows, as of a single env."""


@distribution.register(CommonNoise)
class CommonGaussian(Gaussian):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.loc[:1].shape, generator=generator)
        return (self.loc + self.scale * noise).detach()


class JointNoise(Normal):
    """One draw of noise for all dimensions of an action."""


@distribution.register(JointNoise)
class JointGaussian(Gaussian):
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(len(self.loc), 1, generator=generator)
        return (self.loc + self.scale * noise).detach()


class MeanEntropy(Normal):
    """The mean over dimensions where the sum was meant."""


@distribution.register(MeanEntropy)
class MeanEntropyGaussian(Gaussian):
    def entropy(self) -> Tensor:
        return super().entropy() / self.loc[0].numel()


class DetachedEntropy(tuple[Tensor, ...]):
    """An entropy for the log, which became the bonus of the loss."""

    __slots__ = ()


@distribution.register(DetachedEntropy)
class DetachedCategorical(MultiCategorical):
    def entropy(self) -> Tensor:
        return super().entropy().detach()


class FirstRowsMode(Normal):
    """The mode of the first row for all."""


@distribution.register(FirstRowsMode)
class FirstRowsGaussian(Gaussian):
    def mode(self) -> Tensor:
        return self.loc[:1].expand_as(self.loc)


class SquashedSamples(Normal):
    """Samples within the bounds, which nobody draws, as the type is not registered."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(sample_shape).tanh()


class MaskIfThereIsOne(MaskedMLP):
    """It says that it needs a mask, and acts without."""

    needs_mask = True


class AllowsTheFirst(MaskedMLP):
    """So that no row allows nothing, it allows the first option, in the caller's mask."""

    def mask_in_step(self, logits: Any, state: Any) -> Any:
        if state is not None and state.get("action_mask") is not None:
            state["action_mask"][:, 0] = True
        return super().mask_in_step(logits, state)


FIRST_ALLOWED = dict.fromkeys(("A4", "A5"), "a forbidden option is allowed")
ATOM = "an atom on a bound is no part of a density"
MISSES: dict[str, str] = {}
GREEDY: dict[str, str] = {}
MASKS = Capabilities(needs_mask=True)
OFFSET = Spaces(VECTOR, gym.MultiDiscrete([3, 2, 4], start=[1, 0, 2]))

MUTANTS_ACTIONS = (
    Mutant(
        "A1",
        "extra-option",
        ExtraOption,
        also={"S8": "a logit too many is its cause"},
    ),
    Mutant(
        "A1",
        "one-based",
        typed("CountsFromOne", OneBased),
        OFFSET,
        also={
            **dict.fromkeys(("T2", "T3"), "the first option is never drawn, so never rewarded"),
            **dict.fromkeys(("A3", "A6"), "the options that are asked about are not its own"),
        },
        note="SB3#913",
    ),
    Mutant(
        "A2", "clips-samples", typed("ClipsSamples", ClippedNormal), CONTINUOUS, also={"A6": ATOM}
    ),
    Mutant(
        "A2",
        "scores-clipped",
        typed("ScoresClipped", SafeNormal),
        CONTINUOUS,
        also={"A6": "a density that is flat outside has no finite integral"},
        note="tianshou#312",
    ),
    Mutant(
        "A3",
        "random-mode",
        typed("RandomMode", MoodyNormal),
        CONTINUOUS,
        also={"T3": "what it learned is judged by its mode"},
        note="SB3#851",
    ),
    Mutant("A3", "epsilon-greedy-mode", typed("ExploresAlways", GreedyChoices), SEVERAL),
    Mutant("A3", "least-likely-mode", typed("LeastLikelyMode", Worst), SEVERAL),
    Mutant("A3", "mirrored-mode", typed("MirroredMode", MirroredNormal), CONTINUOUS, also=MISSES),
    Mutant("A4", "soft-mask", SoftMask, capabilities=MASKS),
    Mutant("A4", "floored-mask", FlooredMask, note="ray#10165"),
    Mutant("A4", "allows-nothing", AllowsNothing),
    Mutant("A4", "deaf", DeafToMasks, capabilities=MASKS),
    Mutant("A5", "rollout-only", MaskInRolloutOnly, SEVERAL, note="sb3-contrib#76"),
    Mutant("A5", "time-major", insisting(TimeMajorMask), capabilities=MASKS),
    Mutant("A6", "hotter-samples", typed("HotterSamples", HotChoices), SEVERAL),
    Mutant("A6", "entropy-of-wrong-sign", typed("EntropyOfWrongSign", Eager), SEVERAL, also=GREEDY),
    Mutant("A6", "entropy-of-precision", typed("EntropyOfPrecision", WidensNormal), CONTINUOUS),
    Mutant("A6", "no-jacobian", typed("NoJacobian", TanhNoJacobian), CONTINUOUS),
    Mutant("A6", "seeded-samples", typed("SeededSamples", SeededChoices), SEVERAL),
    Mutant("A6", "common-noise", typed("HasCommonNoise", CommonNoise), CONTINUOUS),
    Mutant("A6", "joint-noise", typed("HasJointNoise", JointNoise), CONTINUOUS),
    Mutant("A6", "mean-entropy", typed("HasMeanEntropy", MeanEntropy), CONTINUOUS),
    Mutant("A6", "detached-entropy", typed("HasDetachedEntropy", DetachedEntropy), SEVERAL),
    Mutant("A3", "mode-of-the-first-row", typed("ModeOfFirstRow", FirstRowsMode), CONTINUOUS),
    Mutant("A6", "unused-density", typed("UnusedDensity", OwnDensity), CONTINUOUS),
    Mutant("A6", "unused-samples", typed("UnusedSamples", SquashedSamples), CONTINUOUS),
    Mutant("A4", "mask-if-there-is-one", MaskIfThereIsOne),
    Mutant("A4", "allows-the-first", AllowsTheFirst, also=FIRST_ALLOWED),
)
