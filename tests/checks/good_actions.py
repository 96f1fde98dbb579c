"""Correct policies with action types and masks of their own: what A1 to A6 must not blame."""

from __future__ import annotations

import math
from typing import Any

import torch
from good import GoodLSTM, GoodMLP, lead_of, merged
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.nn.distributions import Gaussian, MultiCategorical, Product, distribution


def masked(logits: Any, mask: Tensor) -> Any:
    """Forbid options of a Tensor (N, n), or of a dict or tuple of them, by a mask (N, A)."""
    if isinstance(logits, Tensor):
        return _masked_choice(logits, mask)
    if isinstance(logits, Normal):
        return logits
    keys = sorted(logits) if isinstance(logits, dict) else range(len(logits))
    masks = mask.split([options_in(logits[key]) for key in keys], -1)
    parts = {key: masked(logits[key], part) for key, part in zip(keys, masks, strict=True)}
    return parts if isinstance(logits, dict) else tuple(parts.values())


def options_in(logits: Any) -> int:
    """How many options logits have, of all choices together."""
    if isinstance(logits, Tensor | Normal):
        return logits.shape[-1] if isinstance(logits, Tensor) else 0
    return sum(map(options_in, logits.values() if isinstance(logits, dict) else logits))


def _masked_choice(logits: Tensor, mask: Tensor) -> Tensor:
    if not bool(mask.any(-1).all()):
        raise ValueError("a row of the action mask allows nothing")
    return logits.masked_fill(~mask, -math.inf)


class _Masks:
    """Reads ``state["action_mask"]`` in both forwards."""

    def apply_mask(self, logits: Any, mask: Tensor) -> Any:
        return masked(logits, mask)

    def mask_in_step(self, logits: Any, state: Any) -> Any:
        mask = None if state is None else state.get("action_mask")
        return logits if mask is None else self.apply_mask(logits, mask)

    def mask_in_sequence(self, logits: Any, state: Any) -> Any:
        mask = None if state is None else state.get("action_mask")
        return logits if mask is None else self.apply_mask(logits, mask.flatten(0, -2))


class MaskedMLP(_Masks, GoodMLP):
    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = self.decode_actions(self.encode_observations(observations, state=state))
        return self.mask_in_step(logits, state), values

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        lead = lead_of(self.spaces.observation, observations)
        rows = merged(observations) if len(lead) == 2 else observations
        logits, values = self.decode_actions(self.encode_observations(rows))
        return self.mask_in_sequence(logits, state), values


class MaskedLSTM(_Masks, GoodLSTM):
    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward_eval(observations, state)
        return self.mask_in_step(logits, state), values

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        return self.mask_in_sequence(logits, state), values


def insisting(base: type) -> type:
    """Return a class like `base` that raises where there is no mask."""

    class Insisting(base):
        def mask_in_step(self, logits: Any, state: Any) -> Any:
            return super().mask_in_step(logits, _with_mask(state))

        def mask_in_sequence(self, logits: Any, state: Any) -> Any:
            return super().mask_in_sequence(logits, _with_mask(state))

    return Insisting


def _with_mask(state: Any) -> Any:
    if state is None or state.get("action_mask") is None:
        raise ValueError("no action mask")
    return state


class Squashed(Normal):
    """tanh of a normal number, scaled to ``low..high``."""

    low, high = -1.0, 1.0


class SquashedGaussian(Gaussian):
    """Samples, mode and density after tanh; the entropy stays that before, a common stand-in."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.tanh(super().sample(generator))

    def mode(self) -> Tensor:
        return torch.tanh(self.loc)

    def log_prob(self, action: Tensor) -> Tensor:
        inner = torch.atanh(action.reshape(self.loc.shape).clamp(-1 + 1e-6, 1 - 1e-6))
        slope = (1 - torch.tanh(inner).square()).log()
        return super().log_prob(inner) - slope.flatten(1).sum(1)


distribution.register(Squashed, SquashedGaussian)


def retyped(cls: type, logits: Any) -> Any:
    """Return a Normal, or a tuple of logits, as `cls`."""
    if isinstance(logits, Normal):
        return cls(logits.loc, logits.scale, validate_args=False)
    return cls(logits if isinstance(logits, tuple) else (logits,))


def typed(name: str, logits_type: type, base: type = GoodMLP) -> type:
    """Return a class like `base` whose logits are of `logits_type`."""

    def logits(self: Any, hidden: Tensor) -> Any:
        return retyped(logits_type, base.logits(self, hidden))

    return type(name, (base,), {"logits": logits})


class OwnChoices(tuple[Tensor, ...]):
    """Logits of several choices as a type of its own, with the usual meaning."""

    __slots__ = ()


distribution.register(OwnChoices, MultiCategorical)


class OwnProduct(dict[Any, Any]):
    """Logits of a Dict as a type of its own, with the usual meaning."""


@distribution.register(OwnProduct)
class OwnJoint(Product):
    """Nothing that is known of the parts need be true of it."""


class SquashedAim(GoodMLP):
    """A part of an action is of a type of its own, the others are as usual."""

    def logits(self, hidden: Tensor) -> Any:
        logits = super().logits(hidden)
        return {**logits, "aim": retyped(Squashed, logits["aim"])}


class OneTypeForAllParts(GoodMLP):
    def logits(self, hidden: Tensor) -> Any:
        return OwnProduct(super().logits(hidden))


GoodSquashed = typed("GoodSquashed", Squashed)
GoodOwnChoices = typed("GoodOwnChoices", OwnChoices)
