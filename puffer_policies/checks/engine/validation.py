"""What a caller may require of a built policy: its shapes, or the whole suite."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)

from puffer_policies.checks.engine.report import in_a_line
from puffer_policies.checks.engine.running import run
from puffer_policies.checks.engine.suite import all_checks, select_checks
from puffer_policies.checks.model import BAD
from puffer_policies.checks.probes.subject import Subject, numbers
from puffer_policies.errors import ContractError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import ActionLayout, Spaces

ROWS, TIME = 3, 2


def require_promises(subject: Subject, registry: Registry) -> None:
    """Run the static and dynamic checks on a policy, in this process.

    Raises:
        ContractError: it lists every failure.
    """
    results = list(run(subject, select_checks(all_checks(registry))))
    bad = [result for result in results if result.status in BAD]
    if bad:
        listed = "\n".join(f"  - {in_a_line(result)}" for result in bad)
        raise ContractError(
            f"{subject.name!r} breaks {len(bad)} of {len(results)} promises:\n{listed}",
            fix="docs/checks.md says of each code why it matters and how to mend it.",
        )


def shape_offences(
    policy: nn.Module,
    spaces: Spaces,
    *,
    name: str,
    capabilities: Capabilities | None = None,
) -> list[str]:
    """Compare the shapes of a policy's outputs with the contract, under fake tensors.

    Nothing is computed, unless the policy's shapes or branches depend on values. One whose
    `capabilities` ask for an action mask is given one that allows all.
    """
    subject = Subject(name, spaces, build=lambda: policy, capabilities=capabilities)
    try:
        return _fake_offences(subject, policy)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _real_offences(subject, policy)


def _fake_offences(subject: Subject, policy: nn.Module) -> list[str]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        fake = copy.deepcopy(policy)
    rows = subject.map(mode.from_tensor, _rows(subject))
    sequence = subject.map(mode.from_tensor, _sequence(subject))
    with mode:
        return _offences(subject, fake, rows, sequence)


def _real_offences(subject: Subject, policy: nn.Module) -> list[str]:
    return _offences(subject, copy.deepcopy(policy), _rows(subject), _sequence(subject))


def _rows(subject: Subject) -> Any:
    return subject.observations(ROWS)


def _sequence(subject: Subject) -> Any:
    return subject.observations(ROWS, steps=TIME)


def _offences(subject: Subject, policy: nn.Module, rows: Any, sequence: Any) -> list[str]:
    """Run one step and one sequence, and say which output has not the contract's shape."""
    layout = subject.layout
    with torch.no_grad():
        logits, values = policy.forward_eval(rows, subject.unmasked({}, rows))  # type: ignore[operator]
        found = [*_wrong("forward_eval", logits, values, [(ROWS, 1)], layout)]
        logits, values = policy(sequence, subject.unmasked({}, sequence))
    recurrent = callable(getattr(policy, "initial_state", None))
    allowed = [(ROWS, TIME)] if recurrent else [(ROWS * TIME, 1), (ROWS, TIME)]
    return [*found, *_wrong("forward", logits, values, allowed, layout)]


def _wrong(
    method: str,
    logits: Any,
    values: Tensor,
    shapes: list[tuple[int, int]],
    layout: ActionLayout,
) -> Iterator[str]:
    """Compare with the shapes that values may have; logits have a row for each of their numbers."""
    if tuple(values.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        yield f"{method}: values {tuple(values.shape)}, expected {expected}"
    expected_logits = _logits_shape(math.prod(shapes[0]), layout)
    found = tuple(numbers(logits).shape)
    if found != expected_logits:
        yield f"{method}: logits {found}, expected {expected_logits}"


def _logits_shape(rows: int, layout: ActionLayout) -> tuple[int, int]:
    """One number an option; for real actions a mean and a scale each."""
    return rows, sum(layout.nvec) if layout.nvec else 2 * math.prod(layout.shape)
