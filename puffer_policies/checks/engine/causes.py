"""Tells which bad results of a run have one cause, so that it is told once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from puffer_policies.checks.model import BAD, Check, Result

WRAPPED = "Default"
"""The policy inside a wrapper that is checked by itself."""

_PART = re.compile(r"[^\s(),=]+(?!\w*=)")
"""A name in an expression such as ``LSTMWrapper(file.py::Net, num_layers=2)``."""


def own_cause(code: str, name: str, policy: str) -> str:
    """Return the cause of a broken promise that follows from no other."""
    return f"{code} {name} of {policy}"


class Causes:
    """The causes of a run, which learns them from its results in their order.

    Results have one cause if a check fails that a failing one needs, if an exception comes from one
    place in the author's file, or if a check fails on other spaces or on a part of the stack alone.
    """

    def __init__(self) -> None:
        self._needs: dict[str, tuple[str, ...]] = {}
        self._of_target: dict[tuple[str, str, str, str], str] = {}
        self._of_policy: dict[tuple[str, str], str] = {}
        self._renamed: dict[str, str] = {}

    def learn(self, checks: Iterable[Check]) -> None:
        """Take what the checks of the next results need."""
        self._needs.update({check.code: check.needs for check in checks})

    def named(self, result: Result) -> Result:
        """Return a result with its cause, which is '' for a good one."""
        cause = self._renamed.get(result.cause, result.cause)
        if result.status in BAD:
            cause = self._cause(result)
            self._renamed[result.cause] = cause
            self._of_target[*_target(result), result.code] = cause
            self._of_policy.setdefault((result.policy, result.code), cause)
        return replace(result, cause=cause)

    def _cause(self, result: Result) -> str:
        own = own_cause(result.code, result.name, result.policy)
        needs = self._needs.get(result.code, ())
        known = [self._of_target.get((*_target(result), need)) for need in needs]
        if result.cause in ("", own):
            known += [self._of_policy.get((part, result.code)) for part in _parts(result.policy)]
        return next(filter(None, known), result.cause or own)


def _target(result: Result) -> tuple[str, str, str]:
    return result.policy, result.observation, result.action


def _parts(policy: str) -> Iterator[str]:
    """Yield the names of the parts of a stack as they are when each is checked by itself."""
    for part in reversed(_PART.findall(policy)):
        yield part
        yield f"{part}({WRAPPED})"
