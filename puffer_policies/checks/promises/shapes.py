"""S: shapes, rows and dtypes of what a policy returns. Here S1, S2 and S8: the outputs' shapes.

`B` rows, `T` steps. S3-S5 are in rows.py, S6, S7 and S10 in inputs.py, S9 in pictures.py.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from puffer_policies.checks.model import CheckFailed, CheckSkipped, by_code, check, natural
from puffer_policies.checks.probes.outputs import fixed_actions
from puffer_policies.checks.probes.probing import given, parts
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.promises import inputs, pictures, rows


@check(
    "S1",
    "value-shape",
    promise="Values are (B, 1) from a step; from a sequence (B*T, 1), or (B, T) if recurrent.",
    why="Values of another shape broadcast against the returns: the loss becomes an outer product "
    "that trains towards the mean, without an error (pytorch#16045).",
    fix="Leave the last axis of nn.Linear(hidden_size, 1); a recurrent policy reshapes to (B, T).",
)
def value_shape(subject: Subject) -> None:
    """Compare shapes of a step, of a sequence, and of a batch given to forward."""
    _, values, _ = subject.step(subject.observations())
    _require_values(subject, values, (BATCH, 1), "policy.forward_eval(observations, state)")
    _, values = subject.sequence(subject.observations())
    _require_values(subject, values, (BATCH, 1), "policy(observations, state)")
    _, values = subject.sequence(subject.observations(steps=STEPS))
    wanted = (BATCH, STEPS) if subject.recurrent else (BATCH * STEPS, 1)
    _require_values(subject, values, wanted, "policy(observations, state)", steps=STEPS)


@check(
    "S2",
    "one-log-prob-a-row",
    promise="Logits have one row for each decision, so log-probability and entropy are (N,).",
    why="A log-probability with another axis broadcasts in the ratio of PPO; it should be summed "
    "over the dimensions of an action (thu-ml/tianshou#40).",
    fix="Flatten batch and time before the heads; give a Normal loc and scale of (N, *shape).",
)
def one_log_prob_a_row(subject: Subject) -> None:
    """Compare with torch.distributions, for a step and for a sequence."""
    logits, _, _ = subject.step(subject.observations())
    _require_rows(subject, logits, BATCH, "policy.forward_eval(observations, state)")
    logits, _ = subject.sequence(subject.observations(steps=STEPS))
    _require_rows(subject, logits, BATCH * STEPS, "policy(observations, state)", steps=STEPS)


@check(
    "S8",
    "logits-fit-actions",
    promise="Logits are a Tensor of n options for Discrete, a tuple with a Tensor for each choice "
    "of MultiDiscrete and MultiBinary, a Normal of the action's shape for Box.",
    why="PufferLib 3.0 builds one Discrete head for MultiBinary and two numbers for Box(2, 3), "
    "without a word: the agent can't take most of its actions.",
    fix="Read sizes with puffer_policies.spaces.action_layout, or use nn.heads.make_head.",
)
def logits_fit_actions(subject: Subject) -> None:
    """Count the numbers of one row."""
    if misfit := _misfit(subject):
        wanted, found = misfit
        example = given(subject, 1) + "print(policy.forward_eval(observations, state)[0])"
        raise CheckFailed(wanted, found, example=example)


_ALL = by_code(
    (
        value_shape,
        one_log_prob_a_row,
        logits_fit_actions,
        *rows.CHECKS,
        *inputs.CHECKS,
        *pictures.CHECKS,
    )
)

CHECKS = tuple(_ALL[code] for code in natural(list(_ALL)))


def _require_values(
    subject: Subject,
    values: Any,
    wanted: tuple[int, ...],
    call: str,
    *,
    steps: int | None = None,
) -> None:
    found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if found != wanted:
        example = given(subject, steps=steps) + f"logits, values = {call}\n"
        raise CheckFailed(
            f"values of shape {wanted} from {call}",
            f"{found}",
            example=example + "print(values.shape)",
        )


def _require_rows(
    subject: Subject, logits: Any, wanted: int, call: str, *, steps: int | None = None
) -> None:
    if _misfit(subject):
        raise CheckSkipped("its logits do not fit the action space (S8)")
    example = given(subject, steps=steps) + f"logits, values = {call}\nprint(logits)"
    leading = [each.shape[0] if each.ndim else 0 for each in parts(logits) or []]
    if any(each != wanted for each in leading):
        raise CheckFailed(
            f"logits of {wanted} rows from {call}", f"{leading} rows", example=example
        )
    action = fixed_actions(subject.layout, wanted)
    try:
        dist = subject.distribution(logits)
        shapes = [tuple(each.shape) for each in (dist.log_prob(action), dist.entropy())]
    except (RuntimeError, IndexError) as error:
        raise CheckFailed("logits with log-probabilities", str(error), example=example) from error
    if any(shape != (wanted,) for shape in shapes):
        expected = f"log-probability and entropy of shape {(wanted,)} from {call}"
        raise CheckFailed(expected, f"{shapes}", example=example)


def _misfit(subject: Subject) -> tuple[str, str] | None:
    """Return what logits of one row should be and are, or None if they fit the action space."""
    logits, _, _ = subject.step(subject.observations(1))
    layout, found = subject.layout, parts(logits)
    if found is None:
        subject.distribution(logits)  # a ContractError, unless a package registered the type
        return None
    kind = {"discrete": "Tensor", "box": "Normal"}.get(layout.kind, "tuple")
    sizes = [math.prod(layout.shape)] * 2 if layout.is_continuous else list(layout.nvec)
    counted = [each.numel() for each in found]
    if _kind(logits) == kind and counted == sizes:
        return None
    return f"a {kind} with {sizes} numbers a row", f"a {_kind(logits)} with {counted}"


def _kind(logits: Any) -> str:
    if isinstance(logits, Tensor):
        return "Tensor"
    return "tuple" if isinstance(logits, tuple | list) else "Normal"
