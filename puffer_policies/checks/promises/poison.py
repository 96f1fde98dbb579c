"""Check that what is no number stays visible: NaN and infinity in observations and weights.

`B` rows. Third parties put NaN guards into encoders and heads; what they hide is found by comparing
with the answer to clean numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.outputs import answer, example, still
from puffer_policies.checks.probes.subject import BATCH, Subject, difference
from puffer_policies.nested import leaves, map_nested

SAME = 1e-6
"""Answers that differ less are the same: the number that was put in is not used."""

LARGE = 1e30


@check(
    "N1",
    "nan-stays-visible",
    promise="A NaN in an observation or a weight raises or makes NaN of what depends on it; an "
    "infinity does so too, or acts as a very large number.",
    why="A NaN that is turned into an ordinary action hides a broken sensor or a diverged run.",
    fix="Drop nan_to_num and its like; raise with the name of the layer, or let the NaN through.",
)
def nan_stays_visible(subject: Subject) -> None:
    """Poison the first row of each observation leaf, then each weight."""
    policy, observations = still(subject), subject.observations()
    clean = answer(subject, policy, observations)
    floats = [leaf.is_floating_point() for leaf in leaves(observations)]
    for index in (i for i, is_float in enumerate(floats) if is_float):
        dirty = _poisoned(observations, index, float("nan"), whole=True)
        where = "observations[0]" if len(floats) == 1 else f"leaf {index} of observations[0]"
        _require_visible(subject, policy, dirty, clean, where, rows=1)
        _require_limit(subject, policy, observations, index)
    for name, parameter in policy.named_parameters():
        if parameter.is_floating_point() and parameter.numel():
            _poison_weight(subject, policy, observations, clean, name, parameter)


def _poisoned(observations: Any, index: int, value: float, *, whole: bool) -> Any:
    """Return observations whose leaf `index` has `value` in all, or one, of its first row."""
    count = iter(range(1_000_000))

    def poison(leaf: Tensor) -> Tensor:
        if next(count) != index:
            return leaf
        leaf = leaf.clone()
        row = leaf[0].reshape(-1)
        row[: None if whole else 1] = value
        leaf[0] = row.reshape(leaf[0].shape)
        return leaf

    return map_nested(poison, observations)


def _poison_weight(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    clean: tuple[Tensor, Tensor],
    name: str,
    parameter: Tensor,
) -> None:
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter.fill_(float("nan"))
        try:
            _require_visible(subject, policy, observations, clean, f"the parameter {name}")
        finally:
            parameter.copy_(kept)


def _require_visible(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    clean: tuple[Tensor, Tensor],
    where: str,
    *,
    rows: int = BATCH,
) -> None:
    """Refuse finite answers that a NaN has changed; unchanged ones do not depend on it."""
    try:
        dirty = answer(subject, policy, observations)
    except Exception:
        return
    for what, before, after in zip(("log-probabilities", "values"), clean, dirty, strict=True):
        if not bool(torch.isfinite(before[:rows]).all()):
            continue
        if bool(torch.isfinite(after[:rows]).all()) and difference(before, after) > SAME:
            raise CheckFailed(
                f"an error, or NaN {what}, after NaN in {where}",
                f"ordinary finite {what}",
                example=_poison_example(where),
            )


def _require_limit(subject: Subject, policy: nn.Module, observations: Any, index: int) -> None:
    for sign in (1, -1):
        values = (sign * float("inf"), sign * LARGE)
        inputs = [_poisoned(observations, index, value, whole=False) for value in values]
        try:
            infinite, large = (torch.cat(answer(subject, policy, each), 1)[0] for each in inputs)
        except Exception:
            return
        both = torch.isfinite(infinite) & torch.isfinite(large)
        gap = difference(infinite[both], large[both])
        if gap > 1e-3 * max(1.0, float(large[both].abs().max()) if both.any() else 1.0):
            raise CheckFailed(
                f"an error, NaN, or the answer to {values[1]:g}, after {values[0]:g} in "
                "observations[0]",
                f"an ordinary answer that differs by {gap:.3g}",
                example=_poison_example("observations[0]"),
            )


def _poison_example(where: str) -> str:
    spoil = "subject.map(lambda leaf: leaf.fill_(torch.nan), observations)"
    if where.startswith("the parameter"):
        name = where.removeprefix("the parameter ")
        spoil = f"policy.get_parameter({name!r}).data.fill_(torch.nan)"
    return example(spoil, "print(policy.forward_eval(observations, subject.state(5)))")


CHECKS = (nan_stays_visible,)
