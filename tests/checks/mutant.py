"""A deliberately bad policy, and the outcome of checks on a policy in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from good import DISCRETE

from puffer_policies.checks.engine.runner import run
from puffer_policies.checks.model import BAD, Check, Result, Status, Tier
from puffer_policies.checks.probes.subject import Subject
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
    says: str = ""
    """Words of its check's finding, where they have to name the part that is bad."""
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


def in_turn(checks: Iterable[Check], place: int, turn: int) -> list[Check]:
    """Return every `turn`-th check, beginning elsewhere at each `place` of a list of policies."""
    return [check for number, check in enumerate(checks, place) if number % turn == 0]


def outcomes(
    checks: Iterable[Check], subject: Subject, *, trainability: bool = False
) -> dict[str, tuple[Status, str]]:
    """Run checks as the suite does -> code: its status, and its reason or its failure in words."""
    tiers = [tier for tier in Tier if trainability or tier is not Tier.TRAINABILITY]
    results = run(subject, [check for check in checks if check.tier in tiers])
    return {result.code: (result.status, _text(result)) for result in results}


def assert_passes(checks: Iterable[Check], subject: Subject, *, trainability: bool = False) -> None:
    """Fail if any check finds fault with a correct policy."""
    results = outcomes(checks, subject, trainability=trainability)
    bad = {code: result for code, result in results.items() if result[0] in BAD}
    assert not bad, f"false alarm on {subject.name}: {bad}"


def _text(result: Result) -> str:
    if result.status is Status.FAILED:
        return f"expected {result.expected}; found {result.actual}"
    return "" if result.status is Status.PASSED else result.message
