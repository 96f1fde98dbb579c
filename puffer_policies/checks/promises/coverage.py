"""S: every number of an observation is read, and read as a number.

`N` rows. What is left unread on purpose is declared: ``declared["unread"]`` lists patterns of the
names of numbers, such as ``"3"`` for the fourth of a vector, ``"where.*"`` for a key of a Dict,
``"channel 2"`` for a frame or a color. `shapes.CHECKS` lists this check with the others of the
family.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Level, Scope, check
from puffer_policies.checks.probes.construction import constructor, rebuild
from puffer_policies.checks.probes.edges import bounds_of
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.rollouts import differs, select
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.probes.tolerances import CHANGE, difference, magnitude
from puffer_policies.checks.probes.weights import perturb, perturbed_copy
from puffer_policies.checks.promises.padding import masks_of
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces import Spaces, image_layout
from puffer_policies.spaces.nested import leaves, map_nested, names_of

MOST = 256
"""Numbers of one leaf, and codes of one Discrete, that are tried; of more, these many spread."""

IMAGE_AXES = ("row", "column", "channel")
"""Of an image whose channels lie last."""

BANDS = 4
"""Rows and columns of pixels are tried in so many bands: a stride may leave out the last pixel."""

NEIGHBORS = 4
"""Of many codes, how many of the last are tried. A dtype of few bits takes some for each other."""

WORDS, FEW_ALIKE = 128, 0.1
"""Codes of a vocabulary, and the share of them that may be answered like others by chance."""

SEVERAL = 16
"""Numbers of a MultiDiscrete whose codes are tried one by one."""

FAR = 1e6
"""Bounds beyond this are no numbers that an env sends."""

PAIRS, FEW_CODES = 24, 8
"""Pairs of such numbers whose codes are tried together, and codes of each."""

POINTS = (-0.9, -0.1, 0.1, 0.9)
SIDES = {"below": (0, 1), "above": (2, 3), "mirrored": (0, 3)}
"""Shares of its reach that are put into a number, and which of their answers are compared."""

BOTH_SIDES = 32
"""Numbers of a leaf that are tried so."""

TEXT = 32
"""Numbers of a vector that a convolution of one axis may run over, with a stride like that."""

MIN_NUMBERS = 3
"""Numbers of a vector of which each has a meaning of its own. Two may well be two of a kind."""

OTHERS = 8
"""Observations among which one is chosen that differs in the number."""

TRIES, ATTEMPTS = 6, 24
"""Observations with which two answers are compared before they count as alike; and pairs between
which a number is exchanged before it counts as unread, as a mask in them may hide it in most."""


@check(
    "S11",
    "every-number-matters",
    promise="Every number of an observation changes some output or the memory, unless it is "
    "declared unread; so does every code, and every channel and band of an image. Codes of two "
    "numbers do not stand for each other.",
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
    _require_distinct(subject)
    _require_both_signs(subject)
    _require_places(subject)
    _require_parts(subject)
    if other := _without_bounds(subject):
        # Nobody need ever build it so, but a number that is lost there is lost in silence.
        _require_read(
            other,
            perturb(other.fresh()).eval(),
            "; its bounds are infinite here",
            level=Level.ADVICE,
        )


def _require_read(
    subject: Subject, policy: nn.Module, where: str = "", *, level: Level | None = None
) -> None:
    parts = list(_parts(subject))
    for attempt in range(ATTEMPTS):
        parts = _unread(subject, policy, parts, attempt)
        if not parts:
            return
        if attempt % TRIES == TRIES // 2:
            policy = perturb(policy, seed=attempt)  # a unit that is dead may wake up
    labels = [part.name for part in parts]
    if _are_of_matrices(subject, parts):
        level = Level.ADVICE
    text = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    raise CheckFailed(
        "every number of the observations to change an output, or to be declared unread",
        f"these change nothing: {text}{where}",
        example=example(
            f"# change {labels[0]} of the observations and compare",
            "print(policy.forward_eval(observations, state))",
        ),
        level=level,
    )


def _are_of_matrices(subject: Subject, unread: list[_Part]) -> bool:
    """Whether all unread numbers stand in matrices of which the rest is read.

    The diagonal of a graph's edges says nothing, and a convolution may leap over rows.
    """
    spaces = [space for _, space in _leaves_of(subject).values()]
    read = {part.leaf for part in _parts(subject) if part not in unread}
    return all(len(spaces[part.leaf].shape) == 2 and part.leaf in read for part in unread)


_Place = tuple[str, Any]
"""The name of numbers within a leaf, and their index there."""


@dataclass(frozen=True)
class _Part:
    """Some numbers of one leaf of an observation."""

    name: str
    leaf: int
    index: Any
    """Where it is in the leaf of one observation."""


def _parts(subject: Subject) -> Iterator[_Part]:
    """Yield the parts of an observation that are not declared unread."""
    strides = any(isinstance(each, nn.Conv1d) for each in subject.policy.modules())
    for index, (name, (leaf, space)) in enumerate(_leaves_of(subject).items()):
        for label, place in _parts_of_leaf(tuple(leaf.shape[1:]), space, strides=strides):
            path = _path(name, label)
            if not _is_unread(subject, path):
                yield _Part(path or "the observation", index, place)


def _parts_of_leaf(shape: tuple[int, ...], space: Any, *, strides: bool) -> Iterator[_Place]:
    """Yield names and indices: each number, or bands of what a convolution runs over."""
    layout = image_layout(space) if len(shape) == 3 else None
    if layout:
        yield from _bands(shape, IMAGE_AXES if layout == "HWC" else ("channel", "row", "column"))
    elif strides and (len(shape) == 2 or (len(shape) == 1 and shape[0] >= TEXT)):
        yield from _bands(shape, ("row", "column")[: len(shape)])
    else:
        for flat in _spread(range(math.prod(shape))):
            place = tuple(map(int, np.unravel_index(flat, shape))) if shape else ()
            yield ".".join(map(str, place)), place


def _bands(shape: tuple[int, ...], kinds: tuple[str, ...]) -> Iterator[_Place]:
    """Yield the channels, and bands along the other axes: a stride may leave out what is last."""
    for axis, kind in enumerate(kinds):
        bands = shape[axis] if kind == "channel" else min(BANDS, shape[axis])
        for places in np.array_split(np.arange(shape[axis]), bands):
            first, last = int(places[0]), int(places[-1])
            label = f"{kind} {first}" if first == last else f"{kind}s {first}-{last}"
            yield label, (*[slice(None)] * axis, slice(first, last + 1))


def _path(name: str, label: str) -> str:
    """Return the name of a number: that of its leaf, and of its place there."""
    return ".".join(each for each in (name, label) if each)


def _spread(items: range) -> list[int]:
    """Return all of them, or `MOST` with the first one and the last ones, which are neighbors."""
    places = np.linspace(0, len(items) - 1, min(len(items), MOST)).round().astype(int)
    last = range(max(0, len(items) - NEIGHBORS), len(items))
    return [items[place] for place in sorted({*places.tolist(), *last})]


def _unread(subject: Subject, policy: nn.Module, parts: list[_Part], attempt: int) -> list[_Part]:
    """Return those parts whose exchange between random observations changes nothing."""
    rows = len(parts)
    base = select(subject.observations(1, seed=2 * attempt), [0] * rows)
    changed = map_nested(torch.clone, base)
    others = list(leaves(subject.observations(OTHERS, seed=2 * attempt + 1)))
    if attempt % 2:
        # A flag among real numbers, such as a mask of 0 and 1, is one at its bounds only.
        others = [
            torch.cat([*edges, own]) for edges, own in zip(_edges(subject), others, strict=True)
        ]
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


def _edges(subject: Subject) -> Iterator[list[Tensor]]:
    """Yield the lowest and the highest row of each leaf of finite real numbers, (1, *S) each."""
    for leaf, space in _leaves_of(subject).values():
        bounds = bounds_of(space) if leaf.is_floating_point() else None
        rows = [torch.as_tensor(each).to(leaf.dtype).unsqueeze(0) for each in bounds or ()]
        yield rows if all(each.isfinite().all() for each in rows) else []


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


@dataclass(frozen=True)
class _Code:
    """A number of an observation that is a code, with its first and last one."""

    name: str
    leaf: int
    place: tuple[int, ...]
    low: int
    high: int


def _codes_of(subject: Subject) -> Iterator[_Code]:
    """Yield the codes of an observation that have several values and are not declared unread."""
    for index, (name, (_, space)) in enumerate(_leaves_of(subject).items()):
        for label, place, low, high in _code_ranges(space):
            path = _path(name, label)
            if high > low and not _is_unread(subject, path):
                yield _Code(path, index, place, low, high)


def _require_codes(subject: Subject, policy: nn.Module) -> None:
    """Fail if two codes, with the rest equal, are answered alike; of very many, two neighbors."""
    for code in _codes_of(subject):
        codes = torch.tensor(_spread(range(code.low, code.high + 1)))
        # A hash may well put two of very many words into one place.
        distances = range(1, len(codes) if code.high - code.low < MOST else 2)
        pairs = torch.tensor([(i, i + d) for d in distances for i in range(len(codes) - d)])
        if code.high - code.low >= MOST:
            # Nor does a byte know more than 256.
            wrapped = torch.arange(code.low, code.high - 255)[:NEIGHBORS]
            start, count = len(codes), len(wrapped)
            codes = torch.cat([codes, wrapped, wrapped + 256])
            pairs = torch.cat([pairs, start + torch.tensor([(i, i + count) for i in range(count)])])
        is_alike = torch.ones(len(pairs), dtype=torch.bool)
        for seed in range(TRIES):
            if not is_alike.any():
                break
            observations = _with_codes(subject, code, codes, seed)
            try:
                answers = _answers(subject, policy, observations)
            except Exception:  # a code without an answer is N2's matter
                return
            is_alike &= (answers[pairs[:, 0]] == answers[pairs[:, 1]]).all(1)
        if is_alike.any():
            first, second = pairs[int(is_alike.int().argmax())].tolist()
            share = len(set(pairs[is_alike].flatten().tolist())) / len(codes)
            raise CheckFailed(
                "every code to have an answer of its own",
                f"codes {int(codes[first])} and {int(codes[second])}"
                f"{f' of {code.name}' if code.name else ''} are answered alike",
                example=example("# give both codes and compare"),
                # Hashes of many words meet in a few places, by chance and on purpose.
                level=Level.ADVICE if len(codes) >= WORDS and share < FEW_ALIKE else None,
            )


def _with_codes(subject: Subject, code: _Code, codes: Tensor, seed: int) -> Any:
    """Return equal observations, one for each of `codes`, which stand in the place of `code`."""
    observations = select(subject.observations(1, seed=seed), [0] * len(codes))
    _put_codes(observations, code, codes)
    return observations


def _put_codes(observations: Any, code: _Code, codes: Tensor) -> None:
    """Write one of `codes` into each observation (N, *obs)."""
    leaf = list(leaves(observations))[code.leaf]
    leaf[(slice(None), *code.place)] = codes.to(leaf.dtype)


def _require_distinct(subject: Subject) -> None:
    """Fail if two pairs of codes are answered alike that differ in both, as in one table for two.

    Codes of one range may well be exchanged or compared with each other, as those of a set are.
    """
    pairs = (
        (one, two)
        for one, two in itertools.combinations(_codes_of(subject), 2)
        if one.high - one.low != two.high - two.low
    )
    for one, two in itertools.islice(pairs, PAIRS):
        values = torch.cartesian_prod(*(_few_codes(each) for each in (one, two)))
        is_alike = (values.unsqueeze(0) != values.unsqueeze(1)).all(-1)
        for seed in range(TRIES):
            if not is_alike.any():
                break
            observations = _with_codes(subject, one, values[:, 0], seed)
            _put_codes(observations, two, values[:, 1])
            try:
                answers = _answers(subject, perturbed_copy(subject, seed=seed + 1), observations)
            except Exception:  # a code without an answer is N2's matter
                return
            gaps = (answers.unsqueeze(0) - answers.unsqueeze(1)).abs().amax(-1)
            is_alike &= gaps <= CHANGE * magnitude(answers)
        if is_alike.any():
            first, second = (values[int(row)].tolist() for row in is_alike.nonzero()[0])
            raise CheckFailed(
                "every pair of codes to have an answer of its own",
                f"{tuple(first)} and {tuple(second)} of {one.name} and {two.name} are answered "
                "alike",
                fix="Give each number a table of its own, or an offset in a shared one that is the "
                "sum of the sizes before it: np.cumsum([0, *nvec[:-1]]).",
                example=example("# give both pairs of codes and compare"),
            )


def _few_codes(code: _Code) -> Tensor:
    places = np.linspace(code.low, code.high, min(code.high - code.low + 1, FEW_CODES))
    return torch.from_numpy(places.round().astype(np.int64))


# -- amounts ---------------------------------------------------------------------------------------


@singledispatch
def _reaches(space: Any) -> tuple[Any, Any] | None:
    """Return how far numbers reach below and above 0, where each reaches both ways; else None."""
    return None


@_reaches.register
def _(space: gym.Box) -> tuple[Any, Any] | None:
    if not np.issubdtype(space.dtype, np.floating) or image_layout(space):
        return None
    low, high = np.nan_to_num(space.low, neginf=-1.0), np.nan_to_num(space.high, posinf=1.0)
    is_both = (low < 0) & (high > 0)
    return (np.where(is_both, low, 0.0), np.where(is_both, high, 0.0)) if is_both.any() else None


def _require_both_signs(subject: Subject) -> None:
    """Fail if most numbers of a vector count on one side of 0 only, or only by their size.

    A number of which only the sign counts, such as a flag, is answered alike on both sides.
    """
    for index, (name, (leaf, space)) in enumerate(_leaves_of(subject).items()):
        reaches = _reaches(space)
        if reaches is None or leaf.ndim != 2:  # a row of a set may be left out by a sign in it
            continue
        parts = [
            (_path(name, label), place)
            for label, place in _parts_of_leaf(tuple(leaf.shape[1:]), space, strides=False)
        ]
        parts = [each for each in parts if reaches[1][each[1]] and not _is_unread(subject, each[0])]
        parts = parts[:: 1 + len(parts) // BOTH_SIDES]
        if not parts:
            continue
        alike = {key: torch.ones(len(parts), dtype=torch.bool) for key in SIDES}
        for seed in range(TRIES // 2):
            answers = _answers_on_sides(subject, index, parts, reaches, seed)
            for key, (one, two) in SIDES.items():
                gaps = (answers[one] - answers[two]).abs().amax(-1)
                alike[key] &= gaps <= CHANGE * magnitude(answers)
        for key, text in (
            ("below", "all negative numbers are answered alike"),
            ("above", "all positive numbers are answered alike"),
            ("mirrored", "a number and its negative are answered alike"),
        ):
            lost = alike[key] & ~(alike["below"] & alike["above"])
            if 2 * int(lost.sum()) > len(parts):
                label = parts[int(lost.int().argmax())][0] or "the observation"
                raise CheckFailed(
                    "numbers that are told apart on both sides of 0",
                    f"{text}, in {label} and most others",
                    fix="Give observations to the first layer as they are, without relu, abs, "
                    "clamp(min=0) or a norm over all of them.",
                    example=example(
                        "# change the sign or the size of one number and compare",
                        "print(policy.forward_eval(observations, state))",
                    ),
                )


def _answers_on_sides(
    subject: Subject, index: int, parts: list[tuple[str, Any]], reaches: Any, seed: int
) -> Tensor:
    """Put `POINTS` in turn into one number after the other -> answers (points, parts, n)."""
    low, high = reaches
    rows = len(POINTS) * len(parts)
    observations = select(subject.observations(1, seed=seed), [0] * rows)
    leaf = list(leaves(observations))[index]
    for row, (point, (_, place)) in enumerate(itertools.product(POINTS, parts)):
        # The same size on both sides, where both reach it.
        least = min(-float(low[place]), float(high[place]))
        leaf[row][place] = point * least
    answers = _answers(subject, perturbed_copy(subject, seed=seed + 1), observations)
    return answers.reshape(len(POINTS), len(parts), -1)


def _require_places(subject: Subject) -> None:
    """Fail if all numbers of a leaf may be exchanged, as after a mean over the wrong axis.

    Of an image its halves are; of codes, those that have the same range.
    """
    sets = {row for mask in masks_of(subject.spaces.observation) for row in mask.rows}
    unordered = subject.declared.get("unordered", ())
    for index, (name, (leaf, space)) in enumerate(_leaves_of(subject).items()):
        swaps = _swaps(space, tuple(leaf.shape[1:]))
        is_set = name in sets or any(fnmatchcase(name, pattern) for pattern in unordered)
        if not swaps or is_set or _any_unread(subject, name):
            continue
        policy = perturbed_copy(subject)
        low, high = (torch.as_tensor(np.asarray(each)) for each in bounds_of(space) or (0, 0))
        fillings: list[tuple[Tensor, Tensor] | None] = [] if _is_code(space) else [None]
        # Codes may be equal by chance, and flags among real numbers are read at their bounds only.
        if max(low.abs().max(), high.abs().max()) <= FAR:
            fillings.append((low, high))
        for what, pairs in swaps.items():
            if all(_may_be_exchanged(subject, policy, index, pairs, each) for each in fillings):
                raise CheckFailed(
                    "numbers that do not stand for each other",
                    f"{what} of {name or 'the observation'} may be exchanged: they are summed up "
                    "before anything is made of their places",
                    fix="Pool over the axis of tokens, not over that of features; give each code a "
                    "table of its own or add a vector for its place; average pixels over channels "
                    'only. What has no order is declared: {"unordered": ["hand"]}.',
                    example=example("# exchange two of them and compare"),
                    # Cards of a hand have no order, and words of a text have one.
                    level=Level.ADVICE if isinstance(space, gym.MultiDiscrete) else None,
                )


def _may_be_exchanged(
    subject: Subject,
    policy: nn.Module,
    index: int,
    pairs: Sequence[tuple[Any, Any]],
    filling: tuple[Tensor, Tensor] | None,
) -> bool:
    """Whether places in a leaf can be exchanged in pairs, filled with bounds or any numbers."""
    base = select(subject.observations(1), [0] * len(pairs))
    target = list(leaves(base))[index]
    if filling is not None:
        low, high = filling
        for row, (one, other) in enumerate(pairs):
            target[row][one], target[row][other] = low[one], high[other]
    changed = map_nested(torch.clone, base)
    target = list(leaves(changed))[index]
    for row, (one, other) in enumerate(pairs):
        parts = target[row][one].clone(), target[row][other].clone()
        target[row][other], target[row][one] = parts
    before, after = (_answers(subject, policy, each) for each in (base, changed))
    return differs(base, changed) and difference(before, after) <= CHANGE * magnitude(before)


Swaps = dict[str, list[tuple[Any, Any]]]
"""What may be exchanged, in words, and the pairs of places of each; all of them, or it is none."""


def _swaps(space: Any, shape: tuple[int, ...]) -> Swaps:
    """Return the pairs of places in a leaf (*shape) that are exchanged."""
    layout = image_layout(space) if len(shape) == 3 else None
    if layout:
        swaps: Swaps = {}
        for axis, what in enumerate(("upper and lower", "left and right"), layout == "CHW"):
            half, before = shape[axis] // 2, [slice(None)] * axis
            if half:
                halves = (*before, slice(half)), (*before, slice(half, 2 * half))
                swaps[f"the {what} half"] = [halves]
        return swaps
    bounds = bounds_of(space)
    if len(shape) != 1 or not MIN_NUMBERS <= shape[0] <= MOST or bounds is None:
        return {}
    is_free, (low, high) = not _is_code(space), bounds
    pairs = [
        ((place,), (place + 1,))
        for place in range(shape[0] - 1)
        if is_free or (low[place], high[place]) == (low[place + 1], high[place + 1])
    ]
    return {"any two neighbors": pairs} if pairs else {}


@singledispatch
def _is_code(space: Any) -> bool:
    """Whether numbers of a space are codes, of which two may be equal by chance."""
    return False


@_is_code.register(gym.MultiDiscrete)
@_is_code.register(gym.MultiBinary)
def _(_: Any) -> bool:
    return True


def _require_parts(subject: Subject) -> None:
    """Fail if two parts of an observation may be exchanged, though each of them is read."""
    parts = list(_leaves_of(subject).items())
    for (i, (one, (leaf, space))), (j, (two, (_, other))) in itertools.combinations(
        enumerate(parts), 2
    ):
        if space != other or _any_unread(subject, one) or _any_unread(subject, two):
            continue
        policy, base = perturbed_copy(subject), subject.observations(OTHERS)
        changed = map_nested(torch.clone, base)
        targets = list(leaves(changed))
        targets[i][:], targets[j][:] = (targets[each].clone() for each in (j, i))
        before, after = (_answers(subject, policy, each) for each in (base, changed))
        if differs(base, changed) and difference(before, after) <= CHANGE * magnitude(before):
            raise CheckFailed(
                "parts of an observation that do not stand for each other",
                f"{one} and {two} may be exchanged: {tuple(leaf.shape[1:])} numbers of both are "
                "encoded alike and summed up",
                fix="Give each part an encoder of its own, or put their features side by side.",
                example=example("# exchange the two parts and compare"),
            )


def _any_unread(subject: Subject, name: str) -> bool:
    return any(pattern.startswith(name) for pattern in subject.declared.get("unread", ()))


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
    """Whether a number is declared unread, by its own name or that of what it stands in."""
    parts = name.split(".")
    names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    patterns = subject.declared.get("unread", ())
    return any(fnmatchcase(each, pattern) for pattern in patterns for each in names)
