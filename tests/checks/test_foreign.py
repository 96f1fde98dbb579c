"""Correct policies in the styles of other libraries and authors raise no alarm.

Every run holds each of them against every eighth check, in turn; ``--exhaustive`` takes all.
"""

from __future__ import annotations

import pytest
from good_foreign import FOREIGN
from mutant import in_turn, outcomes, subject_of

from puffer_policies.checks.engine.suite import all_checks, select_checks
from puffer_policies.checks.model import BAD, Scope

CHECKS = [each for each in select_checks(all_checks()) if each.scope is not Scope.POLICY]
TURN = 8


@pytest.mark.parametrize(("cls", "spaces"), FOREIGN, ids=[cls.__name__ for cls, _ in FOREIGN])
def test_a_correct_policy_of_a_foreign_style_raises_no_alarm(cls, spaces, request):
    turn = 1 if request.config.getoption("--exhaustive") else TURN
    place = [each for each, _ in FOREIGN].index(cls)
    checks = in_turn(CHECKS, place, turn)
    declared = dict(getattr(cls, "conformance", {}))
    results = outcomes(checks, subject_of(cls, spaces, declared=declared))
    assert {code: each for code, each in results.items() if each[0] in BAD} == {}
