"""The suite on a policy, for callers: a report of it, or an error unless it is good."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import WrapperLike
from puffer_policies.checks.engine.isolation import TIME_LIMIT
from puffer_policies.checks.engine.report import in_a_line
from puffer_policies.checks.engine.runner import untouched
from puffer_policies.checks.engine.suite import (
    DEFAULT_TIERS,
    LEVELS,
    all_checks,
    run_suite,
    select_checks,
)
from puffer_policies.checks.engine.targets import CheckedPolicy, subject_of_module, targets_for
from puffer_policies.checks.model import Level, Report, by_code
from puffer_policies.checks.probes.outputs import flatten_logits, misfit
from puffer_policies.errors import ContractError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.spaces import ActionLayout, spaces_of

ROWS, TIME = 3, 2
"""The smallest batch and sequence of unequal sizes above 1, so that no axis passes for another."""


def check_policy(
    policy: CheckedPolicy,
    env_or_spaces: Any = None,
    *,
    wrappers: Iterable[WrapperLike] = (),
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = DEFAULT_TIERS,
    levels: Iterable[str] = LEVELS,
    time_limit: float = TIME_LIMIT,
    isolate: bool = True,
    registry: Registry | None = None,
) -> Report:
    """Run the conformance suite on a policy.

    Args:
        policy: a registered name, an expression, a preset, a `PolicySpec`, a class,
            ``"path/to/file.py::Class"``, or a policy that is built.
        env_or_spaces: an env, a vector env, an env id or `Spaces`; if None, tiny spaces of every
            kind that the policy's record declares.
        wrappers: what to put around it, innermost first.
        select: codes such as ``"S1"``, families such as ``"S"``; all if empty.
        ignore: codes and families to leave out.
        tiers: ``static``, ``dynamic`` and ``trainability``; the first two by default.
        levels: what a broken promise costs: ``error`` (it can't be trained), ``failure`` (it is
            not exact) and ``advice``; all by default.
        time_limit: seconds of CPU time that one check may take, if isolated.
        isolate: run in a worker process, so that nothing the policy does harms this one.
        registry: where names are looked up; the default registry if None.

    Returns:
        Every result, and the checks that were selected. Any fault of the policy, even a crash, is a
        result; only a mistake in the question raises.

    Raises:
        PolicyError: no such name, check or tier, or a stack or space that can't be.
    """
    registry = default_registry() if registry is None else registry
    checks = select_checks(
        all_checks(registry), select=select, ignore=ignore, tiers=tiers, levels=levels
    )
    targets = targets_for(policy, env_or_spaces, wrappers=wrappers, registry=registry)
    results = run_suite(targets, checks, isolate=isolate, time_limit=time_limit)
    return Report(list(results), by_code(checks))


def require_conformance(
    policy: nn.Module,
    env: Any,
    *,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    registry: Registry | None = None,
) -> None:
    """Run the static and dynamic checks on a policy that is built, in this process.

    Args:
        policy: it is not changed, as checks run on copies.
        env: an env, a vector env, an env id or `Spaces`.
        select: codes such as ``"S1"``, families such as ``"S"``; all if empty.
        ignore: codes and families to leave out.
        registry: its plug-ins may add checks; the default registry if None.

    Raises:
        ContractError: it lists the cause of every error and failure.
        PolicyError: no such check.
    """
    report = check_policy(
        policy, env, select=select, ignore=ignore, isolate=False, registry=registry
    )
    if report.bad:
        failures = [
            f"  - {in_a_line(finding.first)}"
            for finding in report.findings
            if finding.level is not Level.ADVICE
        ]
        broken = len(report.failed())
        raise ContractError(
            f"{_name(policy)!r} breaks {broken} of {len(report.results)} promises:\n"
            + "\n".join(failures),
            fix="docs/checks.md says of each code why it matters and how to mend it.",
        )


def require_shapes(policy: nn.Module, env: Any) -> None:
    """Compare the shapes of a policy's outputs with the contract, on a step and on a sequence.

    A copy of the policy runs on the CPU, a few rows without gradient, so that its statistics, its
    device and the random generators stay as they are.

    Args:
        policy: a policy that is built.
        env: an env, a vector env, an env id or `Spaces`.

    Raises:
        ContractError: it lists every wrong shape.
    """
    subject = subject_of_module(policy, spaces_of(env))
    layout, recurrent = subject.layout, callable(getattr(policy, "initial_state", None))
    observations, sequence = subject.observations(ROWS), subject.observations(ROWS, steps=TIME)
    with untouched(), torch.no_grad():
        twin = copy.deepcopy(policy).cpu()
        state = subject.add_required({}, observations)
        step: tuple[Any, Tensor] = twin.forward_eval(observations, state)  # type: ignore[operator]
        whole: tuple[Any, Tensor] = twin(sequence, subject.add_required({}, sequence))
    # Values of a policy without memory may keep the rows of its merged batch.
    allowed = [(ROWS, TIME)] if recurrent else [(ROWS * TIME, 1), (ROWS, TIME)]
    offences = [
        *_wrong_shapes("forward_eval", *step, [(ROWS, 1)], layout),
        *_wrong_shapes("forward", *whole, allowed, layout),
    ]
    if offences:
        lines = "\n".join(f"  - {offence}" for offence in offences)
        raise ContractError(f"{_name(policy)!r} has outputs of wrong shapes:\n{lines}")


def _wrong_shapes(
    method: str,
    logits: Any,
    values: Tensor,
    allowed: list[tuple[int, int]],
    layout: ActionLayout,
) -> Iterator[str]:
    if tuple(values.shape) not in allowed:
        expected = " or ".join(map(str, allowed))
        yield f"{method}: values {tuple(values.shape)}, expected {expected}"
    # A number for each option; for real actions a mean and a scale each.
    width = sum(layout.nvec) + 2 * layout.num_reals
    expected_logits, shape = (math.prod(allowed[0]), width), tuple(flatten_logits(logits).shape)
    if shape != expected_logits:
        yield f"{method}: logits {shape}, expected {expected_logits}"
    elif unfit := misfit(layout, logits, math.prod(allowed[0])):
        yield f"{method}: logits are {unfit[1]}, expected {unfit[0]}"


def _name(policy: nn.Module) -> str:
    return str(getattr(policy, "spec", None) or type(policy).__name__)
