"""S3-S5: a row of a batch comes out alone, in its place, whatever the other rows are.

`B` rows, `T` steps. Compared in evaluation mode and on copies whose parameters carry a little noise
(`probing.awake`), so that dropout is no fault and a head that starts at zero hides none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probing import (
    awake,
    given,
    other_at,
    parts,
    stepped,
    tolerance,
    unrolled,
)
from puffer_policies.checks.subject import BATCH, STEPS, Subject, difference, seeded

MANY = 7
FEW = (1, 2)
"""Batches that are compared with the first rows of MANY; 1 is where squeeze() bites."""

Run = Callable[[Subject, Any, nn.Module], Tensor]

INSENSITIVE = 1e-6
"""Changes below this, relative to the outputs, count as none."""


@check(
    "S3",
    "any-batch-size",
    promise="Batches of 1, 2 and 7 rows, and sequences of one step, give the same rows.",
    why="squeeze() drops the batch when it is 1: training works, and acting with one environment "
    "fails or mixes axes.",
    fix="Never squeeze or average over the batch; name the axis: squeeze(-1).",
)
def any_batch_size(subject: Subject) -> None:
    """Compare the first rows of a large batch with a small one."""
    policy = awake(subject)
    for size in FEW:
        _compare_sizes(subject, policy, size)


@check(
    "S4",
    "rows-in-order",
    promise="Row b at time t of a sequence comes out at b*T + t.",
    why="In another order, actions and advantages are paired with the wrong outputs, and learning "
    "only looks slow.",
    fix="Merge with reshape(B*T, ...) of a (B, T, ...) tensor; transpose back what an nn.LSTM "
    "without batch_first returns.",
)
def rows_in_order(subject: Subject) -> None:
    """Change one observation and look which outputs change."""
    policy = awake(subject)
    observations = subject.observations(steps=STEPS)
    reference = unrolled(subject, observations, policy)
    for row, step in ((1, 2), (3, STEPS - 1)):
        changed = unrolled(subject, other_at(subject, observations, (row, step)), policy)
        moved = set(_moved(reference, changed))
        here, block = row * STEPS + step, range(row * STEPS, (row + 1) * STEPS)
        if moved and (here not in moved or not moved <= set(block)):
            raise CheckFailed(
                f"row {row} at time {step} is output {here}; its row {block[0]} to {block[-1]}",
                f"changing that observation changed outputs {sorted(moved)}",
                example=given(subject, steps=STEPS) + "logits, values = policy(observations, state)"
                f"\n# then change observations[{row}, {step}] and compare",
            )


@check(
    "S5",
    "rows-independent",
    promise="What one row observes leaves the outputs of the other rows as they are.",
    why="Rows are different environments: a leak makes the policy depend on its neighbours, which "
    "are others in evaluation (batch norm, or batch_first mistaken).",
    fix="Use layer norm; check the axes of recurrent and attention layers.",
)
def rows_independent(subject: Subject) -> None:
    """Change one row, in both modes; under one seed, as dropout draws alike."""
    for training in (False, True):
        if training and subject.declared.get("batch_statistics"):
            continue
        policy = awake(subject, training=training)
        for run, steps in ((stepped, None), (unrolled, STEPS)):
            _require_independence(subject, policy, run, steps)


CHECKS = (any_batch_size, rows_in_order, rows_independent)


def _compare_sizes(subject: Subject, policy: nn.Module, size: int) -> None:
    """Run the first rows alone, as a step and as a sequence of one step."""
    many, few = subject.observations(MANY), _first(subject, subject.observations(MANY), size)
    if (found := _ranks(subject, few, policy)) != (wanted := _ranks(subject, many, policy)):
        raise _size_failure(subject, size, f"logits and values of {wanted} axes", f"{found} axes")
    for run in (stepped, _one_step):
        whole, alone = run(subject, many, policy), run(subject, few, policy)
        gap = difference(alone, whole[:size])
        if gap > tolerance(whole):
            wanted_text = f"rows 0 to {size - 1} of a batch of {MANY}, also without the others"
            raise _size_failure(subject, size, wanted_text, f"outputs {gap:.2g} apart")


def _size_failure(subject: Subject, size: int, expected: str, found: str) -> CheckFailed:
    example = given(subject, size) + "print(policy.forward_eval(observations, state))"
    return CheckFailed(expected, f"a batch of {size}: {found}", example=example)


def _first(subject: Subject, observations: Any, rows: int) -> Any:
    return subject.map(lambda leaf: leaf[:rows], observations)


def _one_step(subject: Subject, observations: Any, policy: nn.Module) -> Tensor:
    """Run a sequence of one step -> (B, n)."""
    return unrolled(subject, subject.map(lambda leaf: leaf.unsqueeze(1), observations), policy)


def _ranks(subject: Subject, observations: Any, policy: nn.Module) -> list[int]:
    logits, values, _ = subject.step(subject.map(torch.clone, observations), policy=policy)
    return [each.ndim for each in (*(parts(logits) or []), values)]


def _moved(reference: Tensor, changed: Tensor) -> list[int]:
    """Return the rows of (N, n) that differ by more than rounding."""
    least = INSENSITIVE * max(1.0, float(reference.abs().max()))
    gaps = (changed - reference).abs().amax(1)
    # A NaN is larger than nothing: it counts as moved.
    return torch.nonzero(~(gaps <= least)).flatten().tolist()


def _require_independence(subject: Subject, policy: nn.Module, run: Run, steps: int | None) -> None:
    row, each = 1, steps or 1
    observations = subject.observations(steps=steps)
    index = (row,) if steps is None else (row, 0)
    changed = other_at(subject, observations, index)
    with seeded(5):
        before = run(subject, observations, policy)
    with seeded(5):
        after = run(subject, changed, policy)
    leaked = [n // each for n in _moved(before, after) if n // each != row]
    if leaked:
        mode = "training" if policy.training else "evaluation"
        raise CheckFailed(
            f"only row {row} of {BATCH} answers to what row {row} observes",
            f"rows {sorted(set(leaked))} answered too, in {mode} mode",
            example=given(subject, steps=steps) + f"# change observations[{row}] and compare",
        )
