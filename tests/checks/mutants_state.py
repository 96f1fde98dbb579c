"""Policies whose memory is not where the contract has it: cached, shared, dropped, left behind."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

import torch
from good import GoodLSTM, GoodMLP
from good_actions import MaskedMLP
from mutant import Mutant
from torch import Tensor

from puffer_policies import get_policy
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.base import PolicyWrapper

# -- R7: wrappers ---------------------------------------------------------------------------------


class DropsState(PolicyWrapper):
    """A wrapper whose passes hand no state on, which only a memory or a mask inside shows."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.policy.forward_eval(observations.clamp(-10, 10))

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.policy(observations.clamp(-10, 10))


class GoesThroughTheHalves(PolicyWrapper):
    """Encodes and decodes by itself, past the memory and the mask of what it holds."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.encode_observations(observations, state))

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.forward_eval(observations.flatten(0, -2), state)


def wrapped(cls: type) -> Any:
    """Return a function of spaces that puts a wrapper around Default with a memory."""

    def make(spaces: Spaces) -> Any:
        return get_policy("Default", spaces, wrappers=["LSTMWrapper", cls], validate="off")

    return make


# -- R5 -------------------------------------------------------------------------------------------


class StateOfTheFirstStep(GoodLSTM):
    """forward writes the state after the first step of its sequence, not after the last."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        _, _, outputs = super().run(hidden, h, c, starts)
        first = None if starts is None else starts.reshape(len(h), -1)[:, :1]
        h, c, _ = super().run(hidden[:, :1], h, c, first)
        return h, c, outputs


class ActsInInferenceMode(GoodLSTM):
    """forward_eval in inference mode, whose tensors no update can differentiate."""

    @torch.inference_mode()
    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return super().forward_eval(observations, state)


# -- R6 -------------------------------------------------------------------------------------------


class ClearsTheCallersState(GoodLSTM):
    """A reset in place, in the tensors of whoever called."""

    def reset(self, h: Tensor, c: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        if start is None or h.grad_fn is not None:
            return super().reset(h, c, start)
        rows = start.bool().unsqueeze(-1)
        return h.masked_fill_(rows, 0.0), c.masked_fill_(rows, 0.0)


class DecodesTheLast(GoodMLP):
    """A skip connection past the hidden, from what was encoded last."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        self.last = super().encode_observations(observations, state)
        return self.last

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        is_same = hasattr(self, "last") and len(self.last) == len(hidden)
        return super().decode_actions(hidden + self.last if is_same else hidden)


class NewDictForAnEmptyOne(GoodLSTM):
    """`state or {}`: an empty dict is as false as None."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return super().forward_eval(observations, state or {})


class CachedByIdentity(GoodMLP):
    """A cache on the encoder: a buffer that is filled anew is answered with its old features."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.features_of(observations)

    @lru_cache(maxsize=8)  # noqa: B019
    def features_of(self, observations: Any) -> Tensor:
        return super().encode_observations(observations)


class FoldedOnce(GoodMLP):
    """Multiplies two weights when it acts for the first time, and never again."""

    folded: Tensor | None = None

    def value(self, hidden: Tensor) -> Tensor:
        if self.folded is None:
            self.folded = 0.5 * self.critic.weight.detach()
        return super().value(hidden) + hidden @ self.folded.T


class NeedsAState(GoodLSTM):
    """Looks its tensors up in a dict that has to be there, and full."""

    def forward_eval(self, observations: Any, state: Any) -> tuple[Any, Tensor]:  # type: ignore[override]
        assert state["lstm_h"] is not None, "call initial_state first"
        return super().forward_eval(observations, state)


class SharedDefault(GoodLSTM):
    """One dict as the default of an argument: calls without a state share a memory."""

    def forward_eval(self, observations: Any, state: Any = {}) -> tuple[Any, Tensor]:  # noqa: B006
        return super().forward_eval(observations, {} if state is None else state)


class LeavesATrace(GoodLSTM):
    """Every step puts one more tensor into the state."""

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        super().write(state, h, c)
        if state is not None:
            state[f"trace_{len(state)}"] = h.detach()


class RemembersTheMask(MaskedMLP):
    """The last mask stays, for calls that bring none."""

    last: Tensor | None = None

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        self.last = mask
        return super().apply_mask(logits, mask)

    def mask_in_step(self, logits: Any, state: Any) -> Any:
        if self.last is not None and (state is None or state.get("action_mask") is None):
            fits = self.last.shape == logits.shape
            return super().apply_mask(logits, self.last) if fits else logits
        return super().mask_in_step(logits, state)


class KeepsAHistory(GoodMLP):
    """Keeps what it saw for a plot that nobody draws."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.history: deque[float] = deque()

    def value(self, hidden: Tensor) -> Tensor:
        values = super().value(hidden)
        if not torch.compiler.is_compiling():
            self.history.append(len(values))
        return values


# -- R10 ------------------------------------------------------------------------------------------


class ZerosArePadding(GoodLSTM):
    """forward takes an observation of zeros for padding, and keeps its memory; steps do not."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        self.padded = observations.reshape(len(observations), -1, 4).eq(0).all(-1, keepdim=True)
        return super().forward(observations, state)

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        if starts is not None and starts.ndim == 1:
            starts = torch.nn.functional.pad(starts.unsqueeze(1), (0, hidden.shape[1] - 1))
        outputs = []
        for t, features in enumerate(hidden.unbind(1)):
            h, c = self.reset(h, c, None if starts is None else starts[:, t])
            after = self.advance(features, h, c)
            h, c = (
                torch.where(self.padded[:, t], old, new)
                for old, new in zip((h, c), after, strict=True)
            )
            outputs.append(h)
        return h, c, torch.stack(outputs, 1)


class LowestIsNothing(GoodLSTM):
    """Steps leave out observations at the lower bound, as of a sensor that is off."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        is_off = observations.eq(-1).all(-1, keepdim=True)
        return super().forward_eval(observations.masked_fill(is_off, 0.0), state)


AT_ONCE = ("R1", "R2", "R5", "R6", "R8", "R11")
NOT_THERE = dict.fromkeys(("B2", "P7", "P9"), "its signature asks for a state")

MUTANTS_STATE = (
    Mutant(
        "R7",
        "drops-state",
        wrapped(DropsState),
        also=dict.fromkeys(AT_ONCE, "a step begins anew, and a sequence goes on within itself"),
    ),
    Mutant(
        "R7",
        "goes-through-the-halves",
        wrapped(GoesThroughTheHalves),
        also={"S1": "it has the values of a policy without memory", "N6": "no part of it runs"},
    ),
    Mutant("R5", "state-of-the-first-step", StateOfTheFirstStep),
    Mutant("R6", "decodes-the-last", DecodesTheLast),
    Mutant("R6", "new-dict-for-an-empty-one", NewDictForAnEmptyOne),
    Mutant("R5", "acts-in-inference-mode", ActsInInferenceMode),
    Mutant(
        "R6",
        "cached-by-identity",
        CachedByIdentity,
        also={"N7": "the second update has the graph of the first"},
    ),
    Mutant(
        "S7",
        "clears-the-callers-state",
        ClearsTheCallersState,
        also=dict.fromkeys(("R2", "R4"), "the step before a start is cleared with its state"),
    ),
    Mutant("R6", "folded-once", FoldedOnce, also={"P6": "what is saved is what was folded"}),
    Mutant("R6", "needs-a-state", NeedsAState, also=NOT_THERE),
    Mutant("R6", "shared-default", SharedDefault),
    Mutant("R6", "leaves-a-trace", LeavesATrace),
    Mutant("R6", "remembers-the-mask", RemembersTheMask),
    Mutant("R6", "keeps-a-history", KeepsAHistory),
    Mutant("R10", "zeros-are-padding", ZerosArePadding),
    Mutant("R10", "lowest-is-nothing", LowestIsNothing),
)
