"""S: shapes, rows and dtypes of what a policy returns.

`B` rows, `T` steps, `N` rows of logits. What a policy makes of its inputs (S6, S7, S9, S10) is in
observations.py. S3 to S5 compare outputs in eval mode and on perturbed copies, so that dropout is
not a fault, and a head that starts at zero hides none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.edges import EDGES, with_edges
from puffer_policies.checks.probes.outputs import fixed_actions, misfit
from puffer_policies.checks.probes.parts import UNFIT, label, leaves_of, tensors_of
from puffer_policies.checks.probes.rollouts import (
    in_sequence,
    one_step,
    replace_at,
    select,
    step_through,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import (
    CHANGE,
    PRECISION,
    difference,
    is_same,
    magnitude,
)
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.checks.promises import coverage, padding, privileged
from puffer_policies.checks.promises import observations as inputs
from puffer_policies.spaces.nested import leaves

STEP = "policy.forward_eval(observations, state)"
SEQUENCE = "policy(observations, state)"

MANY, CROWD = 7, 33
HUGE, MOST_NUMBERS = 2_601, 2**19
"""Rows of a batch as an update of many envs has it, and the numbers in it, which bound these."""

FEW = (1, 2)
"""Batches that are compared with the first rows of `MANY`. At 1, squeeze() drops the batch."""


# -- shapes ----------------------------------------------------------------------------------------


@check(
    "S1",
    "value-shape",
    promise="Values are (B, 1) from a step; from a sequence (B*T, 1), or (B, T) if recurrent.",
    why="Values of another shape broadcast against the returns: the loss becomes an outer product "
    "that trains towards the mean, without an error (pytorch#16045).",
    fix="Leave the last axis of nn.Linear(hidden_size, 1); a recurrent policy reshapes to (B, T).",
    level=Level.ERROR,
)
def value_shape(subject: Subject) -> None:
    """Compare shapes of a step, of a sequence, and of a batch given to forward."""
    _, values, _ = subject.step(subject.observations())
    _require_values(values, (BATCH, 1), STEP)
    _, values = subject.sequence(subject.observations())
    _require_values(values, (BATCH, 1), SEQUENCE)
    _, values = subject.sequence(subject.observations(steps=STEPS))
    shape = (BATCH, STEPS) if subject.recurrent else (BATCH * STEPS, 1)
    _require_values(values, shape, SEQUENCE, steps=STEPS)


def _require_values(
    values: Any, expected: tuple[int, ...], call: str, *, steps: int | None = None
) -> None:
    actual = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if actual != expected:
        raise CheckFailed(
            f"values of shape {expected} from {call}",
            f"{actual}",
            example=example(f"logits, values = {call}", "print(values.shape)", steps=steps),
        )


@check(
    "S2",
    "one-log-prob-a-row",
    promise="Logits have one row for each decision, so log-probability and entropy are (N,).",
    why="A log-probability with another axis broadcasts in the ratio of PPO; it should be summed "
    "over the dimensions of an action (thu-ml/tianshou#40).",
    fix="Flatten batch and time before the heads; give a Normal loc and scale of (N, *shape).",
    level=Level.ERROR,
)
def one_log_prob_a_row(subject: Subject) -> None:
    """Compare with torch.distributions, for a step and for a sequence."""
    logits, _, _ = subject.step(subject.observations())
    _require_rows(subject, logits, BATCH, STEP)
    logits, _ = subject.sequence(subject.observations(steps=STEPS))
    _require_rows(subject, logits, BATCH * STEPS, SEQUENCE, steps=STEPS)


def _require_rows(
    subject: Subject, logits: Any, rows: int, call: str, *, steps: int | None = None
) -> None:
    if _misfit(subject):
        raise CheckSkipped(UNFIT)
    lines = example(f"logits, values = {call}", "print(logits)", steps=steps)
    for keys, part in leaves_of(logits):
        leading = [each.shape[0] if each.ndim else 0 for each in tensors_of(part) or []]
        if any(each != rows for each in leading):
            expected = f"logits of {rows} rows from {call}"
            raise CheckFailed(expected, f"{leading} rows{label(keys, 'in')}", example=lines)
    action = fixed_actions(subject.layout, rows)
    try:
        dist = subject.distribution(logits)
        shapes = [tuple(each.shape) for each in (dist.log_prob(action), dist.entropy())]
    except (RuntimeError, IndexError) as error:
        raise CheckFailed("logits with log-probabilities", str(error), example=lines) from error
    if any(shape != (rows,) for shape in shapes):
        expected = f"log-probability and entropy of shape {(rows,)} from {call}"
        raise CheckFailed(expected, f"{shapes}", example=lines)


@check(
    "S8",
    "logits-fit-actions",
    promise="Logits are a Tensor of n options for Discrete, a tuple with a Tensor for each choice "
    "of MultiDiscrete and MultiBinary, a Normal of the action's shape for Box, and for Dict and "
    "Tuple a dict or a tuple with those of each part.",
    why="PufferLib 3.0 builds one Discrete head for MultiBinary and two numbers for Box(2, 3), "
    "without a word: the agent can't take most of its actions.",
    fix="Read sizes with puffer_policies.spaces.action_layout, or use nn.heads.make_head.",
    level=Level.ERROR,
)
def logits_fit_actions(subject: Subject) -> None:
    """Count the numbers of one row."""
    if misfit := _misfit(subject):
        raise CheckFailed(*misfit, example=example(f"print({STEP}[0])", batch=1))


def _misfit(subject: Subject) -> tuple[str, str] | None:
    """Return what logits of one row should be and are, or None if they fit the action space."""
    logits, _, _ = subject.step(subject.observations(1))
    if tensors_of(logits) is None:
        subject.distribution(logits)  # a ContractError, unless a package registered the type
    return misfit(subject.layout, logits, 1)


# -- rows ------------------------------------------------------------------------------------------


@check(
    "S3",
    "any-batch-size",
    promise="Batches of 1, 2 and 7 rows, and sequences of one step, give the same rows; without "
    "memory, forward gives what forward_eval gives for each observation.",
    why="A bare squeeze() drops the batch when it is 1: training works, and acting with one "
    "environment fails or mixes axes. A layer, a clip or a scale in one of two paths makes the "
    "update score another policy than the one that acted.",
    fix="Never squeeze or average over the batch; name the axis: squeeze(-1). Let forward and "
    "forward_eval call one function; a wrapper transforms in both.",
    needs=("R6", "S5", "S4"),
    scope=Scope.OBSERVATIONS,
)
def any_batch_size(subject: Subject) -> None:
    """Run the first rows of a large batch alone, as a step and as a sequence of one step."""
    policy = perturbed_copy(subject)
    # The first rows are at the edges of the space, where a guess from a whole batch goes wrong.
    many = with_edges(subject, subject.observations(MANY))
    for size in FEW:
        few = select(many, slice(size))
        ranks = [_ranks(subject, each, policy) for each in (few, many)]
        if ranks[0] != ranks[1]:
            raise _size_failure(size, f"outputs of {ranks[1]} axes", f"{ranks[0]} axes")
        for run in (one_step, _sequence_of_one):
            whole, alone = run(subject, policy, many), run(subject, policy, few)
            if not is_same(alone.nan_to_num(), whole[:size].nan_to_num()):  # NaN is N2's matter
                raise _size_failure(
                    size,
                    f"rows 0 to {size - 1} of a batch of {MANY}, also without the others",
                    f"outputs {difference(alone, whole[:size]):.2g} apart",
                )
    if not subject.recurrent:  # with memory it is R1's matter
        _require_one_policy(subject, policy)


def _require_one_policy(subject: Subject, policy: nn.Module) -> None:
    """Compare forward, as an update calls it, with steps, some at the edges of the space."""
    observations = with_edges(subject, subject.observations(steps=STEPS))
    steps, _ = step_through(subject, policy, observations)
    outputs = in_sequence(subject, policy, observations, grad=True)
    # Each row by its own size, as one at the edge may be a hundred times as large as the others.
    for row, (expected, actual) in enumerate(zip(steps, outputs, strict=True)):
        if not is_same(actual.nan_to_num(), expected.nan_to_num()):  # NaN in both is N2's matter
            edge = dict(enumerate(EDGES)).get(row)
            raise CheckFailed(
                "forward gives what forward_eval gives for each observation",
                f"outputs {difference(actual, expected):.2g} apart"
                + (f" for {edge} of the space" if edge else ""),
                example=example(
                    f"print({SEQUENCE})",
                    f"print([policy.forward_eval(observations[:, t]) for t in range({STEPS})])",
                    steps=STEPS,
                ),
            )


def _sequence_of_one(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Run ``forward`` on sequences of one step -> (B, n)."""
    sequences = subject.map(lambda leaf: leaf.unsqueeze(1), observations)
    return in_sequence(subject, policy, sequences)[:, 0]


def _ranks(subject: Subject, observations: Any, policy: nn.Module) -> list[int]:
    logits, values, _ = subject.step(subject.map(torch.clone, observations), policy=policy)
    return [each.ndim for each in (*(tensors_of(logits) or []), values)]


def _size_failure(size: int, expected: str, actual: str) -> CheckFailed:
    lines = example(f"print({STEP})", batch=size)
    return CheckFailed(expected, f"a batch of {size}: {actual}", example=lines)


@check(
    "S4",
    "rows-in-order",
    promise="Row b at time t of a sequence comes out at b*T + t.",
    why="In another order, actions and advantages are paired with the wrong outputs, and learning "
    "only looks slow.",
    fix="Merge with reshape(B*T, ...) of a (B, T, ...) tensor; transpose back what an nn.LSTM "
    "without batch_first returns.",
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def rows_in_order(subject: Subject) -> None:
    """Change one observation, and look which outputs change."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    reference = _flat_sequence(subject, policy, observations)
    for row, step in ((1, 2), (3, STEPS - 1)):
        other = replace_at(subject, observations, (row, step))
        changed = _flat_sequence(subject, policy, other)
        moved = _changes(reference, changed)
        most = int((changed - reference).abs().amax(1).argmax())
        here, block = row * STEPS + step, range(row * STEPS, (row + 1) * STEPS)
        # Only the place counts here: whether other rows change besides is S5's matter.
        if moved and (here not in moved or most not in block):
            raise CheckFailed(
                f"row {row} at time {step} is output {here} of {block[0]} to {block[-1]}",
                f"changing that observation changed outputs {moved}, and {most} most",
                example=example(
                    f"logits, values = {SEQUENCE}",
                    f"# then change observations[{row}, {step}] and compare",
                    steps=STEPS,
                ),
            )


def _flat_sequence(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """(B, T, *obs) -> outputs (B*T, n)."""
    return in_sequence(subject, policy, observations).flatten(0, 1)


def _changes(reference: Tensor, changed: Tensor) -> list[int]:
    """Return the rows of (N, n) that differ by more than rounding."""
    gaps = (changed - reference).abs().amax(1)
    # Written so that a NaN, which compares as false, counts as a change.
    return torch.nonzero(~(gaps <= CHANGE * magnitude(reference))).flatten().tolist()


@check(
    "S5",
    "rows-independent",
    promise="What one row observes leaves the outputs of the other rows as they are, and a row "
    "answers the same in any place of the batch, however large that is.",
    why="Rows are different environments: a leak makes the policy depend on its neighbors, which "
    "are others in evaluation (batch norm, or batch_first mistaken). A number added by the place "
    "in the batch makes an env another one when it is moved.",
    fix="Use layer norm, or declare batch statistics: declared={'train_differs': 'why'}; check the "
    "axes of recurrent and attention layers, and of positions that are added.",
    needs=("R6", "S4"),
    scope=Scope.OBSERVATIONS,
)
def rows_independent(subject: Subject) -> None:
    """Change one row of a step, and one of a sequence, in both modes; then move the rows."""
    for training in (False, True):
        if training and "train_differs" in subject.declared:
            continue
        policy, mode = perturbed_copy(subject, training=training), ("evaluation", "training")
        observations = subject.observations()
        moved = _changes_of(subject, policy, one_step, observations, (1,))
        if leaks := [row for row in moved if row != 1]:
            raise CheckFailed(
                f"only row 1 of {BATCH} answers to what row 1 observes",
                f"rows {leaks} answered too, in {mode[training]} mode",
                example=example("# change observations[1] and compare"),
            )
        observations = subject.observations(steps=STEPS)
        moved = _changes_of(subject, policy, _flat_sequence, observations, (1, 0))
        # As many outputs as the row has steps may change, wherever they lie: the place is S4's.
        if len(moved) > STEPS:
            raise CheckFailed(
                f"only the {STEPS} outputs of row 1 answer to what row 1 observes",
                f"{len(moved)} outputs answered, in {mode[training]} mode: {moved}",
                example=example("# change observations[1, 0] and compare", steps=STEPS),
            )
    _require_any_place(subject, perturbed_copy(subject))


def _require_any_place(subject: Subject, policy: nn.Module) -> None:
    """Move the rows of a batch, and put them into a larger one."""
    with seeded(6):
        places = {
            "in other places of the batch": torch.arange(BATCH).roll(2),
            f"in a batch of {CROWD}": torch.randint(BATCH, (CROWD,)),
        }
    for run, steps in ((one_step, None), (in_sequence, STEPS)):
        observations = subject.observations(steps=steps)
        expected = run(subject, policy, observations)
        for where, rows in places.items():
            outputs = run(subject, policy, select(observations, rows))
            # Other batches take other kernels, whose rounding differs.
            if not is_same(outputs, expected[rows], PRECISION):
                raise CheckFailed(
                    "a row to answer the same wherever it is",
                    f"{run.__name__}: outputs {difference(outputs, expected[rows]):.2g} apart "
                    f"{where}",
                    example=example(
                        f"rows = torch.tensor({rows[:BATCH].tolist()})",
                        "print(policy.forward_eval(observations[rows], state)[1])",
                        f"print({STEP}[1][rows])",
                    ),
                )
    _require_all_of_many(subject, policy)


def _require_all_of_many(subject: Subject, policy: nn.Module) -> None:
    """Run a batch of an odd number of rows that is larger than pieces that it may be cut into."""
    observations = subject.observations()
    state = subject.state(1, policy).values()
    sizes = [leaf[0].numel() for leaf in (*leaves(observations), *state)]
    count = min(HUGE, MOST_NUMBERS // max(1, sum(sizes))) // 2 * 2 + 1
    if count <= CROWD:
        return
    rows = torch.arange(count) % BATCH
    outputs, expected = (
        one_step(subject, policy, select(observations, each)) for each in (rows, rows[:BATCH])
    )
    # Of a NaN in both, which is N2's matter, nothing can be told.
    gaps = (outputs - expected[rows]).nan_to_num().abs().amax(1)
    wrong = (gaps > subject.tolerance(PRECISION) * magnitude(expected)).nonzero().flatten()
    if len(wrong):
        raise CheckFailed(
            f"rows of a batch of {count} to be answered as in one of {BATCH}",
            f"{len(wrong)} of them are not, from row {int(wrong[0])} on, up to "
            f"{float(gaps.max()):.2g} apart",
            fix="Cut a batch into pieces with torch.split, which keeps the last, shorter one.",
            example=example(
                f"rows = torch.arange({count}) % {BATCH}",
                "many = subject.map(lambda leaf: leaf[rows], observations)",
                f"print(policy.forward_eval(many, subject.state({count}))[1][-1])",
                f"print({STEP}[1][rows[-1]])",
            ),
        )


def _changes_of(
    subject: Subject, policy: nn.Module, run: Any, observations: Any, index: tuple[int, ...]
) -> list[int]:
    """Return the rows of the outputs that change with the observation at `index`."""
    outputs = []
    for each in (observations, replace_at(subject, observations, index)):
        with seeded(5):  # so that dropout draws alike
            outputs.append(run(subject, policy, each))
    return _changes(*outputs)


CHECKS = (
    value_shape,
    one_log_prob_a_row,
    any_batch_size,
    rows_in_order,
    rows_independent,
    inputs.dtypes_cast,
    inputs.inputs_left_alone,
    logits_fit_actions,
    inputs.pixels_read_right,
    inputs.key_order_free,
    coverage.every_number_matters,
    padding.hidden_rows_inert,
    privileged.privileged_keys_unseen,
)
