"""Every policy of ours, alone and in every wrapper, keeps every promise on all that it fits."""

from __future__ import annotations

import pytest

from puffer_policies.checks.engine.matrix import kinds
from puffer_policies.checks.engine.report import render
from puffer_policies.checks.engine.runner import EXPECTED
from puffer_policies.checks.engine.suite import all_checks, run_suite, select_checks
from puffer_policies.checks.engine.targets import targets_for, wrapped_targets
from puffer_policies.checks.model import BAD, Report, by_code
from puffer_policies.registry import discover

REGISTRY = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
NAMES = REGISTRY.names("policy")
WRAPPERS = REGISTRY.names("wrapper")
CHECKS = select_checks(all_checks())
EACH, ONCE = ([c for c in CHECKS if c.once is once] for once in (False, True))


def all_plans():
    """Each policy on its whole matrix, and in each wrapper with one kind of action, in turn."""
    for index, name in enumerate(NAMES):
        yield from targets_for(name, registry=REGISTRY)
        wrapped = wrapped_targets(name, REGISTRY)
        yield from (plan for i, plan in enumerate(wrapped) if i % 3 == (i // 3 + index) % 3)


PLANS = [
    pytest.param(plan, id=f"{i}-{plan.name}-{kinds(plan.spaces).replace('/', '-')}")
    for i, plan in enumerate(all_plans())
]


def assert_kept(plans, checks):
    results = list(run_suite(plans, checks, isolate=False))
    report = Report(results, by_code(checks))
    bad = [result for result in results if result.status in BAD]
    assert not bad, render(report)


@pytest.mark.parametrize("plan", PLANS)
def test_promises_are_kept(plan):
    assert_kept([plan], EACH)


@pytest.mark.skipif(not ONCE, reason="no check is run once")
@pytest.mark.parametrize("name", [*NAMES, *WRAPPERS])
def test_promises_that_cost_seconds_are_kept_once(name):
    assert_kept(targets_for(name, registry=REGISTRY)[:1], ONCE)


def test_every_wrapper_is_tried():
    tried = {plan.values[0].name.split("(")[0] for plan in PLANS}
    assert set(WRAPPERS) <= tried


def test_no_failure_is_expected():
    assert EXPECTED == {}
