"""The conformance suite without the checks that cost seconds.

Those start processes or train twice. They are passed once for each built-in name, in
tests/checks/test_builtins.py, and depend on neither the stack nor the spaces.
"""

from __future__ import annotations

from puffer_policies.checks import check_policy
from puffer_policies.checks.engine.suite import all_checks
from puffer_policies.checks.model import Report, Scope
from puffer_policies.spaces import Spaces

SLOW = tuple(check.code for check in all_checks() if check.scope is Scope.POLICY)


def quick_report(policy: str, env: Spaces) -> Report:
    return check_policy(policy, env, ignore=SLOW, isolate=False)
