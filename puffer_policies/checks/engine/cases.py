"""The suite cut into test cases: one check of one policy on one pair of spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from puffer_policies.checks.engine.causes import Causes
from puffer_policies.checks.engine.matrix import kinds
from puffer_policies.checks.engine.report import details, in_a_line
from puffer_policies.checks.engine.suite import (
    DEFAULT_TIERS,
    LEVELS,
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
from puffer_policies.checks.model import (
    BAD,
    Check,
    Finding,
    Level,
    Report,
    Result,
    Status,
    always,
    by_code,
)
from puffer_policies.checks.pytest_plugin import ADVICE
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


@dataclass(slots=True)
class Told:
    """What the tests of a process have told so far: each cause fails one test."""

    checks: dict[str, Check] = field(default_factory=dict)
    """All there are, by code."""
    causes: Causes = field(default_factory=Causes)
    tests: dict[str, str] = field(default_factory=dict)
    """Cause -> the test that tells it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One check of one target."""

    id: str
    """The same in every process, so that workers of a parallel run agree."""
    target: Target
    check: Check
    told: Told = field(default_factory=Told, repr=False)

    def assert_good(self, *, isolate: bool) -> None:
        """Run the check, and pass, skip or fail as pytest does.

        A cause that an earlier test has told, and a piece of advice, is the reason of a skip.
        """
        results = self._results(isolate=isolate)
        result = results[-1]
        if result.status is Status.SKIPPED:
            pytest.skip(result.message)
        if result.status is Status.EXPECTED:
            pytest.xfail(result.message)
        if result.status in BAD:
            # What it needs explains it better, and comes first.
            same = tuple(each for each in results if each.cause == result.cause)
            self._tell(Finding(same), Report(results, by_code([self.check, *self._needed])))

    def _results(self, *, isolate: bool) -> list[Result]:
        """Return the result of the check; if it is bad, after those of the checks that it needs."""
        run = partial(run_suite, [self.target], isolate=isolate, causes=self.told.causes)
        [result] = run([self.check])
        if result.status not in BAD or not self._needed:
            return [result]
        return list(run([*self._needed, self.check]))

    @property
    def _needed(self) -> list[Check]:
        checks = self.told.checks
        return [checks[code] for code in self.check.needs if code in checks]

    def _tell(self, finding: Finding, report: Report) -> None:
        cause = finding.first.cause
        test = self.told.tests.setdefault(cause, self.id)
        if test != self.id:
            pytest.skip(f"it has a cause that {test} tells: {cause}")
        if finding.level is Level.ADVICE:
            pytest.skip(f"{ADVICE}{in_a_line(finding.first)}. {finding.first.fix}")
        pytest.fail(details(finding, report), pytrace=False)


def test_policy(conformance_case: Case) -> None:
    """One check of a policy of ``pytest --policy``, isolated, as its author is unknown."""
    conformance_case.assert_good(isolate=True)


A_MEMORY = f"{BUILTIN}/LSTMWrapper"
"""Stands for all memories: to the policy inside they are alike."""


def cases_of_distribution(
    distribution: str,
    *,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = DEFAULT_TIERS,
    levels: Iterable[str] = LEVELS,
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
    existing = all_checks(registry)
    checks = select_checks(existing, select=select, ignore=ignore, tiers=tiers, levels=levels)
    usable = [record for record in records if _is_usable(record, registry)]
    targets = [t for r in usable for t in targets_for_record(r.qualified_name, registry)]
    # Not all that is installed: the tests would change with it, and grow with every memory of ours.
    around = {r.qualified_name for r in records if r.kind == "wrapper"} | {A_MEMORY}
    names = [record.qualified_name for record in usable if record.kind == "policy"]
    wrapped = [t for n in names for t in wrapped_targets(n, registry, wrappers=around)]
    together = [each for each in checks if each.is_of_stacks]
    # What every policy promises is tried around the first.
    conditional = [each for each in together if each.applies is not always]
    told = Told(by_code(existing))
    return [
        *_cases([each for each in targets if not each.group], checks, told),
        *_cases([each for each in targets if each.group], conditional, told),
        *_cases(wrapped, together, told),
    ]


def cases_of_policies(policies: Sequence[str]) -> list[Case]:
    """Return a case for every pair of spaces and check of policies, however they are named.

    Raises:
        PolicyError: one of the names does not lead to a policy.
    """
    registry = default_registry()
    targets = [target for name in policies for target in targets_for(name, registry=registry)]
    checks = all_checks(registry)
    return _cases(targets, select_checks(checks), Told(by_code(checks)))


def _cases(targets: Sequence[Target], checks: Sequence[Check], told: Told) -> list[Case]:
    counts: Counter[str] = Counter()
    verdicts = set[tuple[str, ...]]()
    cases = []
    for target in targets:
        name = _QUALIFIER.sub("", target.name)
        label = f"{name}-{kinds(target.spaces).replace('/', '-')}"
        counts[label] += 1
        unique = label if counts[label] == 1 else f"{label}{counts[label]}"
        for check in checks:
            verdict = (target.name, check.code, target.likeness(check.scope))
            if verdict not in verdicts:
                verdicts.add(verdict)
                cases.append(Case(f"{unique}-{check.code}-{check.name}", target, check, told))
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
