"""Runs checks on one policy in this process, and turns whatever happens into results."""

from __future__ import annotations

import dataclasses
import os
import random
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from puffer_policies.checks.engine.causes import own_cause
from puffer_policies.checks.engine.errors import cause_of, error_text, place_of
from puffer_policies.checks.engine.matrix import kinds
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
from puffer_policies.checks.probes.cures import cure_of
from puffer_policies.checks.probes.snippets import brief
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.promises.passes import runs
from puffer_policies.contract import missing_members
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.spaces import Spaces

EXPECTED: ExpectedFailures = {}
"""The checks that policies are known to fail: name -> check code -> reason. It is best empty.

Names are as in reports, ``LSTMWrapper(Default)``, or shell patterns. ``Default image/*`` means
image observations and any action.
"""


SEED = 0
"""From which every check draws, unless it seeds its own draws."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Why a policy can't be run at all; open if there is no reason."""

    reason: str = ""
    refused: bool = False
    """Whether the policy rightly refused the spaces when it was built."""
    error: BaseException | None = None


def gate_of(subject: Subject) -> Gate:
    """Build the policy, and require the two methods that every dynamic check calls."""
    try:
        with untouched():
            policy = subject.policy
    except IncompatibleSpace as error:
        reason = f"it refuses these spaces: {error.problem}"
        return Gate(reason, refused=subject.may_refuse, error=error)
    except (Exception, SystemExit) as error:
        return Gate(f"it can't be built: {error_text(error)}", error=error)
    if not isinstance(policy, nn.Module):
        return Gate("it is not an nn.Module")
    lacking = [each for each in missing_members(policy) if each.startswith("no method forward")]
    return Gate(f"it can't be run: {'; '.join(lacking)}" if lacking else "")


def run(
    subject: Subject,
    checks: Iterable[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    gate: Gate | None = None,
    already_reported: bool = False,
) -> Iterator[Result]:
    """Run checks one after the other, and yield the result of each.

    Args:
        subject: the policy.
        checks: of any tiers. A policy that can't be built or called is given the static ones only;
            the others are skipped, except for one error if none of its results is bad. They are
            skipped as well after `runs`, if that is one of them and fails.
        expected: the table of expected failures.
        gate: the result of `gate_of`, if the caller has it.
        already_reported: whether an earlier result of this policy was bad.
    """
    gate = gate_of(subject) if gate is None else gate
    obstacle: Result | None = None
    for check in checks:
        if obstacle is not None and check.tier is not Tier.STATIC:
            yield not_judged(check, obstacle)
        elif gate.reason and check.tier is not Tier.STATIC:
            already_reported = already_reported or gate.refused
            error = raised(check, subject, gate.error, gate.reason)
            yield _not_run(error) if already_reported else error
            already_reported = True
        else:
            result = run_check(subject, check, expected=expected)
            already_reported = already_reported or result.status in BAD
            if check.code == runs.code and result.status in BAD:
                obstacle = result
            yield result


def run_check(subject: Subject, check: Check, *, expected: ExpectedFailures = EXPECTED) -> Result:
    """Run one check on a copy of the policy. Anything raised except Ctrl-C becomes a result."""
    start = time.perf_counter()
    with untouched():
        # A static check only looks, and a copy may look otherwise: a function that closes over the
        # policy still refers to the original.
        is_static = check.tier is Tier.STATIC
        result = _judge(subject if is_static else subject.with_policy_copy(), check)
    result = dataclasses.replace(result, seconds=time.perf_counter() - start)
    reason = reason_for(subject.name, kinds(subject.spaces), check.code, expected=expected)
    return _as_expected(result, reason) if reason else result


def never_run(
    checks: Iterable[Check],
    name: str,
    spaces: Spaces,
    reason: str,
    *,
    already_reported: bool = False,
    where: str = "",
    fix: str = "",
    cause: str = "",
) -> Iterator[Result]:
    """Yield the results of checks that can't be run: skips, after one error if none is reported."""
    for check in checks:
        error = error_result(check, name, spaces, reason, where=where, fix=fix, cause=cause)
        yield _not_run(error) if already_reported else error
        already_reported = True


def error_result(
    check: Check,
    name: str,
    spaces: Spaces,
    message: str,
    *,
    source: str = "",
    where: str = "",
    fix: str = "",
    cause: str = "",
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
        where=where,
        fix=fix,
        example=f"{source}\n{_rerun(check)}" if source else "",
        level=check.level,
        cause=cause or own_cause(check.code, check.name, name),
    )


def raised(
    check: Check, subject: Subject, error: BaseException | None, message: str = ""
) -> Result:
    """Return the result of a check that ended in an exception of the policy."""
    return error_result(
        check,
        subject.name,
        subject.spaces,
        message or ("" if error is None else error_text(error)),
        source=subject.source,
        where=place_of(error),
        fix="" if error is None else cure_of(error),
        cause=cause_of(error),
    )


def not_judged(check: Check, obstacle: Result) -> Result:
    """Return the skip of a check of a policy that does not run, as `obstacle` tells."""
    return dataclasses.replace(
        obstacle,
        code=check.code,
        name=check.name,
        status=Status.SKIPPED,
        message=f"not run because of {obstacle.code} {obstacle.name}",
        expected="",
        actual="",
        where="",
        fix="",
        example="",
        level=check.level,
        seconds=0.0,
    )


def in_place_of(check: Check, obstacle: Result) -> Result:
    """Return `obstacle` as the error of a check that was selected, as its own was not."""
    text = obstacle.message
    if obstacle.status is Status.FAILED:
        text = f"expected {obstacle.expected}; found {obstacle.actual}"
    return dataclasses.replace(
        obstacle,
        code=check.code,
        name=check.name,
        status=Status.ERROR,
        message=text,
        expected="",
        actual="",
    )


def reason_for(name: str, kinds: str, code: str, *, expected: ExpectedFailures = EXPECTED) -> str:
    """Return why a policy is expected to fail a check, or an empty string.

    Args:
        name: the policy's name in reports.
        kinds: the kinds of its spaces, as ``image/discrete``.
        code: the check.
        expected: the table.
    """
    for pattern, reasons in expected.items():
        matches = fnmatchcase(name, pattern) or fnmatchcase(f"{name} {kinds}", pattern)
        if matches and code in reasons:
            return reasons[code]
    return ""


def _judge(subject: Subject, check: Check) -> Result:
    def result(status: Status, message: str) -> Result:
        error = error_result(check, subject.name, subject.spaces, message)
        return dataclasses.replace(error, status=status, cause="")

    try:
        if reason := check.applies(subject):
            return result(Status.SKIPPED, reason)
        return result(Status.PASSED, check.run(subject) or "")
    except CheckSkipped as skip:
        return result(Status.SKIPPED, str(skip))
    except CheckFailed as failure:
        return dataclasses.replace(
            result(Status.FAILED, check.promise),
            expected=failure.expected,
            actual=failure.actual,
            where=place_of(failure.__cause__) or failure.where,
            fix=failure.fix or check.fix,
            example=_example(subject, check, failure),
            level=failure.level or check.level,
            cause=cause_of(failure.__cause__) or own_cause(check.code, check.name, subject.name),
        )
    except (Exception, SystemExit) as error:
        return raised(check, subject, error)


def _example(subject: Subject, check: Check, failure: CheckFailed) -> str:
    """Return lines that build the policy and print the failure."""
    prints = "print(" in failure.example or not subject.source
    rerun = "" if prints or check.tier is Tier.STATIC else _rerun(check)
    parts = (subject.source.strip("\n"), failure.example.strip("\n"), rerun)
    return "\n".join(part for part in parts if part)


def _rerun(check: Check) -> str:
    return (
        "from puffer_policies.checks import check_policy\n"
        f'print(check_policy(policy, spaces, select="{check.code}", isolate=False).bad)'
    )


def _not_run(result: Result) -> Result:
    message = f"not run: {result.message}"
    return dataclasses.replace(
        result, status=Status.SKIPPED, message=message, where="", fix="", example="", cause=""
    )


def _as_expected(result: Result, reason: str) -> Result:
    """Return a failure as an expected one. A pass fails, as its line of the table is wrong."""
    if result.status in BAD:
        return dataclasses.replace(result, status=Status.EXPECTED, message=reason, cause="")
    if result.status is Status.PASSED:
        return dataclasses.replace(
            result,
            status=Status.FAILED,
            expected=f"a failure, as the table of expected failures says: {reason}",
            actual="it passed: delete the line of the table",
            cause=own_cause(result.code, result.name, result.policy),
        )
    return result


# -- what a check may change ----------------------------------------------------------------------


@contextmanager
def untouched() -> Iterator[None]:
    """Run a block on one thread and from one seed, and restore the global state it may change.

    A policy that draws at random gets the same verdict every time, in any order of checks.
    Warnings inside are dropped: a policy that warns does not fail, and a host that turns warnings
    into errors should get the same verdict as one that does not.
    """
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    threads, folder = torch.get_num_threads(), os.getcwd()
    deterministic = torch.are_deterministic_algorithms_enabled()
    anomaly = torch.is_anomaly_enabled()
    # On tiny tensors, more threads wait for each other, for minutes where tests run side by side.
    if threads != 1:
        torch.set_num_threads(1)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.default_generator.manual_seed(SEED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(generator)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        # These take time even where they change nothing.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)
        if torch.is_anomaly_enabled() != anomaly:
            torch.autograd.set_detect_anomaly(anomaly)
        os.chdir(folder)
