"""Policies that break one promise in one part of a Dict or Tuple action, and keep it in the others.

Their spaces are those of two envs: a Dict with a Tuple inside, whose author did not sort the keys,
and a flat Dict with two parts of equal form.
"""

from __future__ import annotations

from typing import Any

import torch
from good import BOTH, FOUR, HYBRID, REALS, VECTOR, GoodMLP, Head, layer
from good_actions import MaskedLSTM, MaskedMLP, masked, retyped
from gymnasium import spaces as gym
from mutant import Mutant
from mutants_actions import ATOM, ClippedNormal, HotChoices
from mutants_previous import ReadsPrevious
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.nn.distributions import Product, distribution
from puffer_policies.spaces import Spaces

TWINS = Spaces(VECTOR, gym.Dict({"left": FOUR, "right": FOUR, "aim": REALS}))
TOOL_AND_AIM = Spaces(VECTOR, gym.Dict({"tool": FOUR, "aim": REALS}))
WRITTEN = ("tool", "aim", "arm")
"""The keys as the author wrote them."""

# -- S8 --------------------------------------------------------------------------------------------


class TupleForDict(GoodMLP):
    """The logits of a Dict as a tuple, in the order of its keys."""

    def logits(self, hidden: Tensor) -> Any:
        return tuple(super().logits(hidden).values())


class MissingPart(GoodMLP):
    """A part that was added to the env later."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return {key: logits[key] for key in ("aim", "arm")}


class WiderPart(GoodMLP):
    """A no-op that the env lacks, in one part."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor.heads["tool"] = Head(gym.Discrete(5), self.hidden_size)


class PartsExchanged(GoodMLP):
    """The logits of the parts in the order that the author wrote, under keys that are sorted."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return dict(zip(sorted(WRITTEN), (logits[key] for key in WRITTEN), strict=True))


# -- A ---------------------------------------------------------------------------------------------


class AsWritten(dict[str, Any]):
    """Logits of a Dict whose actions have their columns in the order of the author's keys."""


@distribution.register(AsWritten)
class ProductAsWritten(Product):
    def __init__(self, logits: Any) -> None:
        super().__init__(tuple(logits[key] for key in WRITTEN if key in logits))


class ColumnsAsWritten(GoodMLP):
    def logits(self, hidden: Tensor) -> Any:
        return AsWritten(super().logits(hidden))


class ClipsAim(GoodMLP):
    """Clips the samples of one part to its Box."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return {**logits, "aim": retyped(ClippedNormal, logits["aim"])}


class HotterArm(GoodMLP):
    """Samples the choices of one part at twice the temperature that log_prob scores."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        choices, *others = logits["arm"]
        return {**logits, "arm": (retyped(HotChoices, choices), *others)}


class MasksExchanged(MaskedMLP):
    """The mask of one hand forbids the options of the other."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return masked(logits, mask.roll(4, -1))


class InnerMaskForgotten(MaskedLSTM):
    """Masks the parts that are choices themselves, and none inside of others."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return {**logits, "tool": masked(logits["tool"], mask[:, -4:])}


# -- N, R, T ---------------------------------------------------------------------------------------


class Unclamped(Head):
    """A scale that is the exponential of any number."""

    def forward(self, hidden: Tensor) -> Any:
        loc = super().forward(hidden).loc
        return Normal(loc, self.log_std.exp().expand_as(loc), validate_args=False)


class UnclampedAim(GoodMLP):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor.heads["aim"] = Unclamped(REALS, self.hidden_size)


class ScaleOfDirection(GoodMLP):
    """The scale of one part follows a direction, which an observation of zeros does not have."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        cosine = hidden[:, :1] / hidden.square().sum(-1, keepdim=True).sqrt()
        scale = logits["aim"].scale * (1 + 0.5 * cosine)
        return {**logits, "aim": Normal(logits["aim"].loc, scale, validate_args=False)}


class SureOfItsTool(GoodMLP):
    """One part has an opinion from the start."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        with torch.no_grad():
            self.actor.heads["tool"].linear.bias[0] = 2.0


class HalfAScale(Head):
    """The scale of the second dimension is cut off from its gradient."""

    def forward(self, hidden: Tensor) -> Any:
        logits = super().forward(hidden)
        scale = torch.cat([logits.scale[:, :1], logits.scale[:, 1:].detach()], 1)
        return Normal(logits.loc, scale, validate_args=False)


class HalfAScaleInAim(GoodMLP):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor.heads["aim"] = HalfAScale(REALS, self.hidden_size)


class OneHandForBoth(GoodMLP):
    """Two parts share the logits of one."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        del self.actor.heads["right"]

    def logits(self, hidden: Tensor) -> Any:
        parts = {key: head(hidden) for key, head in self.actor.heads.items()}
        return {**parts, "right": parts["left"]}


class SoftmaxOfTool(GoodMLP):
    """The logits of one part are its probabilities."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return {**logits, "tool": logits["tool"].softmax(-1)}


class BlindTool(GoodMLP):
    """One part is a table of weights: the same for all that is observed."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor.heads["tool"] = None
        self.table = nn.Parameter(torch.zeros(4))

    def logits(self, hidden: Tensor) -> Any:
        arm, aim = (self.actor.heads[key](hidden) for key in ("arm", "aim"))
        return {"tool": 3 * self.table.expand(len(hidden), 4), "arm": arm, "aim": aim}


class ReadsPreviousParts(ReadsPrevious):
    """All columns of the last action, as numbers."""

    columns = slice(None)

    def __init__(self, env: Any) -> None:
        super(ReadsPrevious, self).__init__(env)
        self.actions = self.actor.layout.shape[0]
        self.encoder = layer(nn.Linear(4 + self.actions + 1, self.hidden_size))

    def numbers(self, action: Tensor, rows: int) -> Tensor:
        numbers = torch.zeros(rows, self.actions)
        numbers[:, self.columns] = action.reshape(rows, -1).float()[:, self.columns]
        return numbers


class ReadsPreviousReals(ReadsPreviousParts):
    """The last choice is thrown away with the dtype of choices."""

    columns = slice(1, None)


MISSING = dict.fromkeys(
    ("A1", "A3", "N1", "N6", "N8", "T1"), "nothing can be computed from logits of a wrong form"
)
WIDER = {"A1": "the option that the env lacks is drawn"}
EXCHANGED = dict.fromkeys(("A1", "A3"), "the numbers of one part are the options of another")
AS_WRITTEN = dict.fromkeys(("A2", "A3"), "the bounds and options of other columns are not its own")

MUTANTS_HYBRID = (
    Mutant("S8", "tuple-for-a-dict", TupleForDict, HYBRID, says="['aim', 'arm', 'tool']"),
    Mutant(
        "S8", "missing-part", MissingPart, HYBRID, also=MISSING, says="a dict with ['aim', 'arm']"
    ),
    Mutant("S8", "wider-part", WiderPart, HYBRID, also=WIDER, says="'tool'"),
    Mutant("S8", "parts-exchanged", PartsExchanged, HYBRID, also=EXCHANGED, says="'aim'"),
    Mutant(
        "A1", "columns-as-written", ColumnsAsWritten, TOOL_AND_AIM, also=AS_WRITTEN, says="'tool'"
    ),
    Mutant("A2", "clips-a-part", ClipsAim, HYBRID, also={"A6": ATOM}, says="'aim'"),
    Mutant("A4", "masks-exchanged", MasksExchanged, TWINS, says="'left'"),
    Mutant("A4", "inner-mask-forgotten", InnerMaskForgotten, HYBRID, says="'arm.0'"),
    Mutant("A6", "hotter-part", HotterArm, HYBRID, says="'arm.0'"),
    Mutant("N2", "scale-of-direction", ScaleOfDirection, HYBRID, says="'aim'"),
    Mutant("N3", "unclamped-part", UnclampedAim, HYBRID, says="'aim'"),
    Mutant("N5", "sure-of-a-part", SureOfItsTool, HYBRID, says="'tool'"),
    Mutant("N6", "half-a-scale-in-a-part", HalfAScaleInAim, HYBRID, says="heads.aim"),
    Mutant("N7", "one-head-for-two-parts", OneHandForBoth, TWINS, says="'right'"),
    Mutant("N7", "softmax-of-a-part", SoftmaxOfTool, HYBRID, says="'tool'"),
    Mutant("R13", "reads-previous-reals", ReadsPreviousReals, BOTH, says="part '0'"),
    Mutant("T3", "blind-part", BlindTool, HYBRID, says="'tool'"),
)
