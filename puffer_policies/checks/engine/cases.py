"""The suite cut into test cases: one check of one policy on one pair of spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

from puffer_policies.checks.engine.matrix import kinds
from puffer_policies.checks.engine.report import details
from puffer_policies.checks.engine.suite import (
    DEFAULT_TIERS,
    all_checks,
    run_suite,
    select_checks,
)
from puffer_policies.checks.engine.targets import (
    Target,
    targets_for,
    targets_for_record,
    wrapped_targets,
)
from puffer_policies.checks.model import BAD, Check, Report, Status, by_code
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
    """One check of one target."""

    id: str
    """The same in every process, so that workers of a parallel run agree."""
    target: Target
    check: Check

    def assert_good(self, *, isolate: bool) -> None:
        """Run the check, and pass, skip or fail as pytest does."""
        __tracebackhide__ = True
        [result] = run_suite([self.target], [self.check], isolate=isolate)
        if result.status is Status.SKIPPED:
            pytest.skip(result.message)
        if result.status is Status.EXPECTED:
            pytest.xfail(result.message)
        if result.status in BAD:
            report = Report([result], by_code([self.check]))
            pytest.fail(details(result, report), pytrace=False)


def test_policy(conformance_case: Case) -> None:
    """One check of a policy of ``pytest --policy``, isolated, as its author is unknown."""
    __tracebackhide__ = True
    conformance_case.assert_good(isolate=True)


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
    owner = normalize(distribution)
    records = [r for r in registry.records() if r.provenance.distribution == owner]
    if not records:
        raise _no_names(distribution, registry)
    checks = select_checks(all_checks(registry), select=select, ignore=ignore, tiers=tiers)
    usable = [record for record in records if _is_usable(record, registry)]
    targets = [t for r in usable for t in targets_for_record(r.qualified_name, registry)]
    # Not all that is installed: the tests would change with it, and grow with every memory of ours.
    around = {r.qualified_name for r in records if r.kind == "wrapper"} | {A_MEMORY}
    names = [record.qualified_name for record in usable if record.kind == "policy"]
    wrapped = [t for n in names for t in wrapped_targets(n, registry, wrappers=around)]
    return [*_cases(targets, checks), *_cases(wrapped, [each for each in checks if not each.once])]


def cases_of_policies(policies: Sequence[str]) -> list[Case]:
    """Return a case for every pair of spaces and check of policies, however they are named.

    Raises:
        PolicyError: one of the names does not lead to a policy.
    """
    registry = default_registry()
    targets = [target for name in policies for target in targets_for(name, registry=registry)]
    return _cases(targets, select_checks(all_checks(registry)))


def _cases(targets: Sequence[Target], checks: Sequence[Check]) -> list[Case]:
    counts: Counter[str] = Counter()
    cases = []
    for target in targets:
        place = counts[target.name]
        name = _QUALIFIER.sub("", target.name)
        label = f"{name}-{kinds(target.spaces).replace('/', '-')}"
        counts.update((target.name, label))
        unique = label if counts[label] == 1 else f"{label}{counts[label]}"
        cases += [
            Case(f"{unique}-{check.code}-{check.name}", target, check)
            for check in checks
            if place < check.most_pairs(is_wrapped=target.is_wrapped)
        ]
    return cases


def _is_usable(record: Record, registry: Registry) -> bool:
    return registry.explain(record.qualified_name).record is record


def _no_names(distribution: str, registry: Registry) -> PluginError:
    name = normalize(distribution)
    problems = [str(e.problem) for e in registry.errors if normalize(e.distribution) == name]
    others = sorted({record.provenance.distribution for record in registry.records()})
    reasons = "".join(f"\n  - {problem}" for problem in problems)
    groups = ", ".join(f"[project.entry-points.{group!r}]" for group in GROUPS)
    return PluginError(
        f"The distribution {distribution!r} registers no policy and no wrapper. Looked for: "
        f"{groups}.{reasons}",
        fix=did_you_mean(name, others)
        or f"Is it installed here (pip install -e .)? Distributions with names: {others}.",
        distribution=name,
    )
