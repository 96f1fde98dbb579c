"""Checks, results and reports, as data."""

from __future__ import annotations

import enum
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from puffer_policies.errors import ConfigError


class Tier(enum.StrEnum):
    """How much a check does to a policy."""

    STATIC = "static"
    """Looks at the class and the built module; no forward pass."""
    DYNAMIC = "dynamic"
    """Runs it on small random batches."""
    TRAINABILITY = "trainability"
    """Trains it for seconds; only when asked for."""


class Scope(enum.StrEnum):
    """What a verdict depends on; a run over several pairs of spaces tries each of it once."""

    SPACES = "spaces"
    """Both spaces: every pair is tried."""
    OBSERVATIONS = "observations"
    """What it makes of observations, behind heads of choices and of reals."""
    MODULES = "modules"
    """Modules and memory, not what observations and actions mean: a pair with choices and one with
    reals are tried, and one alone if the policy is wrapped."""
    POLICY = "policy"
    """How it is saved, copied and exported, whatever the spaces are: the first pair is tried, and
    none if a policy that was tried alone is wrapped."""


class Level(enum.StrEnum):
    """What a broken promise costs its author, the gravest first."""

    ERROR = "error"
    """The policy can't be trained."""
    FAILURE = "failure"
    """It trains, but not on exactly what it observes, remembers, draws and saves."""
    ADVICE = "advice"
    """It works, and others of its kind train better."""


class Status(enum.StrEnum):
    """The outcome of one check of one policy on one pair of spaces."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The promise does not concern this policy; the message says why."""
    EXPECTED = "expected failure"
    """It failed, and the table of expected failures gives the reason."""
    ERROR = "error"
    """The policy raised, hung or died where the check did not ask for it."""


BAD = (Status.FAILED, Status.ERROR)


class CheckFailed(Exception):
    """A promise is broken.

    Args:
        expected: what the promise says, with numbers.
        actual: what the policy did.
        example: lines of Python that show it, after the lines that build the policy.
        where: the place in the author's file, unless an exception has led here.
        fix: how to mend this, if the cure of the check is not that of every failure of it.
        level: what this costs, if it is not the level of the check.
    """

    def __init__(
        self,
        expected: str,
        actual: str,
        *,
        example: str = "",
        where: str = "",
        fix: str = "",
        level: Level | None = None,
    ) -> None:
        super().__init__(expected, actual, example)
        self.expected, self.actual, self.example = expected, actual, example
        self.where, self.fix, self.level = where, fix, level


class CheckSkipped(Exception):
    """A probe showed that the promise does not concern this policy; the text says why."""


Run = Callable[[Any], str | None]
"""Raises `CheckFailed` or `CheckSkipped`; a text that it returns is a note on what passed."""
Applies = Callable[[Any], str]


def always(_: Any) -> str:
    """Apply to every policy."""
    return ""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and the function that raises `CheckFailed` where a policy breaks it."""

    code: str
    """A letter of the family and a number. It never changes, as users select and ignore by it."""
    name: str
    """A few words with hyphens."""
    promise: str
    """One sentence: what a policy that passes does."""
    why: str
    """What goes wrong in training or use where it is broken, in sentences."""
    fix: str
    """How to mend it, in sentences."""
    run: Run
    tier: Tier = Tier.DYNAMIC
    level: Level = Level.FAILURE
    needs: tuple[str, ...] = ()
    """Codes of checks without which it can't be judged: if one fails too, it is one finding."""
    applies: Applies = always
    """Returns why the check does not concern a policy, or ''. It never runs the policy."""
    scope: Scope = Scope.SPACES

    def __post_init__(self) -> None:
        """Require sentences, as reports and the page of checks print the texts as they stand.

        Raises:
            ConfigError: a text does not begin with a capital, or does not end with a full stop.
        """
        for part in ("promise", "why", "fix"):
            text = getattr(self, part)
            if not (text[:1].isupper() and text.endswith(".")):
                raise ConfigError(
                    f"The {part} of the check {self.code!r} is not a sentence: {text!r}.",
                    fix="Begin it with a capital and end it with a full stop.",
                )

    @property
    def is_of_stacks(self) -> bool:
        """Whether a policy in a wrapper is asked as well, after both were asked alone.

        What is made of observations, saved, or done to any module is told by the parts; how they
        share spaces, a memory and a mask is not.
        """
        is_conditional = self.applies is not always
        return self.scope is Scope.SPACES or (self.scope is Scope.MODULES and is_conditional)

    def __reduce__(self) -> tuple[Any, ...]:
        # The decorator gives the function's name to the check, so it travels as functions do.
        return _named, (self.run.__module__, self.run.__qualname__)


def _named(module: str, name: str) -> Check:
    check: Check = getattr(importlib.import_module(module), name)
    return check


def check(
    code: str,
    name: str,
    *,
    promise: str,
    why: str,
    fix: str,
    tier: Tier = Tier.DYNAMIC,
    level: Level = Level.FAILURE,
    needs: tuple[str, ...] = (),
    applies: Applies = always,
    scope: Scope = Scope.SPACES,
) -> Callable[[Run], Check]:
    """Turn a function of a `Subject` into a `Check`. A file lists its own under ``CHECKS``."""
    return lambda run: Check(code, name, promise, why, fix, run, tier, level, needs, applies, scope)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check."""

    code: str
    name: str
    status: Status
    policy: str
    observation: str
    action: str
    message: str = ""
    """Why it was skipped, is expected to fail or ended in an error; or a note on what passed."""
    expected: str = ""
    actual: str = ""
    where: str = ""
    """The place in the author's file."""
    fix: str = ""
    example: str = ""
    """A snippet that shows the failure when pasted into Python."""
    level: Level = Level.FAILURE
    cause: str = ""
    """What results of one cause share, whatever their check and spaces; '' of good ones."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The bad results that have one cause. The first shows it best."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The result that is shown."""
        return self.results[0]

    @property
    def level(self) -> Level:
        """The gravest level of its results."""
        return min((result.level for result in self.results), key=list(Level).index)

    @property
    def codes(self) -> list[str]:
        """The checks that it fails, that of the shown result first."""
        others = {result.code for result in self.results} - {self.first.code}
        return [self.first.code, *natural(list(others))]


@dataclass(slots=True)
class Report:
    """The results of a run, in order. It is bad if anything failed, or if nothing ran."""

    results: list[Result] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    """The checks that were selected, by code: their promises and cures."""

    @property
    def counts(self) -> dict[str, int]:
        """Return selected, run and every status with its number."""
        counts = Counter(str(result.status) for result in self.results)
        return {
            "selected": len(self.results),
            "run": len(self.results) - counts[str(Status.SKIPPED)],
            **{str(status): counts[str(status)] for status in Status},
        }

    @property
    def ok(self) -> bool:
        """Whether at least one check ran, and nothing is worse than advice."""
        return self.counts["run"] > 0 and not self.bad

    @property
    def bad(self) -> list[Result]:
        """The results that are errors or failures."""
        return [each for each in self._broken if each.level is not Level.ADVICE]

    @property
    def advice(self) -> list[Result]:
        """The results that advise: they make no report bad."""
        return [each for each in self._broken if each.level is Level.ADVICE]

    @property
    def _broken(self) -> list[Result]:
        return [result for result in self.results if result.status in BAD]

    def failed(self) -> set[str]:
        """Return the codes of the results that are errors or failures."""
        return {result.code for result in self.bad}

    @property
    def findings(self) -> list[Finding]:
        """The causes of all that is broken, each once, the gravest first."""
        groups: dict[str, list[Result]] = {}
        for result in self._broken:
            key = result.cause or f"{result.policy}: {result.code}"
            groups.setdefault(key, []).append(result)
        findings = [Finding(tuple(results)) for results in groups.values()]
        return sorted(findings, key=lambda each: list(Level).index(each.level))

    @property
    def levels(self) -> dict[str, int]:
        """Return every level with its number of findings."""
        counts = Counter(str(finding.level) for finding in self.findings)
        return {str(level): counts[str(level)] for level in Level}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "ok": self.ok,
            "levels": self.levels,
            "counts": self.counts,
            "findings": [
                {**_plain(each.first), "level": str(each.level), "codes": each.codes}
                for each in self.findings
            ],
            "results": [_plain(result) for result in self.results],
        }


def _plain(result: Result) -> dict[str, Any]:
    # Users read the key "found", as the text of a report has it.
    return {"found" if key == "actual" else key: each for key, each in asdict(result).items()}


ExpectedFailures = dict[str, dict[str, str]]
"""Policy name or pattern -> check code -> the reason in words."""


def by_code(checks: Iterable[Check]) -> dict[str, Check]:
    """Index checks by code."""
    index: dict[str, Check] = {}
    for each in checks:
        assert each.code not in index, f"two checks are called {each.code}"
        index[each.code] = each
    return index


def natural(codes: Sequence[str]) -> list[str]:
    """Sort codes by family and number: S2 before S10."""
    return sorted(codes, key=lambda code: (code.rstrip("0123456789"), len(code), code))
