"""The suite catches every bad policy by its own check alone, and finds no fault with good ones.

Every run holds a mutant against its own check, every tenth one of its family, and every 96th of the
others, in turn: each check stays silent on some three mutants of others. Of the checks of saving
and export, which take longer, it takes the mutant's own alone. ``--exhaustive`` takes all.
"""

from __future__ import annotations

import pytest
from good_policies import GOOD, Good
from mutant import Mutant, in_turn, outcomes
from tool_files import load_tool

from puffer_policies.checks.engine.suite import all_checks, select_checks
from puffer_policies.checks.model import BAD, Scope, Tier

MUTANTS = load_tool("write_checks_page").mutants()
LAZY = "its copies have no weights before their first batch, and then each its own"
SEEING_COPIES = ("N8", "P4", "P5")
OVERLAPS = {"B5-lazy-encoder": dict.fromkeys(SEEING_COPIES, LAZY)}
"""Other checks that catch a mutant as well, as each is given a copy -> why."""

CHECKS = select_checks(all_checks(), tiers=list(Tier))
SLOW = {Scope.POLICY, Tier.TRAINABILITY}
QUICK = [each for each in CHECKS if not {each.scope, each.tier} & SLOW]
KIN, OTHERS = 10, 96


def checks_for(mutant: Mutant, expected: set[str], *, exhaustive: bool):
    """Return the checks that a mutant is held against."""

    def is_kin(each):
        return each.code in expected or each.code[0] == mutant.code[0]

    if exhaustive:
        return [each for each in CHECKS if each in QUICK or is_kin(each)]
    place = MUTANTS.index(mutant)
    kin = in_turn([each for each in QUICK if is_kin(each)], place, KIN)
    chosen = [*kin, *in_turn(QUICK, place, OTHERS)]
    return [each for each in CHECKS if each.code == mutant.code or each in chosen]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught_by_its_own_check_alone(mutant, request):
    expected = {mutant.code, *mutant.also, *OVERLAPS.get(str(mutant), ())}
    exhaustive = request.config.getoption("--exhaustive")
    checks = checks_for(mutant, expected, exhaustive=exhaustive)
    results = outcomes(checks, mutant.subject(), trainability=True)
    bad = {code for code, (status, _) in results.items() if status in BAD}
    expected &= {each.code for each in checks}
    assert bad == expected, {code: results[code] for code in bad ^ expected}
    assert mutant.says in results[mutant.code][1]


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_a_correct_policy_of_any_style_passes(good: Good, request):
    # Each style stands here with several spaces, so that every 16th of the checks meets it.
    turn = 1 if request.config.getoption("--exhaustive") else 16
    place = GOOD.index(good)
    results = outcomes(in_turn(QUICK, place, turn), good.subject())
    assert {code: each for code, each in results.items() if each[0] in BAD} == {}
