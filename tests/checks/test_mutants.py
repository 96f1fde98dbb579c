"""Every bad policy of every family, under the whole suite: caught by its own check, no other."""

from __future__ import annotations

import pytest
from tool_files import load_tool

from puffer_policies.checks.engine.runner import run
from puffer_policies.checks.engine.suite import all_checks, select_checks
from puffer_policies.checks.model import BAD, Tier

MUTANTS = load_tool("write_checks_page").mutants()
LAZY = "its copies have no weights before their first batch, and then each its own"
SEEING_COPIES = ("N8", "P4", "P5")
OVERLAPS = {"B5-lazy-encoder": dict.fromkeys(SEEING_COPIES, LAZY)}
"""Overlaps in the suite, which gives each check a copy; a family's own tests share one policy."""

CHECKS = select_checks(all_checks(), tiers=list(Tier))


def checks_for(code: str):
    """The whole suite; of the checks that take seconds only the mutant's own."""
    slow = {each.code for each in CHECKS if each.once or each.tier is Tier.TRAINABILITY}
    return [each for each in CHECKS if each.code == code or each.code not in slow]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught_by_its_own_check_alone(mutant):
    checks = checks_for(mutant.code)
    results = list(run(mutant.subject(), checks))
    bad = {result.code for result in results if result.status in BAD}
    also = {*mutant.also, *OVERLAPS.get(str(mutant), ())}
    wanted = ({mutant.code} | also) & {each.code for each in checks}
    told = [(r.code, r.message, r.expected, r.actual) for r in results if r.code in bad ^ wanted]
    assert bad == wanted, told
