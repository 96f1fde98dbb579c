"""Every memory that is installed keeps every promise, however deep.

``--exhaustive`` takes one, two and three layers over vectors, images and Dicts, each with every
kind of action: 81 stacks for each memory. A memory sees (B, H) only, so every run takes two layers
once for each memory, over vectors, with an action in turn, and the checks of memory, with every
third one of the other checks of modules.
"""

from __future__ import annotations

import inspect
from itertools import product

import pytest
from mutant import in_turn

from puffer_policies.checks.engine.matrix import kinds, spaces_for
from puffer_policies.checks.engine.report import render
from puffer_policies.checks.engine.suite import all_checks, run_suite, select_checks
from puffer_policies.checks.engine.targets import targets_for
from puffer_policies.checks.model import BAD, Report, Scope, Status, by_code
from puffer_policies.registry import discover
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces, observation_kind

REGISTRY = discover(environ={"PUFFER_POLICIES_REGISTRY": ""})
MEMORIES = [n for n in REGISTRY.names("wrapper") if "recurrent" in REGISTRY.get(n).provides]
SMALL = "hidden_size=32"  # as a memory costs the square of it
ENCODERS = {
    kind: f"{name}({SMALL})"
    for kind, name in {"vector": "Default", "image": "Convolutional", "dict": "MultiInput"}.items()
}
SMALLEST = 36  # pixels that Convolutional needs
CHECKS = [check for check in select_checks(all_checks()) if check.scope is not Scope.POLICY]
OF_MODULES = [check for check in CHECKS if check.scope is Scope.MODULES]
OF_MEMORY = [check for check in OF_MODULES if check.code.startswith("R")]
TURN = 3

PAIRS = spaces_for(Capabilities(min_image_size=SMALLEST))
# The first of each kind, in the order of ENCODERS.
OBSERVATIONS = {
    kind: next(p.observation for p in PAIRS if observation_kind(p.observation) == kind)
    for kind in ENCODERS
}
ACTIONS = list({str(pair.action): pair.action for pair in PAIRS}.values())


def depths(memory):
    """The arguments that a memory is built with: three counts of layers, if it has layers."""
    takes = inspect.signature(REGISTRY.get(memory).load()).parameters
    return [f", num_layers={count}" for count in (1, 2, 3)] if "num_layers" in takes else [""]


def cases():
    for turn, memory in enumerate(MEMORIES):
        for place, depth in enumerate(depths(memory)):
            is_in_turn = place == min(1, len(depths(memory)) - 1)
            for (i, kind), (j, action) in product(enumerate(ENCODERS), enumerate(ACTIONS)):
                pair = Spaces(OBSERVATIONS[kind], action)
                name = f"{memory}({ENCODERS[kind]}{depth})"
                in_turn = is_in_turn and i == 0 and j == turn % len(ACTIONS)
                marks = () if in_turn else pytest.mark.exhaustive
                case = f"{name}-{j}-{kinds(pair).replace('/', '-')}"
                yield pytest.param(name, pair, id=case, marks=marks)


CASES = list(cases())


@pytest.mark.parametrize(("name", "pair"), CASES)
def test_promises_are_kept_at_every_depth(name, pair, request):
    if request.config.getoption("--exhaustive"):
        checks = CHECKS
    else:
        place = MEMORIES.index(name.partition("(")[0])
        others = in_turn(OF_MODULES, place, TURN)
        checks = [check for check in OF_MODULES if check in OF_MEMORY or check in others]
    results = list(run_suite(targets_for(name, pair, registry=REGISTRY), checks, isolate=False))
    report = Report(results, by_code(checks))
    assert not [each for each in results if each.status in BAD], render(report)
    passed = {each.code for each in results if each.status is Status.PASSED}
    assert {"R1", "R2", "R3"} <= passed


def test_every_run_has_every_memory_and_unlike_actions():
    stacks = [case.values for case in CASES if not case.marks]
    assert {name.partition("(")[0] for name, _ in stacks} == set(MEMORIES)
    actions = {str(pair.action) for _, pair in stacks}
    assert len(actions) == min(len(MEMORIES), len(ACTIONS))
