"""Every policy of ours, alone and in wrappers, keeps every promise on all that it fits.

A policy alone is tried on its whole matrix, and in a wrapper on one pair of its spaces. A memory
sees (B, H) whatever the policy and its spaces are, so a third of those stacks, in turn, proves as
much as all. Other wrappers see observations and actions, and go around every second policy, in
turn. ``--exhaustive`` takes all stacks.
"""

from __future__ import annotations

import pytest

from puffer_policies.checks.engine.matrix import kinds, spaces_for, wrappers_for
from puffer_policies.checks.engine.report import render
from puffer_policies.checks.engine.runner import EXPECTED
from puffer_policies.checks.engine.suite import all_checks, run_suite, select_checks
from puffer_policies.checks.engine.targets import targets_for
from puffer_policies.checks.model import BAD, Report, by_code
from puffer_policies.registry import discover

REGISTRY = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
NAMES = REGISTRY.names("policy")
WRAPPERS = REGISTRY.names("wrapper")
CHECKS = select_checks(all_checks())
QUICK, SLOW = ([check for check in CHECKS if check.once is once] for once in (False, True))


def cases():
    for i, name in enumerate(NAMES):
        yield from (case(target) for target in targets_for(name, registry=REGISTRY))
        record = REGISTRY.get(name)
        pairs = spaces_for(record.capabilities)
        for j, wrapper in enumerate(wrappers_for(record, REGISTRY)):
            turn = 3 if "recurrent" in REGISTRY.get(wrapper).provides else 2
            # i // turn, as a wrapper would meet the same few kinds of spaces otherwise.
            pair = pairs[(i + i // turn + j) % len(pairs)]
            (target,) = targets_for(f"{wrapper}({name})", pair, registry=REGISTRY)
            yield case(target, exhaustive=(i + j) % turn != 0)


def case(target, *, exhaustive: bool = False):
    label = f"{target.name}-{kinds(target.spaces).replace('/', '-')}-{target.spaces.observation}"
    return pytest.param(target, id=label, marks=[pytest.mark.exhaustive] if exhaustive else [])


CASES = list(cases())


def assert_kept(targets, checks):
    results = list(run_suite(targets, checks, isolate=False))
    assert not [result for result in results if result.status in BAD], render(
        Report(results, by_code(checks))
    )


@pytest.mark.parametrize("target", CASES)
def test_promises_are_kept(target):
    assert_kept([target], QUICK)


@pytest.mark.parametrize("name", [*NAMES, *WRAPPERS])
def test_promises_that_cost_seconds_are_kept_once(name):
    assert_kept(targets_for(name, registry=REGISTRY)[:1], SLOW)


def test_every_run_has_every_policy_in_a_wrapper_and_every_wrapper():
    names = [case.values[0].name for case in CASES if not case.marks]
    stacks = [name.rstrip(")").split("(") for name in names if "(" in name]
    assert {wrapper for wrapper, _ in stacks} == set(WRAPPERS)
    assert {policy for _, policy in stacks} == set(NAMES)


def test_no_failure_is_expected():
    assert EXPECTED == {}
