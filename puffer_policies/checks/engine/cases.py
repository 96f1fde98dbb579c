"""The suite cut into test cases: one check of one policy on one pair of spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from puffer_policies.checks.api import run_plans
from puffer_policies.checks.engine.matrix import kinds
from puffer_policies.checks.engine.plans import Plan, plans_for, wrapped_plans
from puffer_policies.checks.engine.report import details
from puffer_policies.checks.engine.suite import DEFAULT_TIERS, all_checks, select_checks
from puffer_policies.checks.model import BAD, Check, Report, by_code
from puffer_policies.errors import PluginError, did_you_mean
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.names import BUILTIN, normalize
from puffer_policies.registry.records import Record

GROUPS = tuple(
    f"puffer_policies.{each}" for each in ("policies", "wrappers", "manifest", "plugins")
)
"""The entry points through which a distribution registers names."""

_QUALIFIER = re.compile(r"[\w.-]+/")
"""The distribution in front of a name."""


@dataclass(frozen=True, slots=True)
class Case:
    """One check of one plan."""

    id: str
    """The same in every process, so that workers of a parallel run agree."""
    plan: Plan
    check: Check

    def outcome(self, *, isolate: bool) -> tuple[str, str]:
        """Run it -> the status, and the text to show with it."""
        results = list(run_plans([self.plan], [self.check], isolate=isolate))
        report = Report(results, by_code([self.check]))
        result = results[0]
        text = details(result, report) if result.status in BAD else result.message
        return str(result.status), text


A_MEMORY = f"{BUILTIN}/LSTMWrapper"
"""Stands for all memories: to the policy inside they are alike."""


def cases_of_distribution(
    distribution: str,
    *,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = DEFAULT_TIERS,
    registry: Registry | None = None,
) -> list[Case]:
    """Return a case for every name of a distribution, pair of spaces and check.

    Raises:
        PluginError: the distribution registers no name.
        ConfigError: an unknown check or tier, or none is selected.
    """
    registry = default_registry() if registry is None else registry
    wanted = normalize(distribution)
    records = [r for r in registry.records() if r.provenance.distribution == wanted]
    if not records:
        raise _nothing(distribution, registry)
    checks = select_checks(all_checks(registry), select=select, ignore=ignore, tiers=tiers)
    usable = [record for record in records if _is_usable(record, registry)]
    plans = [p for r in usable for p in plans_for(r.qualified_name, registry=registry)]
    # Not all that is installed: the tests would change with it, and grow with every memory of ours.
    around = {r.qualified_name for r in records if r.kind == "wrapper"} | {A_MEMORY}
    names = [record.qualified_name for record in usable if record.kind == "policy"]
    wrapped = [p for n in names for p in wrapped_plans(n, registry, wrappers=around)]
    return [*_cases(plans, checks), *_cases(wrapped, [each for each in checks if not each.once])]


def cases_of_policies(policies: Sequence[str]) -> list[Case]:
    """Return a case for every pair of spaces and check of policies, however they are named.

    Raises:
        PolicyError: one of the names does not lead to a policy.
    """
    registry = default_registry()
    plans = [plan for name in policies for plan in plans_for(name, registry=registry)]
    return _cases(plans, select_checks(all_checks(registry)))


def _cases(plans: Sequence[Plan], checks: Sequence[Check]) -> list[Case]:
    seen: Counter[str] = Counter()
    cases = []
    for plan in plans:
        first = plan.name not in seen
        label = f"{_QUALIFIER.sub('', plan.name)}-{kinds(plan.spaces).replace('/', '-')}"
        seen.update((plan.name, label))
        unique = label if seen[label] == 1 else f"{label}{seen[label]}"
        wanted = [each for each in checks if first or not each.once]
        cases += [Case(f"{unique}-{each.code}-{each.name}", plan, each) for each in wanted]
    return cases


def _is_usable(record: Record, registry: Registry) -> bool:
    return registry.explain(record.qualified_name).record is record


def _nothing(distribution: str, registry: Registry) -> PluginError:
    wanted = normalize(distribution)
    failed = [str(e.problem) for e in registry.errors if normalize(e.distribution) == wanted]
    known = sorted({record.provenance.distribution for record in registry.records()})
    reasons = "".join(f"\n  - {problem}" for problem in failed)
    looked = ", ".join(f"[project.entry-points.{group!r}]" for group in GROUPS)
    return PluginError(
        f"The distribution {distribution!r} registers no policy and no wrapper. Looked for: "
        f"{looked}.{reasons}",
        fix=did_you_mean(wanted, known)
        or f"Is it installed here (pip install -e .)? Distributions with names: {known}.",
        distribution=wanted,
    )
