"""The suite catches every bad policy by its own check alone, and finds no fault with good ones.

Every run holds a mutant against its own family, and against every fourth check of the others, in
turn: each check stays silent on some thirty mutants of other families. ``--exhaustive`` takes all.
"""

from __future__ import annotations

import pytest
from good_policies import GOOD, Good
from mutant import Mutant, outcomes
from tool_files import load_tool

from puffer_policies.checks.engine.suite import all_checks, select_checks
from puffer_policies.checks.model import BAD, Tier

MUTANTS = load_tool("write_checks_page").mutants()
LAZY = "its copies have no weights before their first batch, and then each its own"
SEEING_COPIES = ("N8", "P4", "P5")
OVERLAPS = {"B5-lazy-encoder": dict.fromkeys(SEEING_COPIES, LAZY)}
"""Other checks that catch a mutant as well, as each is given a copy -> why."""

CHECKS = select_checks(all_checks(), tiers=list(Tier))
QUICK = [each for each in CHECKS if not each.once and each.tier is not Tier.TRAINABILITY]
TURN = 4


def checks_for(mutant: Mutant, *, exhaustive: bool):
    """Return its family and its turn of the others; of those that take seconds, its own alone."""
    turn = 1 if exhaustive else TURN
    slow = mutant.code[0] if exhaustive else mutant.code
    place = MUTANTS.index(mutant)
    expected = {mutant.code, *mutant.also, *OVERLAPS.get(str(mutant), ())}
    return [
        each
        for number, each in enumerate(CHECKS)
        if each.code in expected
        or each.code.startswith(slow)
        or (each in QUICK and (each.code[0] == mutant.code[0] or (number + place) % turn == 0))
    ]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught_by_its_own_check_alone(mutant, request):
    checks = checks_for(mutant, exhaustive=request.config.getoption("--exhaustive"))
    results = outcomes(checks, mutant.subject(), trainability=True)
    bad = {code for code, (status, _) in results.items() if status in BAD}
    also = {*mutant.also, *OVERLAPS.get(str(mutant), ())}
    expected = ({mutant.code} | also) & {each.code for each in checks}
    assert bad == expected, {code: results[code] for code in bad ^ expected}


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_a_correct_policy_of_any_style_passes(good: Good):
    results = outcomes(QUICK, good.subject())
    assert {code: each for code, each in results.items() if each[0] in BAD} == {}
