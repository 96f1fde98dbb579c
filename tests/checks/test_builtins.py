"""Every policy of ours, alone and in wrappers, keeps every promise on all that it fits.

A policy alone is tried on every fifth pair of its matrix, in turn, so that each kind of space
meets two policies; with those checks for each pair that a run over the matrix tries there. In a
wrapper it is tried on one pair of its spaces, with the checks of stacks, and every wrapper goes
around one policy, and around every policy one wrapper: what is inside is tried alone as well.
``--exhaustive`` takes all stacks, all pairs, and every check there.
"""

from __future__ import annotations

from functools import cache

import pytest

from puffer_policies.checks.engine.matrix import kinds, spaces_for, wrappers_for
from puffer_policies.checks.engine.report import render
from puffer_policies.checks.engine.runner import EXPECTED
from puffer_policies.checks.engine.suite import all_checks, run_suite, select_checks
from puffer_policies.checks.engine.targets import targets_for
from puffer_policies.checks.model import BAD, Report, Scope, Status, by_code
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.registry import discover

REGISTRY = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
NAMES = REGISTRY.names("policy")
WRAPPERS = REGISTRY.names("wrapper")
CHECKS = select_checks(all_checks())
SLOW = [check for check in CHECKS if check.scope is Scope.POLICY]
QUICK = [check for check in CHECKS if check not in SLOW]
TOGETHER = [check for check in QUICK if check.is_of_stacks]
"""What a policy in a wrapper is tried with, as either is tried with the others alone."""

PAIRS = 5
ALL, TRACED = [*NAMES, *WRAPPERS], 7
"""Every seventh one is traced for export and compilation, which takes seconds."""
SMALL = "hidden_size=32"
"""Of a policy in a wrapper, as a memory costs the square of it."""


def cases():
    serving = {name: pairs_in_wrappers(name) for name in NAMES}
    stacks = stacks_of_every_run(serving)
    for i, name in enumerate(NAMES):
        verdicts = set()
        for place, target in enumerate(targets_for(name, registry=REGISTRY)):
            keys = {each: (each.code, target.likeness(each.scope)) for each in QUICK}
            new = [each for each, key in keys.items() if key not in verdicts]
            verdicts.update(keys.values())
            yield from parts(target, new, exhaustive=(i + place) % PAIRS != 0)
        for j, (wrapper, pairs) in enumerate(serving[name].items()):
            pair = pairs[(i + j) % len(pairs)]
            (target,) = targets_for(f"{wrapper}({name}({SMALL}))", pair, registry=REGISTRY)
            yield from parts(target, TOGETHER, exhaustive=(wrapper, name) not in stacks)


def pairs_in_wrappers(name):
    """Return wrapper -> the pairs of spaces on which it can go around a policy."""
    record = REGISTRY.get(name)
    pairs_of = {
        wrapper: [pair for pair in spaces_for(record.capabilities) if serves(wrapper, pair)]
        for wrapper in wrappers_for(record, REGISTRY)
    }
    return {wrapper: pairs for wrapper, pairs in pairs_of.items() if pairs}


def stacks_of_every_run(serving):
    """Return (wrapper, policy): a policy for each wrapper, in turn, and so for those left over."""
    stacks = set()
    for j, wrapper in enumerate(WRAPPERS):
        policies = [name for name in NAMES if wrapper in serving[name]]
        stacks.add((wrapper, policies[j % len(policies)]))
    for i, name in enumerate(NAMES):
        if name not in {policy for _, policy in stacks}:
            stacks.add((list(serving[name])[i % len(serving[name])], name))
    return stacks


def serves(wrapper, pair):
    """Whether a wrapper that changes spaces can change these."""
    try:
        getattr(class_of(wrapper), "wrapped_spaces", id)(pair)
    except IncompatibleSpace:
        return False
    return True


@cache
def class_of(wrapper):
    return REGISTRY.get(wrapper).load()


def parts(target, checks, *, exhaustive: bool):
    """Yield the case of some of the quick checks, and that of the others, left out."""
    yield case(target, checks, exhaustive=exhaustive)
    codes = by_code(checks)
    others = [each for each in QUICK if each.code not in codes]
    if others:
        yield case(target, others, exhaustive=True)


def case(target, checks, *, exhaustive: bool):
    label = f"{target.name}-{kinds(target.spaces).replace('/', '-')}-{target.spaces.observation}"
    marks = [pytest.mark.exhaustive] if exhaustive else []
    return pytest.param(target, checks, id=label, marks=marks)


CASES = list(cases())


def assert_kept(targets, checks):
    results = list(run_suite(targets, checks, isolate=False))
    assert not [result for result in results if result.status in BAD], render(
        Report(results, by_code(checks))
    )
    return results


@pytest.mark.parametrize(("target", "checks"), CASES)
def test_promises_are_kept(target, checks):
    assert_kept([target], checks)


@pytest.mark.parametrize("name", ALL)
def test_promises_of_saving_and_export_are_kept_once(name, request):
    traced = request.config.getoption("--exhaustive") or ALL.index(name) % TRACED == 0
    checks = [each for each in SLOW if traced or each.code not in ("P7", "P9")]
    results = assert_kept(targets_for(name, registry=REGISTRY), checks)
    passed = [each.code for each in results if each.status is Status.PASSED]
    assert passed.count("P2") == 1


def test_every_run_has_every_policy_in_a_wrapper_and_every_wrapper():
    names = [case.values[0].name for case in CASES if not case.marks]
    stacks = [name.split("(") for name in names if "(" in name]
    assert {wrapper for wrapper, *_ in stacks} == set(WRAPPERS)
    assert {policy for _, policy, *_ in stacks} == set(NAMES)


def test_no_failure_is_expected():
    assert EXPECTED == {}
