"""`check_policy`: the suite on a policy, however it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from puffer_policies.assembly.blueprint import WrapperLike
from puffer_policies.checks.engine.expected import EXPECTED
from puffer_policies.checks.engine.isolate import TIME_LIMIT, run_isolated
from puffer_policies.checks.engine.plans import CheckedPolicy, Plan, plans_for
from puffer_policies.checks.engine.running import error_result
from puffer_policies.checks.engine.suite import DEFAULT_TIERS, all_checks, select_checks
from puffer_policies.checks.engine.validation import require_promises, shape_offences
from puffer_policies.checks.engine.worker import open_plan
from puffer_policies.checks.model import Check, ExpectedFailures, Report, Result, Status, by_code
from puffer_policies.contract import NEEDS_MASK
from puffer_policies.errors import ContractError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import spaces_of


def check_policy(
    policy: CheckedPolicy,
    env_or_spaces: Any = None,
    *,
    wrappers: Iterable[WrapperLike] = (),
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = DEFAULT_TIERS,
    time_limit: float = TIME_LIMIT,
    isolate: bool = True,
    registry: Registry | None = None,
) -> Report:
    """Run the conformance suite on a policy.

    Args:
        policy: a registered name, an expression, a preset, a `PolicySpec`, a class,
            ``"path/to/file.py::Class"``, or a policy that is built.
        env_or_spaces: an env, an env id or `Spaces`; if None, tiny spaces of every kind that the
            policy's record declares.
        wrappers: what to put around it, innermost first.
        select: codes such as ``"S1"``, families such as ``"S"``; all if empty.
        ignore: codes and families to leave out.
        tiers: ``static``, ``dynamic`` and ``trainability``; the first two by default.
        time_limit: seconds that one check may take, if isolated.
        isolate: run in a worker process, so that nothing the policy does harms this one.
        registry: where names are looked up; the default registry if None.

    Returns:
        Every result, and the checks that were selected. What the policy does wrong, even a crash,
        is a result; only a mistake in the question raises.

    Raises:
        PolicyError: no such name, check or tier, or a stack or space that can't be.
    """
    registry = default_registry() if registry is None else registry
    checks = select_checks(all_checks(registry), select=select, ignore=ignore, tiers=tiers)
    plans = plans_for(policy, env_or_spaces, wrappers=wrappers, registry=registry)
    results = run_plans(plans, checks, isolate=isolate, time_limit=time_limit)
    return Report(list(results), by_code(checks))


def require_shapes(policy: nn.Module, env: Any) -> None:
    """Compare the shapes of a policy's outputs with the contract, without computing them.

    Fake tensors go through a copy of it. Only a policy whose shapes or branches depend on values is
    run.

    Args:
        policy: what `get_policy` or a constructor returned.
        env: an env, an env id or `Spaces`.

    Raises:
        ContractError: it lists every wrong shape.
    """
    needs_mask = any(getattr(module, NEEDS_MASK, False) for module in policy.modules())
    name = _name_of(policy)
    offences = shape_offences(
        policy, spaces_of(env), name=name, capabilities=Capabilities(needs_mask=needs_mask)
    )
    if offences:
        lines = "\n".join(f"  - {offence}" for offence in offences)
        raise ContractError(f"{name!r} has outputs of wrong shapes:\n{lines}")


def require_conformance(policy: nn.Module, env: Any, *, registry: Registry | None = None) -> None:
    """Run the static and dynamic checks on copies of a policy, in this process; takes seconds.

    Args:
        policy: what `get_policy` or a constructor returned.
        env: an env, an env id or `Spaces`.
        registry: where plug-ins' checks come from; the default registry if None.

    Raises:
        ContractError: it lists every failure.
    """
    registry = default_registry() if registry is None else registry
    (plan,) = plans_for(policy, env, registry=registry)
    require_promises(replace(plan.make(), name=_name_of(policy)), registry)


def _name_of(policy: nn.Module) -> str:
    return str(getattr(policy, "spec", None) or type(policy).__name__)


def run_plans(
    plans: Sequence[Plan],
    checks: Sequence[Check],
    *,
    isolate: bool = True,
    time_limit: float = TIME_LIMIT,
    expected: ExpectedFailures = EXPECTED,
) -> Iterator[Result]:
    """Run checks on plans one after the other, and yield each result as it comes.

    A check that says the same for all spaces runs on the first pair of each policy's that it can.
    """
    run = partial(run_isolated, time_limit=time_limit) if isolate else run_here
    settled: set[tuple[str, str]] = set()
    for plan in plans:
        over = [each for each in checks if each.once and (plan.name, each.code) in settled]
        for result in run(plan, [each for each in checks if each not in over], expected=expected):
            if result.status is not Status.SKIPPED:
                settled.add((plan.name, result.code))
            yield result
        for each in over:
            error = error_result(each, plan.name, plan.spaces, _SETTLED)
            yield replace(error, status=Status.SKIPPED)


def run_here(
    plan: Plan, checks: Sequence[Check], *, expected: ExpectedFailures = EXPECTED
) -> Iterator[Result]:
    """Run checks on a plan in this process: without a time limit, and open to a debugger."""
    yield from open_plan(plan, checks, expected=expected)


_SETTLED = "it says the same for all spaces, and was run on others"
