"""Which checks are run, on which spaces, and how what happens becomes a result."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from good import DISCRETE, GoodLSTM, GoodMLP
from gymnasium import spaces as gym
from mutant import subject_of
from specimens import ACTIONS, OBSERVATIONS

from puffer_policies.assembly.fit import misfits
from puffer_policies.checks.engine.matrix import kinds, spaces_for, wrappers_for
from puffer_policies.checks.engine.runner import run, run_check
from puffer_policies.checks.engine.suite import CheckRegistrar, all_checks, run_suite, select_checks
from puffer_policies.checks.engine.targets import targets_for, targets_for_record
from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Status, Tier, check
from puffer_policies.checks.probes.snippets import brief, space_source
from puffer_policies.errors import ConfigError, IncompatibleSpace, PolicyError
from puffer_policies.registry import discover
from puffer_policies.registry.records import Capabilities, PolicyRecord

CHECKS = all_checks()
SUBJECT = subject_of(GoodMLP)


def made(run, code="X1", **options):
    return check(code, "a-check", promise="P.", why="W.", fix="F.", **options)(run)


def result_of(function, subject=SUBJECT, **options):
    return run_check(subject, made(function, **options))


def raiser(error):
    def function(_):
        raise error

    return function


def codes(**options):
    return [each.code for each in select_checks(CHECKS, **options)]


# -- the suite ---------------------------------------------------------------------------------


def test_every_promise_has_a_check():
    numbers = {"B": 9, "S": 10, "R": 12, "A": 6, "N": 8, "P": 9, "T": 3}
    missing = {f"{family}{i}" for family, n in numbers.items() for i in range(1, n + 1)}
    missing -= {each.code for each in CHECKS}
    assert missing == set()


def test_every_check_says_all_that_its_docs_need():
    for each in CHECKS:
        assert all((each.name, each.promise, each.why, each.fix)), each.code
        assert "\n" not in each.promise
        assert each.name == each.name.lower().replace(" ", "-")


@pytest.mark.parametrize("part", ["promise", "why", "fix"])
@pytest.mark.parametrize("text", ["keeps its state.", "It keeps its state", ""])
def test_the_texts_of_a_check_are_sentences(part, text):
    texts = {"promise": "P.", "why": "W.", "fix": "F.", part: text}
    with pytest.raises(ConfigError, match=f"The {part} of the check 'X1' is not a sentence"):
        check("X1", "a-check", **texts)(lambda _: None)


def test_a_check_travels_to_another_process_by_reference():
    assert pickle.loads(pickle.dumps(CHECKS)) == CHECKS


def test_a_plugin_adds_checks_of_its_own():
    registrar = CheckRegistrar(CHECKS)
    registrar.add(made(lambda _: None, code="ACME1"))
    assert registrar.checks[-1].code == "ACME1"


@pytest.mark.parametrize("code", ["S1", "S99", "acme1", "ACME", ""])
def test_a_plugin_can_not_take_a_code_of_the_suite_or_a_malformed_one(code):
    with pytest.raises(PolicyError, match="can't be called"):
        CheckRegistrar(CHECKS).add(made(lambda _: None, code=code))


# -- selection ---------------------------------------------------------------------------------


def test_without_a_selection_all_but_trainability_is_run():
    assert set(codes()) == {each.code for each in CHECKS if each.tier is not Tier.TRAINABILITY}


def test_checks_that_tell_the_cause_run_first():
    checks = select_checks(CHECKS, tiers=list(Tier))
    tiers = [each.tier for each in checks]
    assert tiers == sorted(tiers, key=lambda tier: tier is not Tier.STATIC)
    assert checks[tiers.count(Tier.STATIC)].code == "B9"
    places = {each.code: place for place, each in enumerate(checks)}
    assert [
        (each.code, code)
        for each in checks
        for code in each.needs
        if places[code] > places[each.code]
    ] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"select": "S1"}, ["S1"]),
        ({"select": "S1,A1"}, ["S1", "A1"]),
        ({"select": ["B"]}, ["B1", "B2", "B4", "B6", "B7", "B9", "B3", "B5", "B8"]),
        ({"select": "B", "ignore": "B1, B3"}, ["B2", "B4", "B6", "B7", "B9", "B5", "B8"]),
        ({"select": "T1"}, ["T1"]),
    ],
)
def test_codes_and_families_select(options, expected):
    assert codes(**options) == expected


def test_a_code_is_not_a_prefix_of_another():
    assert "S10" not in codes(select="S1")
    assert "S10" in codes(ignore="S1")


def test_tiers_and_levels_select():
    assert {each.tier for each in select_checks(CHECKS, tiers=["static"])} == {Tier.STATIC}
    graver = select_checks(CHECKS, levels=["error", "failure"])
    assert {each.level for each in graver} == {Level.ERROR, Level.FAILURE}
    assert codes(levels=["advice"]) == ["N3", "N5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "S77"}, "no check 'S77'"),
        ({"ignore": "Z"}, "no check 'Z'"),
        ({"tiers": ["dynamical"]}, "Did you mean 'dynamic'"),
        ({"levels": ["advise"]}, "Did you mean 'advice'"),
        ({"select": "S1", "ignore": "S"}, "No check is left"),
        ({"tiers": []}, "No check is left"),
    ],
)
def test_a_selection_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(ConfigError, match=message):
        codes(**options)


# -- results -----------------------------------------------------------------------------------


def test_what_a_check_does_becomes_a_result():
    assert result_of(lambda _: None).status is Status.PASSED
    assert result_of(lambda _: "as a note").message == "as a note"
    failed = result_of(raiser(CheckFailed("one", "two", example="three")))
    assert (failed.status, failed.expected, failed.actual) == (Status.FAILED, "one", "two")
    assert "three" in failed.example
    skipped = result_of(raiser(CheckSkipped("no memory")))
    assert (skipped.status, skipped.message) == (Status.SKIPPED, "no memory")
    unapplied = result_of(raiser(AssertionError), applies=lambda _: "not for it")
    assert (unapplied.status, unapplied.message) == (Status.SKIPPED, "not for it")


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(2), PolicyError("no", fix="yes")])
def test_what_a_policy_raises_is_an_error_with_its_place(error):
    result = result_of(raiser(error))
    assert result.status is Status.ERROR
    assert "test_suite.py:" in result.message


def test_interrupting_the_run_is_no_result():
    with pytest.raises(KeyboardInterrupt):
        result_of(raiser(KeyboardInterrupt()))


def test_a_check_takes_time():
    assert result_of(lambda _: sum(range(1000))).seconds > 0


def test_checks_see_neither_each_other_nor_change_the_policy():
    def spoil(subject):
        subject.policy.critic.bias.data += 1
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(4)
        random.seed(4)
        np.random.seed(4)

    subject = subject_of(GoodMLP)
    before = subject.policy.critic.bias.clone()
    states = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    result_of(spoil, subject)
    assert torch.equal(subject.policy.critic.bias, before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]


def test_what_a_policy_draws_at_random_does_not_change_its_verdict():
    def verdict(seed):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return result_of(lambda _: f"{torch.rand(1)} {random.random()} {np.random.rand()}").message

    assert verdict(1) == verdict(2)


def test_a_policy_is_built_once_for_all_checks_of_a_target():
    builds = []

    class Counted(GoodMLP):
        def __init__(self, env):
            builds.append(env)
            super().__init__(env)

    (target,) = targets_for(Counted, DISCRETE, registry=discover(plugins=[]))
    for code in ("B2", "S1", "S8"):
        (result,) = run_suite([target], select_checks(CHECKS, select=code), isolate=False)
        assert result.status is Status.PASSED
    assert len(builds) == 1


def test_a_memory_is_tested_on_two_pairs_of_spaces_and_other_wrappers_on_all():
    registry = discover(plugins=[])
    names = ("LSTMWrapper", "NormalizeObservationWrapper", "Default")
    assert [len(targets_for_record(name, registry)) for name in names] == [3, 13, 11]


def test_a_policy_that_can_not_be_built_is_one_error_and_skips():
    dynamic = [made(lambda _: None, code=f"X{i}") for i in range(3)]
    results = list(run(subject_of(raiser(ValueError("no"))), dynamic))
    assert [each.status for each in results] == [Status.ERROR, Status.SKIPPED, Status.SKIPPED]
    assert "it can't be built: ValueError: no" in results[2].message


def test_a_policy_without_a_record_may_refuse_spaces():
    dynamic = [made(lambda _: None)]
    refusing = raiser(IncompatibleSpace("not for me"))
    assert [each.status for each in run(subject_of(refusing), dynamic)] == [Status.SKIPPED]
    declared = subject_of(refusing, capabilities=Capabilities())
    assert [each.status for each in run(declared, dynamic)] == [Status.ERROR]


def test_an_expected_failure_is_told_apart_and_a_needless_one_fails():
    table = {"Good* vector/*": {"X1": "it is known"}}
    failing = made(raiser(CheckFailed("one", "two")))
    result = run_check(SUBJECT, failing, expected=table)
    assert (result.status, result.message) == (Status.EXPECTED, "it is known")
    needless = run_check(SUBJECT, made(lambda _: None), expected=table)
    assert needless.status is Status.FAILED
    assert "delete the line" in needless.actual
    other = run_check(subject_of(GoodMLP, name="Other"), failing, expected=table)
    assert other.status is Status.FAILED


@pytest.mark.parametrize("good", [GoodMLP, GoodLSTM])
def test_a_correct_policy_passes(good):
    checks = select_checks(CHECKS, select="S,A,B")
    bad = [r for r in run(subject_of(good), checks) if r.status in (Status.FAILED, Status.ERROR)]
    assert bad == []


# -- the matrix --------------------------------------------------------------------------------


def test_the_matrix_covers_every_kind():
    names = {kind for pair in spaces_for(Capabilities()) for kind in kinds(pair).split("/")}
    assert names == {
        *("vector", "array", "image", "discrete", "multidiscrete", "multibinary", "dict"),
        *("tuple", "box"),
    }


@pytest.mark.parametrize(
    "declared",
    [
        Capabilities(observations=("image",), min_image_size=36),
        Capabilities(actions=("box",)),
        Capabilities(actions=("dict", "tuple")),
        Capabilities(observations=("vector", "dict"), actions=("multidiscrete", "multibinary")),
    ],
)
def test_the_matrix_holds_only_what_is_declared(declared):
    pairs = spaces_for(declared)
    assert pairs
    assert [misfits(declared, pair) for pair in pairs] == [[]] * len(pairs)
    observations = {kinds(pair).split("/")[0] for pair in pairs}
    assert observations >= set(declared.observations)


def test_images_are_no_larger_than_need_be():
    images = [p.observation.shape for p in spaces_for(Capabilities(observations=("image",)))]
    assert {max(shape) for shape in images} == {8}


def test_only_a_policy_that_asks_for_sets_is_given_dicts_of_them():
    def dicts(*observations):
        pairs = spaces_for(Capabilities(observations=observations))
        return [set(p.observation.spaces) for p in pairs if isinstance(p.observation, gym.Dict)]

    assert not any("entities" in keys for keys in dicts() + dicts("dict"))
    assert dicts("entities")
    assert all({"entities", "mask"} <= keys for keys in dicts("entities"))


def test_wrappers_that_can_not_stack_are_left_out():
    registry = discover(plugins=[])
    record = registry.get("Default")
    assert isinstance(record, PolicyRecord)
    assert "LSTMWrapper" in wrappers_for(record, registry)
    recurrent = PolicyRecord(
        name="Net",
        target="a:Net",
        provenance=record.provenance,
        capabilities=Capabilities(recurrent=True),
    )
    assert "LSTMWrapper" not in wrappers_for(recurrent, registry)


# -- snippets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [*OBSERVATIONS.values(), *ACTIONS.values()], ids=str)
def test_a_space_can_be_pasted_back(space):
    assert eval(space_source(space), {"np": np, "gym": gym}) == space


@pytest.mark.parametrize("high", [1, np.array([True, False])], ids=["equal", "unequal"])
def test_a_box_of_bools_can_be_pasted_back(high):
    shape = np.broadcast_shapes(np.shape(high), (2,))
    space = gym.Box(np.zeros(shape, np.bool_), np.full(shape, high, np.bool_), dtype=np.bool_)
    assert eval(space_source(space), {"np": np, "gym": gym}) == space


def test_every_pair_of_the_matrix_can_be_pasted_back():
    sets = spaces_for(Capabilities(observations=("entities",)))
    pairs = [*spaces_for(Capabilities()), *sets, DISCRETE]
    for pair, side in product(pairs, ("observation", "action")):
        space = getattr(pair, side)
        assert _is_same(eval(space_source(space), {"np": np, "gym": gym}), space)


def _is_same(one, other):
    """Compare spaces without the order of keys, which gymnasium 0.29 compares, and changes."""
    if not isinstance(one, gym.Dict):
        return one == other
    return set(one) == set(other) and all(_is_same(one[key], other[key]) for key in one)


def test_spaces_are_short_in_tables():
    nested = gym.Dict({"a": gym.Box(-1, 1, (2, 2)), "b": gym.Tuple([gym.Discrete(3, start=1)])})
    assert brief(nested) == "Dict(a: Box(2, 2), b: Tuple(Discrete(3, start=1)))"
    assert brief(gym.Box(0, 255, (3, 8, 8), np.uint8)) == "Box(3, 8, 8) uint8"
    assert brief(gym.MultiDiscrete([3, 2])) == "MultiDiscrete([3, 2])"


def test_a_failure_without_an_example_of_its_own_can_be_seen_again():
    subject = replace(SUBJECT, source="policy = 1")
    failed = result_of(raiser(CheckFailed("one", "two")), subject)
    assert "print(check_policy(policy, spaces" in failed.example
    result = result_of(raiser(CheckFailed("one", "two", example="print(3)")), subject)
    assert result.example == "policy = 1\nprint(3)"
