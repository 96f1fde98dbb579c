"""A deliberately bad policy, and the runner that tells which checks caught it.

`outcomes(checks, subject)` stands for the suite where only some families are wanted: it applies the
same gates (a policy that can't be built, or lacks members, is not run), without time limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from good import DISCRETE
from torch import nn

from puffer_policies.checks.model import Check, CheckFailed, CheckSkipped, Status, Tier
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import missing_members
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces


@dataclass(frozen=True)
class Mutant:
    """One defect: `code` must catch it, and no other check but those of `also`."""

    code: str
    name: str
    make: Callable[[Spaces], Any]
    """A class, or a function of the spaces."""
    spaces: Spaces = DISCRETE
    also: dict[str, str] = field(default_factory=dict)
    """Codes that fail as well -> why that can't be otherwise."""
    note: str = ""
    """Where such a defect was met."""
    capabilities: Capabilities | None = None
    declared: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}-{self.name}"

    def subject(self) -> Subject:
        """Return what the checks look at; a class is also looked at as a class."""
        return subject_of(
            self.make,
            self.spaces,
            name=self.name,
            capabilities=self.capabilities,
            declared=self.declared,
        )


def subject_of(
    make: Callable[[Spaces], Any],
    spaces: Spaces = DISCRETE,
    *,
    name: str = "",
    capabilities: Capabilities | None = None,
    declared: dict[str, Any] | None = None,
) -> Subject:
    """Return a subject that builds `make(spaces)`."""
    return Subject(
        name=name or getattr(make, "__name__", "policy"),
        spaces=spaces,
        build=lambda: make(spaces),
        cls=make if isinstance(make, type) else None,
        capabilities=capabilities,
        declared=dict(declared or {}),
    )


def outcomes(
    checks: Iterable[Check], subject: Subject, *, trainability: bool = False
) -> dict[str, tuple[Status, str]]:
    """Run checks one after the other -> code: its status, and what was said."""
    gate = _gate(subject)
    found = {}
    for each in checks:
        if each.tier is Tier.TRAINABILITY and not trainability:
            continue
        static = each.tier is Tier.STATIC
        found[each.code] = (Status.SKIPPED, gate) if gate and not static else _run(each, subject)
    return found


def failed(checks: Iterable[Check], subject: Subject, *, trainability: bool = False) -> set[str]:
    """Return the codes that failed or ended in an error."""
    results = outcomes(checks, subject, trainability=trainability)
    return {
        code for code, (status, _) in results.items() if status in (Status.FAILED, Status.ERROR)
    }


def assert_caught(checks: Iterable[Check], mutant: Mutant) -> None:
    """Fail unless exactly the mutant's own check, and those of `also`, catch it."""
    checks = tuple(checks)
    results = outcomes(checks, mutant.subject(), trainability=True)
    bad = {code for code, (status, _) in results.items() if status in (Status.FAILED, Status.ERROR)}
    known = {each.code for each in checks}
    wanted = ({mutant.code} | set(mutant.also)) & known
    told = {code: results[code] for code in sorted(bad ^ wanted)}
    assert bad == wanted, f"{mutant}: {mutant.make!r}\n{told}"


def assert_passes(checks: Iterable[Check], subject: Subject, *, trainability: bool = False) -> None:
    """Fail if any check finds fault with a correct policy."""
    results = outcomes(checks, subject, trainability=trainability)
    bad = {c: r for c, r in results.items() if r[0] in (Status.FAILED, Status.ERROR)}
    assert not bad, f"false alarm on {subject.name}: {bad}"


def _gate(subject: Subject) -> str:
    try:
        policy = subject.policy
    except Exception as error:
        return f"it can't be built: {error!r}"
    if not isinstance(policy, nn.Module):
        return "it is no nn.Module"
    lacking = [each for each in missing_members(policy) if "no method" in each]
    return f"it lacks members: {lacking}" if lacking else ""


def _run(each: Check, subject: Subject) -> tuple[Status, str]:
    try:
        if reason := each.applies(subject):
            return Status.SKIPPED, reason
        each.run(subject)
    except CheckSkipped as skip:
        return Status.SKIPPED, str(skip)
    except CheckFailed as failure:
        return Status.FAILED, f"expected {failure.expected}; found {failure.actual}"
    except Exception as error:
        return Status.ERROR, repr(error)
    return Status.PASSED, ""
