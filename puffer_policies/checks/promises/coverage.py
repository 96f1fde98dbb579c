"""S: every number of an observation is read, and read as a number.

`N` rows. What is left unread on purpose is declared: ``declared["unread"]`` lists patterns of the
names of numbers, such as ``"3"`` for the fourth of a vector, ``"where.*"`` for a key of a Dict,
``"channel 2"`` for a frame or a color. `shapes.CHECKS` lists this check with the others of the
family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Scope, check
from puffer_policies.checks.probes.construction import constructor, rebuild
from puffer_policies.checks.probes.edges import bounds_of
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.probes.weights import perturb, perturbed_copy
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces import Spaces, image_layout
from puffer_policies.spaces.nested import leaves, map_nested, names_of

MOST = 256
"""Numbers of one leaf, and codes of one Discrete, that are tried; of more, these many spread."""

BANDS = 4
"""Rows and columns of pixels are tried in so many bands: a stride may leave out the last pixel."""

SEVERAL = 16
"""Numbers of a MultiDiscrete whose codes are tried one by one."""

OTHERS = 8
"""Observations among which one is chosen that differs in the number."""

TRIES = 6
"""Pairs of observations between which a number is exchanged, before it counts as unread."""


@check(
    "S11",
    "every-number-matters",
    promise="Every number of an observation changes some output or the memory, unless it is "
    "declared unread; so does every code, and every channel and band of an image.",
    why="A slice that is off by one, a forgotten key, a frame that is never read or a number that "
    "is divided by an infinite bound costs what the env says there, and training only looks hard.",
    fix="Read the whole observation; scale by finite bounds only. What is left out on purpose is "
    'declared: {"unread": ["where.2", "inside.*"]}.',
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def every_number_matters(subject: Subject) -> None:
    """Exchange one number after the other between two observations, and look for a change."""
    _require_read(subject, perturbed_copy(subject))
    _require_codes(subject, perturbed_copy(subject))
    if other := _without_bounds(subject):
        _require_read(other, perturb(other.fresh()).eval(), "; its bounds are infinite here")


def _require_read(subject: Subject, policy: nn.Module, where: str = "") -> None:
    parts = list(_parts(subject))
    for attempt in range(TRIES):
        parts = _unread(subject, policy, parts, attempt)
        if not parts:
            return
        if attempt == TRIES // 2:
            policy = perturb(policy, seed=attempt)  # a unit that is dead may wake up
    labels = [part.name for part in parts]
    text = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    raise CheckFailed(
        "every number of the observations to change an output, or to be declared unread",
        f"these change nothing: {text}{where}",
        example=example(
            f"# change {labels[0]} of the observations and compare",
            "print(policy.forward_eval(observations, state))",
        ),
    )


@dataclass(frozen=True)
class _Part:
    """Some numbers of one leaf of an observation."""

    name: str
    leaf: int
    index: Any
    """Where it is in the leaf of one observation."""


def _parts(subject: Subject) -> Iterator[_Part]:
    """Yield the parts of an observation that are not declared unread."""
    for index, (name, (leaf, space)) in enumerate(_leaves_of(subject).items()):
        for label, place in _parts_of_leaf(tuple(leaf.shape[1:]), space):
            path = ".".join(each for each in (name, label) if each)
            if not _is_unread(subject, path):
                yield _Part(path or "the observation", index, place)


def _parts_of_leaf(shape: tuple[int, ...], space: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and indices: each number, or of an image its channels and bands of pixels."""
    layout = image_layout(space) if len(shape) == 3 else None
    if layout:
        kinds = ("row", "column", "channel") if layout == "HWC" else ("channel", "row", "column")
        for axis, kind in enumerate(kinds):
            bands = shape[axis] if kind == "channel" else min(BANDS, shape[axis])
            for places in np.array_split(np.arange(shape[axis]), bands):
                first, last = int(places[0]), int(places[-1])
                label = f"{kind} {first}" if first == last else f"{kind}s {first}-{last}"
                yield label, (*[slice(None)] * axis, slice(first, last + 1))
        return
    for flat in _spread(range(math.prod(shape))):
        place = tuple(map(int, np.unravel_index(flat, shape))) if shape else ()
        yield ".".join(map(str, place)), place


def _spread(items: range) -> list[int]:
    """Return all of them, or `MOST` with the first and the last."""
    places = np.linspace(0, len(items) - 1, min(len(items), MOST)).round().astype(int)
    return [items[place] for place in places]


def _unread(subject: Subject, policy: nn.Module, parts: list[_Part], attempt: int) -> list[_Part]:
    """Return those parts whose exchange between random observations changes nothing."""
    rows = len(parts)
    base = map_nested(
        lambda leaf: leaf.expand(rows, *leaf.shape[1:]), subject.observations(1, seed=2 * attempt)
    )
    changed = map_nested(torch.clone, base)
    others = list(leaves(subject.observations(OTHERS, seed=2 * attempt + 1)))
    is_changed = torch.ones(rows, dtype=torch.bool)
    targets = list(leaves(changed))
    for row, part in enumerate(parts):
        target, index = targets[part.leaf][row], part.index
        unlike = (each for each in others[part.leaf] if not torch.equal(each[index], target[index]))
        source = next(unlike, None)
        is_changed[row] = source is not None
        if source is not None:
            target[index] = source[index]
    # Equal rows in equal places are computed alike to the last bit, so any difference counts.
    before, after = (_answers(subject, policy, map_nested(torch.clone, o)) for o in (base, changed))
    is_alike = (before == after) | (torch.isnan(before) & torch.isnan(after))
    # A number that is always the same can't be read.
    keep = (is_alike.all(1) & is_changed).tolist()
    return [part for part, unread in zip(parts, keep, strict=True) if unread]


def _answers(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Run one step -> outputs and the memory after it, (N, n)."""
    rows = len(next(leaves(observations)))
    logits, values, state = subject.step(observations, policy=policy)
    memory = [
        each.reshape(rows, -1).double()
        for each in state.values()
        if isinstance(each, Tensor) and each.numel() % rows == 0
    ]
    return torch.cat([numbers(subject, logits, values, rows), *memory], 1)


# -- codes -----------------------------------------------------------------------------------------


@singledispatch
def _code_ranges(space: Any) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Yield name, index, first and last code of each number that is a code, not an amount."""
    yield from ()


@_code_ranges.register
def _(space: gym.Discrete) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    yield "", (), int(space.start), int(space.start + space.n) - 1


@_code_ranges.register
def _(space: gym.MultiDiscrete) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    low, high = (np.asarray(each) for each in bounds_of(space) or (0, 0))
    for place in list(np.ndindex(*space.shape))[:SEVERAL]:
        yield ".".join(map(str, place)), place, int(low[place]), int(high[place])


def _require_codes(subject: Subject, policy: nn.Module) -> None:
    """Fail if two neighboring codes, with the rest equal, are answered alike."""
    for index, (name, (_, space)) in enumerate(_leaves_of(subject).items()):
        for label, place, low, high in _code_ranges(space):
            path = ".".join(each for each in (name, label) if each)
            if high == low or _is_unread(subject, path):
                continue
            codes = torch.tensor(_spread(range(low, high + 1)))
            is_alike = torch.ones(len(codes) - 1, dtype=torch.bool)
            for seed in range(TRIES):
                if not is_alike.any():
                    break
                observations = _with_codes(subject, index, place, codes, seed)
                try:
                    answers = _answers(subject, policy, observations)
                except Exception:  # a code without an answer is N2's matter
                    return
                is_alike &= (answers[1:] == answers[:-1]).all(1)
            if is_alike.any():
                first = int(is_alike.int().argmax())
                raise CheckFailed(
                    "every code to have an answer of its own",
                    f"codes {int(codes[first])} and {int(codes[first + 1])}"
                    f"{f' of {path}' if path else ''} are answered alike",
                    example=example("# give both codes and compare"),
                )


def _with_codes(
    subject: Subject, index: int, place: tuple[int, ...], codes: Tensor, seed: int
) -> Any:
    """Return equal observations, one for each code, with the codes at a place of one leaf."""
    number = itertools.count()

    def put(leaf: Tensor) -> Tensor:
        rows = leaf.expand(len(codes), *leaf.shape[1:]).clone()
        if next(number) == index:
            everywhere: Any = (slice(None), *place)
            rows[everywhere] = codes.to(leaf.dtype)
        return rows

    return map_nested(put, subject.observations(1, seed=seed))


# -- bounds ----------------------------------------------------------------------------------------


@singledispatch
def _unbounded(space: Any) -> gym.Box | None:
    """Return a Box of the same shape without bounds; None unless it is of bounded real numbers."""
    return None


@_unbounded.register
def _(space: gym.Box) -> gym.Box | None:
    is_real = np.issubdtype(space.dtype, np.floating)
    is_bounded = is_real and bool(np.isfinite([space.low, space.high]).all())
    return gym.Box(-np.inf, np.inf, space.shape, space.dtype) if is_bounded else None


def _without_bounds(subject: Subject) -> Subject | None:
    """Return the class built for the same Box without bounds, if it takes that; else None."""
    space = _unbounded(subject.spaces.observation)
    if space is None or constructor(subject) is None or "built" in subject.declared:
        return None
    spaces = Spaces(space, subject.spaces.action)
    other = replace(
        subject,
        spaces=spaces,
        build=lambda: rebuild(subject, spaces=spaces),
        _measurements={},
        _original=None,
    )
    with suppress(Exception):  # it may well refuse them
        other.step(other.observations(1))
        return other
    return None


def _leaves_of(subject: Subject) -> dict[str, tuple[Tensor, Any]]:
    """Return the leaves of one observation and their spaces, by the keys that lead there."""
    observations, spaces = subject.observations(1), leaf_spaces(subject.spaces.observation)
    by_name = dict(zip(names_of(spaces), leaves(spaces), strict=True))
    names = names_of(observations)
    return {
        name: (leaf, by_name[name]) for name, leaf in zip(names, leaves(observations), strict=True)
    }


def _is_unread(subject: Subject, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in subject.declared.get("unread", ()))
