"""Runs checks on one policy in this process, and turns whatever happens into results."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import sysconfig
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import nn

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
from puffer_policies.checks.probes.snippets import brief
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import missing_members
from puffer_policies.errors import IncompatibleSpace, PolicyError
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


def gate_of(subject: Subject) -> Gate:
    """Build the policy, and require the methods that every dynamic check calls."""
    try:
        with untouched():
            policy = subject.policy
    except IncompatibleSpace as error:
        reason = f"it refuses these spaces: {error.problem}"
        return Gate(reason, refused=subject.may_refuse)
    except (Exception, SystemExit) as error:
        return Gate(f"it can't be built: {error_text(error)}")
    if not isinstance(policy, nn.Module):
        return Gate("it is not an nn.Module")
    lacking = [offence for offence in missing_members(policy) if "no method" in offence]
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
            the others are skipped, except for one error if none of its results is bad.
        expected: the table of expected failures.
        gate: the result of `gate_of`, if the caller has it.
        already_reported: whether an earlier result of this policy was bad.
    """
    gate = gate_of(subject) if gate is None else gate
    for check in checks:
        if gate.reason and check.tier is not Tier.STATIC:
            already_reported = already_reported or gate.refused
            error = error_result(
                check, subject.name, subject.spaces, gate.reason, source=subject.source
            )
            yield _not_run(error) if already_reported else error
            already_reported = True
        else:
            result = run_check(subject, check, expected=expected)
            already_reported = already_reported or result.status in BAD
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
) -> Iterator[Result]:
    """Yield the results of checks that can't be run: skips, after one error if none is reported."""
    for check in checks:
        error = error_result(check, name, spaces, reason)
        yield _not_run(error) if already_reported else error
        already_reported = True


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
        example=f"{source}\n{_rerun(check)}" if source else "",
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
        return dataclasses.replace(error, status=status)

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
            example=_example(subject, check, failure),
        )
    except (Exception, SystemExit) as error:
        message = error_text(error)
        return error_result(check, subject.name, subject.spaces, message, source=subject.source)


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
    return dataclasses.replace(result, status=Status.SKIPPED, message=message, example="")


def _as_expected(result: Result, reason: str) -> Result:
    """Return a failure as an expected one. A pass fails, as its line of the table is wrong."""
    if result.status in BAD:
        return dataclasses.replace(result, status=Status.EXPECTED, message=reason)
    if result.status is Status.PASSED:
        return dataclasses.replace(
            result,
            status=Status.FAILED,
            expected=f"a failure, as the table of expected failures says: {reason}",
            actual="it passed: delete the line of the table",
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
        # These two take time even where they change nothing.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)
        os.chdir(folder)


# -- the text of an error --------------------------------------------------------------------------

_STDLIB = sysconfig.get_paths()["stdlib"]
_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<frozen ")
"""Paths of code that is not the policy's: torch's, and the suite's."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<comma>,?) in (?P<function>\S+)')
"""A frame in a dump: faulthandler writes no comma after the line number, a traceback does."""


def error_text(error: BaseException) -> str:
    """Return an exception in a line: its kind, its text, and the line of the policy's own code."""
    problem = error.problem if isinstance(error, PolicyError) else str(error)
    kind = "sys.exit was called" if isinstance(error, SystemExit) else type(error).__name__
    text = f"{kind}: {problem.strip()}" if problem.strip() else kind
    place = _place_of(error)
    return f"{text} ({place})" if place else text


def place_in_dump(dump: str) -> str:
    """Return ``file:line in function`` from the output of a process that died.

    faulthandler writes the most recent call first; the traceback of an exception has it last.
    """
    frames = [frame for frame in _FRAME.finditer(dump) if _is_own(frame["file"])]
    if not frames:
        return ""
    is_traceback = all(frame["comma"] for frame in frames)
    frame = frames[-1 if is_traceback else 0]
    return f"{frame['file']}:{frame['line']} in {frame['function']}"


def _place_of(error: BaseException) -> str:
    """Return ``file:line in function: code`` of the innermost frame that is the policy's.

    Where every frame is torch's or the suite's, it is the innermost of all.
    """
    while error.__cause__ is not None:  # the cause was raised where the problem is
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    for frame in reversed(own or frames):
        return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return ""


def _is_own(file: str) -> bool:
    in_stdlib = file.startswith(_STDLIB) and "site-packages" not in file
    return not in_stdlib and not file.startswith(_FOREIGN)
