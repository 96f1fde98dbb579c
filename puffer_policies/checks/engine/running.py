"""Runs checks on one policy, each alone, and turns whatever happens into a result."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from puffer_policies.checks.engine.expected import EXPECTED, reason_for
from puffer_policies.checks.engine.guard import untouched
from puffer_policies.checks.engine.matrix import kinds
from puffer_policies.checks.engine.places import own_line
from puffer_policies.checks.model import (
    BAD,
    Check,
    CheckFailed,
    CheckSkipped,
    ExpectedFailures,
    Result,
    Status,
    Tier,
)
from puffer_policies.checks.probes.snippets import brief
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import missing_members
from puffer_policies.errors import IncompatibleSpace, PolicyError
from puffer_policies.spaces import Spaces


@dataclass(frozen=True, slots=True)
class Gate:
    """Why a policy can't be run at all; open if there is no reason."""

    reason: str = ""
    refused: bool = False
    """Whether it said in time, and rightly, that the spaces are not for it."""


def gate_of(subject: Subject) -> Gate:
    """Build the policy and look whether it has what every dynamic check calls."""
    try:
        with untouched():
            policy = subject.policy
    except IncompatibleSpace as error:
        reason = f"it refuses these spaces: {error.problem}"
        return Gate(reason, refused=may_refuse(subject))
    except (Exception, SystemExit) as error:
        return Gate(f"it can't be built: {error_text(error)}")
    if not isinstance(policy, nn.Module):
        return Gate("it is no nn.Module")
    lacking = [offence for offence in missing_members(policy) if "no method" in offence]
    return Gate(f"it can't be run: {'; '.join(lacking)}" if lacking else "")


def run(
    subject: Subject,
    checks: Iterable[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    gate: Gate | None = None,
    told: bool = False,
) -> Iterator[Result]:
    """Run checks one after the other, and yield what came of each.

    Args:
        subject: the policy.
        checks: of any tiers. A policy that can't be built or called is given the static ones only;
            the others are skipped, but one of all its results is bad.
        expected: the table of expected failures.
        gate: what `gate_of` said, if it was asked already.
        told: whether a result before these was bad.
    """
    gate = gate_of(subject) if gate is None else gate
    for check in checks:
        if gate.reason and check.tier is not Tier.STATIC:
            told = told or gate.refused
            result = _error(check, subject, gate.reason)
            yield result if not told else _unrun(result, gate.reason)
            told = True
        else:
            result = run_check(subject, check, expected=expected)
            told = told or result.status in BAD
            yield result


def run_check(subject: Subject, check: Check, *, expected: ExpectedFailures = EXPECTED) -> Result:
    """Run one check on a copy of the policy. All that it raises but Ctrl-C becomes a result."""
    start = time.perf_counter()
    with untouched():
        result = _judged(_alone(subject), check)
    result = dataclasses.replace(result, seconds=time.perf_counter() - start)
    reason = reason_for(subject.name, kinds(subject.spaces), check.code, expected=expected)
    return _expected(result, reason) if reason else result


def never_run(
    checks: Iterable[Check], name: str, spaces: Spaces, reason: str, *, told: bool = False
) -> Iterator[Result]:
    """Yield the results of checks that can't be run: one error, unless `told`, and skips."""
    for check in checks:
        result = error_result(check, name, spaces, reason)
        yield result if not told else _unrun(result, reason)
        told = True


def error_result(
    check: Check, name: str, spaces: Spaces, message: str, *, source: str = ""
) -> Result:
    """Return the result of a check that ended in an error, with lines that run it again."""
    return Result(
        code=check.code,
        name=check.name,
        status=Status.ERROR,
        policy=name,
        observation=brief(spaces.observation),
        action=brief(spaces.action),
        message=message,
        example=f"{source}\n{_again(check)}" if source else "",
    )


def error_text(error: BaseException) -> str:
    """Return an exception in a line: its kind, its text, and the line of the policy's own code."""
    problem = error.problem if isinstance(error, PolicyError) else str(error)
    kind = "sys.exit was called" if isinstance(error, SystemExit) else type(error).__name__
    text = f"{kind}: {problem.strip()}" if problem.strip() else kind
    place = own_line(error)
    return f"{text} ({place})" if place else text


def may_refuse(subject: Subject) -> bool:
    """Whether these spaces were only a try: no record says that the policy serves them."""
    return subject.capabilities is None or bool(subject.declared.get("may_refuse"))


# -- inside ----------------------------------------------------------------------------------------


def _judged(subject: Subject, check: Check) -> Result:
    try:
        reason, note = check.applies(subject), ""
        if not reason:
            note = check.run(subject) or ""
    except CheckSkipped as skipped:
        reason, note = str(skipped), ""
    except CheckFailed as failure:
        return _failure(check, subject, failure)
    except (Exception, SystemExit) as error:
        return _error(check, subject, error_text(error))
    status = Status.SKIPPED if reason else Status.PASSED
    return _result(check, subject, status, message=reason or note)


def _failure(check: Check, subject: Subject, failure: CheckFailed) -> Result:
    shows = "print(" in failure.example or not subject.source
    again = "" if shows or check.tier is Tier.STATIC else _again(check)
    parts = (subject.source.strip("\n"), failure.example.strip("\n"), again)
    result = _result(check, subject, Status.FAILED, message=check.promise)
    return dataclasses.replace(
        result,
        expected=failure.expected,
        found=failure.found,
        example="\n".join(part for part in parts if part),
    )


def _again(check: Check) -> str:
    """Return lines that run a check again and print what it finds."""
    return (
        "from puffer_policies.checks import check_policy\n"
        f'print(check_policy(policy, spaces, select="{check.code}", isolate=False).bad)'
    )


def _error(check: Check, subject: Subject, message: str) -> Result:
    return error_result(check, subject.name, subject.spaces, message, source=subject.source)


def _result(check: Check, subject: Subject, status: Status, *, message: str) -> Result:
    result = error_result(check, subject.name, subject.spaces, message)
    return dataclasses.replace(result, status=status)


def _unrun(result: Result, reason: str) -> Result:
    message = f"not run: {reason}"
    return dataclasses.replace(result, status=Status.SKIPPED, message=message, example="")


def _alone(subject: Subject) -> Subject:
    """Return the subject with a copy of its policy, so that no check sees what another left."""
    other = dataclasses.replace(subject)
    # Else it is built anew, or its failure seen, when the check asks for it.
    with suppress(Exception, SystemExit):
        other.__dict__["policy"] = copy.deepcopy(subject.policy)
    return other


def _expected(result: Result, reason: str) -> Result:
    if result.status in BAD:
        return dataclasses.replace(result, status=Status.EXPECTED, message=reason)
    if result.status is Status.PASSED:
        return dataclasses.replace(
            result,
            status=Status.FAILED,
            expected=f"a failure, as the table of expected failures says: {reason}",
            found="it passed: delete the line of the table",
        )
    return result
