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
from puffer_policies.checks.probes.probing import (
    awake,
    given,
    other_at,
    parts,
    stepped,
    tolerance,
    unrolled,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, difference, seeded

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
    why="A bare squeeze() drops the batch when it is 1: training works, and acting with one "
    "environment fails or mixes axes.",
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
        moved = _moved(reference, changed)
        most = int((changed - reference).abs().amax(1).argmax())
        here, block = row * STEPS + step, range(row * STEPS, (row + 1) * STEPS)
        # Only the place is judged: what reaches other rows besides is S5's matter.
        if moved and (here not in moved or most not in block):
            raise CheckFailed(
                f"row {row} at time {step} is output {here} of {block[0]} to {block[-1]}",
                f"changing that observation changed outputs {moved}, and {most} most",
                example=given(subject, steps=STEPS)
                + "logits, values = policy(observations, state)\n"
                + f"# then change observations[{row}, {step}] and compare",
            )


@check(
    "S5",
    "rows-independent",
    promise="What one row observes leaves the outputs of the other rows as they are.",
    why="Rows are different environments: a leak makes the policy depend on its neighbors, which "
    "are others in evaluation (batch norm, or batch_first mistaken).",
    fix="Use layer norm, or declare batch statistics: declared={'train_differs': 'why'}; check the "
    "axes of recurrent and attention layers.",
)
def rows_independent(subject: Subject) -> None:
    """Change one row, in both modes."""
    for training in (False, True):
        if training and "train_differs" in subject.declared:
            continue
        policy = awake(subject, training=training)
        _require_alone(subject, policy)
        _require_few(subject, policy)


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


def _require_alone(subject: Subject, policy: nn.Module) -> None:
    """Change row 1 of a step: no other output moves."""
    observations = subject.observations()
    changed = other_at(subject, observations, (1,))
    moved = _moved(*_under_one_seed(subject, policy, stepped, observations, changed))
    if leaked := [row for row in moved if row != 1]:
        raise CheckFailed(
            f"only row 1 of {BATCH} answers to what row 1 observes",
            f"rows {leaked} answered too, in {_mode(policy)} mode",
            example=given(subject) + "# change observations[1] and compare",
        )


def _require_few(subject: Subject, policy: nn.Module) -> None:
    """Change row 1 of a sequence: as many outputs move as it has steps, wherever they lie (S4)."""
    observations = subject.observations(steps=STEPS)
    changed = other_at(subject, observations, (1, 0))
    moved = _moved(*_under_one_seed(subject, policy, unrolled, observations, changed))
    if len(moved) > STEPS:
        raise CheckFailed(
            f"only the {STEPS} outputs of row 1 answer to what row 1 observes",
            f"{len(moved)} outputs answered, in {_mode(policy)} mode: {moved}",
            example=given(subject, steps=STEPS) + "# change observations[1, 0] and compare",
        )


def _under_one_seed(
    subject: Subject, policy: nn.Module, run: Run, first: Any, second: Any
) -> tuple[Tensor, Tensor]:
    outputs = []
    for observations in (first, second):
        with seeded(5):  # dropout draws alike
            outputs.append(run(subject, observations, policy))
    return outputs[0], outputs[1]


def _mode(policy: nn.Module) -> str:
    return "training" if policy.training else "evaluation"
