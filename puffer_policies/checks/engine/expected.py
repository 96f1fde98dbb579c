"""The checks that a policy is known to fail, each with a reason: one public table, best empty."""

from __future__ import annotations

from fnmatch import fnmatchcase

from puffer_policies.checks.model import ExpectedFailures

EXPECTED: ExpectedFailures = {}
"""Name -> check code -> reason. Names are as reports show them, ``LSTMWrapper(Default)``, or shell
patterns; ``Default image/*`` means image observations and any action."""


def reason_for(name: str, kinds: str, code: str, *, expected: ExpectedFailures = EXPECTED) -> str:
    """Return why a policy is expected to fail a check, or an empty string.

    Args:
        name: what reports call the policy.
        kinds: the kinds of its spaces, as ``image/discrete``.
        code: the check.
        expected: the table.
    """
    for pattern, reasons in expected.items():
        if code in reasons and _matches(pattern, name, kinds):
            return reasons[code]
    return ""


def _matches(pattern: str, name: str, kinds: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(f"{name} {kinds}", pattern)
