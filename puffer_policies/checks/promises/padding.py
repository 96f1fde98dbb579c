"""S: rows that a mask hides, as in a set with fewer members than it has room for.

`E` rows of a leaf (E, ...), one bit of the mask (E,) for each. `shapes.CHECKS` lists this check
with the others of the family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Scope, check
from puffer_policies.checks.probes.edges import bounds_of
from puffer_policies.checks.probes.rollouts import one_step
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.checks.probes.tolerances import CHANGE, ROUNDING, difference, magnitude
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces.entities import is_mask
from puffer_policies.spaces.nested import leaves, map_nested, names_of

SHOWN = {"mask", "masks", "valid", "present", "presence", "exists", "exist", "real"}
HIDDEN = {"pad", "pads", "padded", "padding", "absent", "missing", "ignore", "ignored", "invalid"}
"""Words in the key of a mask whose ones stand for rows that are there, and for rows that are not.
With words of both, such as padding_mask, either meaning is accepted."""

OTHER_MASKS = {"action", "actions", "legal", "avail", "available"}
"""Words in the key of a mask that is of actions."""

SETS = 6
"""Observations, of which the first shows one row, and the second hides one."""

NO_MASK = "its observations have no mask of rows"


@dataclass(frozen=True)
class _Mask:
    """A mask among the leaves of an observation, and the leaves whose rows it hides."""

    name: str
    rows: tuple[str, ...]
    polarities: tuple[bool, ...]
    """Whether its ones show rows; both where its name does not tell."""


def has_mask(subject: Subject) -> str:
    """Return why a check of masked rows does not apply, or ''."""
    return "" if any(masks_of(subject.spaces.observation)) else NO_MASK


@check(
    "S12",
    "hidden-rows-count-for-nothing",
    promise="Where an observation has rows and a mask of them, a policy that uses the mask is not "
    "changed by rows that it hides, reads those that it shows, and tells a row of zeros from none.",
    why="Empty slots of a set hold zeros or what was there before. A mask that is inverted, or "
    "that is left out of the attention or of the pool, lets them count as members: the answer "
    "depends on how much room is left. It trains, and no error tells.",
    fix="Pass ~mask to nn.MultiheadAttention, which ignores keys where key_padding_mask is True. "
    "Zero the rows after the layers, not only before, and divide a sum by the count of the mask; "
    'fill with -inf before a maximum. What is read on purpose is declared: {"hidden_rows": "why"}.',
    applies=has_mask,
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def hidden_rows_inert(subject: Subject) -> None:
    """Change rows that are hidden, and rows that are shown; then show rows of zeros.

    A policy that flattens all numbers uses no mask. One does if it answers the same when rows and
    mask change places together, or if there are rows that it does not look at.
    """
    if "hidden_rows" in subject.declared:
        raise CheckSkipped("it declares that it reads rows that a mask hides")
    for mask in masks_of(subject.spaces.observation):
        failures = [_failure(subject, mask, shows=shows) for shows in mask.polarities]
        if all(failures) and failures[0]:
            raise failures[0]


def masks_of(space: Any) -> Iterator[_Mask]:
    """Yield the masks of a space, each with the leaves beside it that have as many rows."""
    parts = _by_name(leaf_spaces(space))
    for name, part in parts.items():
        parent, _, key = name.rpartition(".")
        polarities, shape = _polarities(key), tuple(part.shape or ())
        if not polarities or len(shape) != 1 or shape[0] < 2 or not is_mask(part, *shape):
            continue
        rows = tuple(
            other
            for other, each in parts.items()
            if other.rpartition(".")[0] == parent
            and not _polarities(other.rpartition(".")[2])
            and tuple(each.shape or ())[:1] == shape
        )
        if rows:
            yield _Mask(name, rows, polarities)


def _by_name(tree: Any) -> dict[str, Any]:
    return dict(zip(names_of(tree), leaves(tree), strict=True))


def _polarities(key: str) -> tuple[bool, ...]:
    """Return whether a one in a leaf of this name shows a row; both if it may hide it."""
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()))
    if words & OTHER_MASKS:
        return ()
    shows, hides = bool(words & SHOWN), bool(words & HIDDEN)
    return (True, False) if shows and hides else (True,) if shows else (False,) if hides else ()


def _failure(subject: Subject, mask: _Mask, *, shows: bool) -> CheckFailed | None:
    """Return what is wrong if the ones of the mask show rows, or hide them; None if nothing is."""
    probe = _Probe(subject, mask, shows=shows)
    name = mask.name
    hidden, shown = probe.reads(hidden=True), probe.reads(hidden=False)
    if hidden and not shown:
        return _failed(
            f"a policy that looks at the rows that {name} shows",
            f"it looks at those that {name} hides, and at no others: the mask is inverted",
        )
    if probe.attends_to_hidden_rows():
        return _failed(
            f"attention to the rows that {name} shows",
            f"its key_padding_mask is True for these, and False for those that {name} hides: the "
            "mask is inverted",
        )
    if not shown or not probe.takes_sets():
        return None  # S11's matter, or it flattens all numbers
    if hidden:
        return _failed(
            f"the same answers whatever stands in rows that {name} hides",
            f"answers follow the numbers in these rows, up to {hidden:.2g} apart",
        )
    if probe.takes_zeros_for_none():
        return _failed(
            f"other answers if {name} shows a row of zeros than if it hides it",
            f"the same answers: rows that {name} hides are members at 0, as it is used before the "
            "layers only, and they count in the pool",
        )
    return None


def _failed(expected: str, actual: str) -> CheckFailed:
    return CheckFailed(
        expected,
        actual,
        example=example(
            "# change rows that the mask hides and compare",
            "print(policy.forward_eval(observations, state))",
        ),
    )


class _Probe:
    """Runs on observations that differ in their rows, or in the order of these."""

    def __init__(self, subject: Subject, mask: _Mask, *, shows: bool) -> None:
        self.subject, self.mask = subject, mask
        self.policy = perturbed_copy(subject)
        self.observations = subject.observations(SETS)
        # (N, E), where rows are shown.
        self.shown = _patterns(SETS, _by_name(self.observations)[mask.name].shape[1])
        self.ones = self.shown if shows else ~self.shown
        self.base = self._with_mask(self.observations, self.ones)
        self.answers = self._run(self.base)
        self.columns = slice(None)
        """Of the answers: all of them, or the value where logits move with the rows."""

    def reads(self, *, hidden: bool) -> float:
        """Return how far answers follow what stands in the rows that are hidden, or are shown."""
        others = _by_name(self.subject.observations(SETS, seed=3))
        place = ~self.shown if hidden else self.shown
        changed = self._changed(
            lambda leaf, name: torch.where(_fit(place, leaf), others[name], leaf)
        )
        return self._gap(changed, self.answers, CHANGE)

    def takes_sets(self) -> bool:
        """Whether the value is the same if rows and mask change places together."""
        with seeded(4):
            order = torch.randperm(self.shown.shape[1])
        if torch.equal(order, torch.arange(len(order))):
            order = order.flip(0)
        parts = _by_name(self.base)
        for axes in (1, 2):  # a vector beside the set may be as long by chance
            rows = [each for each in self.mask.rows if parts[each].ndim > axes]
            answers = self._run(self._permuted(order, rows))
            if difference(answers[:, -1], self.answers[:, -1]) <= ROUNDING * magnitude(answers):
                if difference(answers, self.answers) > ROUNDING * magnitude(answers):
                    self.columns = slice(-1, None)
                return True
        return False

    def takes_zeros_for_none(self) -> bool:
        """Whether a row of zeros that is shown is answered like a row that is hidden."""
        spaces, parts = _by_name(leaf_spaces(self.subject.spaces.observation)), _by_name(self.base)
        for name in self.mask.rows:
            bounds = bounds_of(spaces[name])
            # A code of 0 may well stand for a row that is not there.
            if bounds is None or not parts[name].is_floating_point():
                return False
            if not bool((bounds[0] <= 0).all() and (bounds[1] >= 0).all()):
                return False
        zeroed = self._changed(lambda leaf, _: leaf.masked_fill(_fit(~self.shown, leaf), 0))
        visible = self._with_mask(
            zeroed, torch.full_like(self.ones, bool(self.ones[self.shown][0]))
        )
        return not self._gap(visible, self._run(zeroed), CHANGE)

    def attends_to_hidden_rows(self) -> bool:
        """Whether layers of attention ignore the rows that are shown, and these alone."""
        rows = self.shown.shape[1]
        verdicts: list[bool] = []

        def look(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            ignored = kwargs.get("key_padding_mask", args[3] if len(args) > 3 else None)
            if not isinstance(ignored, Tensor) or ignored.ndim != 2 or len(ignored) != SETS:
                return
            ignored = ignored if ignored.dtype is torch.bool else ignored == -torch.inf
            # A token of the policy's own may stand before or after them.
            parts = (ignored[:, -rows:], ignored[:, :rows])
            verdicts.extend(torch.equal(part, self.shown) for part in parts)

        layers = [each for each in self.policy.modules() if isinstance(each, nn.MultiheadAttention)]
        if not layers:
            return False
        handles = [each.register_forward_pre_hook(look, with_kwargs=True) for each in layers]
        try:
            # With gradients, as the fast path of evaluation calls no layer inside another.
            self.subject.sequence(map_nested(torch.clone, self.base), policy=self.policy, grad=True)
        finally:
            for handle in handles:
                handle.remove()
        return any(verdicts)

    def _run(self, observations: Any) -> Tensor:
        return one_step(self.subject, self.policy, observations)

    def _gap(self, observations: Any, reference: Tensor, tolerance: float) -> float:
        answers = self._run(observations)[:, self.columns]
        gap = difference(answers, reference[:, self.columns])
        return gap if gap > tolerance * magnitude(answers) else 0.0

    def _with_mask(self, observations: Any, ones: Tensor) -> Any:
        observations = map_nested(torch.clone, observations)
        leaf = _by_name(observations)[self.mask.name]
        leaf[:] = ones.to(leaf.dtype)
        return observations

    def _changed(self, change: Any) -> Any:
        """Return the observations with other numbers in the leaves that have rows.

        A matrix from rows to rows, such as one of neighbors, stays as it is.
        """
        observations = map_nested(torch.clone, self.base)
        for name, leaf in _by_name(observations).items():
            if name in self.mask.rows and not _is_square(leaf):
                leaf[:] = change(leaf, name)
        return observations

    def _permuted(self, order: Tensor, rows: list[str]) -> Any:
        observations = map_nested(torch.clone, self.base)
        for name, leaf in _by_name(observations).items():
            if name in (self.mask.name, *rows):
                leaf[:] = leaf[:, order]
                if _is_square(leaf):
                    leaf[:] = leaf[:, :, order]
        return observations


def _is_square(leaf: Tensor) -> bool:
    return leaf.ndim > 2 and leaf.shape[1] == leaf.shape[2]


def _fit(place: Tensor, leaf: Tensor) -> Tensor:
    """(N, E) -> (N, E, 1, ...), as many axes as the leaf has."""
    return place.reshape(*place.shape, *[1] * (leaf.ndim - 2))


def _patterns(count: int, rows: int) -> Tensor:
    """Return which rows are shown, bool (N, E): one, all but one, and some."""
    with seeded(2):
        shown = torch.rand(count, rows) < 0.5
    shown[:, 0], shown[:, -1] = True, False
    shown[0, 1:], shown[1, :-1] = False, True
    return shown
