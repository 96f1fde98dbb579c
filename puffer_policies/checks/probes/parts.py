"""The parts of an action and of its logits, which checks judge one by one.

`N` rows, `A` columns of an action. The parts of a Dict or Tuple are those that have no parts of
their own; every other space is one part. Where a package registered a type for the logits of a
whole Dict or Tuple, nobody can take that apart: it is one part, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckSkipped
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import ActionLayout

UNFIT = "its logits do not fit the action space (S8)"


@dataclass(frozen=True)
class Part:
    """One part of an action."""

    keys: tuple[Any, ...]
    """The keys and places that lead to it; none for a space without parts."""
    layout: ActionLayout

    def logits_of(self, logits: Any) -> Any:
        """Return its own logits, out of those of the whole action."""
        for key in self.keys:
            logits = logits[key]
        return logits

    @property
    def is_mixed(self) -> bool:
        """Whether it has both choices and real numbers, as a registered type may."""
        return bool(self.layout.nvec) and self.layout.num_reals > 0

    def __str__(self) -> str:
        """Return words for a message, such as `` of part 'arm.speed'``; '' for a whole action."""
        return label(self.keys)


def label(keys: tuple[Any, ...], word: str = "of") -> str:
    """Return words that name a part, such as `` of part 'arm.speed'``; '' without keys."""
    return f" {word} part {'.'.join(map(str, keys))!r}" if keys else ""


def parts_of(layout: ActionLayout, logits: Any) -> list[Part]:
    """Return the parts of actions whose logits are `logits`.

    Raises:
        CheckSkipped: the logits have other parts, which S8 tells.
    """
    return [Part(keys, part) for keys, part in _parts(layout, logits, ())]


def _parts(
    layout: ActionLayout, logits: Any, keys: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], ActionLayout]]:
    is_opaque = form_of(logits) not in ("dict", "tuple") and tensors_of(logits) is None
    if not layout.parts or is_opaque:
        yield keys, layout
        return
    if (form_of(logits), places_of(logits)) != (layout.kind, list(layout.parts)):
        raise CheckSkipped(UNFIT)
    for key, part in layout.parts.items():
        yield from _parts(part, logits[key], (*keys, key))


def choices_of(layout: ActionLayout, logits: Any) -> Any:
    """Return the logits of all choices, actions (N, K), without those of real numbers.

    Logits of choices alone stay as they are. None, if a registered type holds both.
    """
    if not layout.num_reals:
        return logits
    parts = parts_of(layout, logits)
    if any(each.is_mixed for each in parts):
        return None
    return tuple(each.logits_of(logits) for each in parts if each.layout.nvec)


def options_of(layout: ActionLayout) -> list[int]:
    """Return how many options each column of an action has; 0 for a real number."""
    return [
        options for _, leaf, _ in layout.leaves() for options in (leaf.nvec or [0] * leaf.num_reals)
    ]


def names_of_columns(layout: ActionLayout) -> list[str]:
    """Return words for each column of an action, such as ``number 1 of part 'arm'``."""
    return [
        f"number {number}" + (f" of part {path!r}" if path else "")
        for path, leaf, _ in layout.leaves()
        for number in range(len(options_of(leaf)))
    ]


def bounds_of_columns(layout: ActionLayout) -> tuple[Tensor, Tensor]:
    """Return the bounds of each column of an action, (A,) float32; choices have none."""
    lows: list[np.ndarray] = []
    highs: list[np.ndarray] = []
    for _, leaf, _ in layout.leaves():
        bounds = (-np.inf, np.inf) if leaf.low is None else (leaf.low, leaf.high)
        size = len(options_of(leaf))
        for column, bound in zip((lows, highs), bounds, strict=True):
            column.append(np.broadcast_to(np.asarray(bound, np.float32).reshape(-1), size))
    return torch.from_numpy(np.concatenate(lows)), torch.from_numpy(np.concatenate(highs))


# -- logits ----------------------------------------------------------------------------------------


def is_dict(logits: Any) -> bool:
    """Whether logits are the parts of a Dict; a dict that a package registered is not."""
    kind = distribution.dispatch(type(logits))
    return isinstance(logits, dict) and kind is distribution.dispatch(dict)


def is_tuple(logits: Any) -> bool:
    """Whether logits are several choices, or the parts of a Tuple; a registered tuple is not."""
    kind = distribution.dispatch(type(logits))
    return isinstance(logits, tuple | list) and kind is distribution.dispatch(tuple)


def is_choices(logits: Any) -> bool:
    """Whether logits are one tensor for each choice."""
    return is_tuple(logits) and all(isinstance(each, Tensor) for each in logits)


def form_of(logits: Any) -> str:
    """Return the form of logits in a word."""
    if is_dict(logits):
        return "dict"
    if is_tuple(logits):
        return "tuple"
    plain = next((each for each in (Tensor, Normal) if isinstance(logits, each)), type(logits))
    return plain.__name__


def places_of(logits: Any) -> list[Any]:
    """Return the keys of a dict in the order of the columns of an action; places of a tuple."""
    if is_dict(logits):
        return sorted(logits, key=str)
    return list(range(len(logits))) if is_tuple(logits) else []


def leaves_of(logits: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the keys and the logits of every part, in the order of the columns of an action."""
    if is_dict(logits) or (is_tuple(logits) and not is_choices(logits)):
        for place in places_of(logits):
            yield from leaves_of(logits[place], (*keys, place))
    else:
        yield keys, logits


def tensors_of(logits: Any) -> list[Tensor] | None:
    """Return the tensors of logits, loc and scale of a Normal; None for a type of another kind."""
    return _tensors_of(logits, ("loc", "scale"))


def centers_of(logits: Any) -> list[Tensor] | None:
    """Return the tensors of logits without the scales; None for a type of another kind."""
    return _tensors_of(logits, ("loc",))


def _tensors_of(logits: Any, parameters: tuple[str, ...]) -> list[Tensor] | None:
    tensors: list[Tensor] = []
    for _, leaf in leaves_of(logits):
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        elif is_choices(leaf):
            tensors += leaf
        elif isinstance(leaf, Normal):
            tensors += [getattr(leaf, name) for name in parameters]
        else:
            return None
    return tensors
