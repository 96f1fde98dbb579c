"""S1-S10 catch what they name, in every style, and find no fault with correct policies."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from good import DICT, DISCRETE, GoodLSTM, GoodMLP
from mutant import Mutant, assert_passes, outcomes, subject_of
from mutants_build import MUTANTS_BUILD
from mutants_coverage import KeyForgotten, LastNumberDropped
from mutants_shapes import MUTANTS_SHAPES, BatchNormed, FlatValues
from torch import Tensor

from puffer_policies.checks.engine.runner import untouched
from puffer_policies.checks.model import CheckFailed, Status, by_code
from puffer_policies.checks.promises import build, shapes
from puffer_policies.checks.promises.shapes import CHECKS
from puffer_policies.nn.distributions import Categorical, distribution

BOTH = (*build.CHECKS, *shapes.CHECKS)


@pytest.mark.parametrize("cls", [GoodMLP, GoodLSTM])
def test_a_first_policy_whose_heads_start_at_zero_passes(cls: Any) -> None:
    def make(spaces: Any) -> Any:
        policy = cls(spaces)
        for layer in (policy.actor.linear, policy.critic):
            torch.nn.init.zeros_(layer.weight)
        return policy

    assert_passes(CHECKS, subject_of(make))


def test_batch_statistics_may_be_declared() -> None:
    assert outcomes(CHECKS, subject_of(BatchNormed))["S5"][0] is Status.FAILED
    assert_passes(CHECKS, subject_of(BatchNormed, declared={"train_differs": "batch norm"}))


@pytest.mark.parametrize(
    ("cls", "spaces", "pattern"),
    [
        (LastNumberDropped, DISCRETE, "3"),
        (KeyForgotten, DICT, "where"),
        (KeyForgotten, DICT, "where.*"),
    ],
)
def test_what_is_left_unread_may_be_declared(cls: Any, spaces: Any, pattern: str) -> None:
    reads = by_code(CHECKS)["S11"]
    assert_passes([reads], subject_of(cls, spaces, declared={"unread": [pattern]}))


def test_a_failure_tells_the_shape_that_was_wanted_and_the_one_that_came() -> None:
    status, text = outcomes(CHECKS, subject_of(FlatValues))["S1"]
    assert status is Status.FAILED
    assert "(5, 1)" in text
    assert "(5,)" in text


@pytest.mark.parametrize("mutant", [*MUTANTS_BUILD, *MUTANTS_SHAPES], ids=str)
def test_the_example_of_a_failure_is_python_that_runs(mutant: Mutant) -> None:
    subject = mutant.subject()
    with untouched():  # some of them set flags of the process
        with pytest.raises(CheckFailed) as caught:
            by_code(BOTH)[mutant.code].run(subject)
        if not caught.value.example:
            return
        names = {"policy": subject.policy, "spaces": mutant.spaces}
        expected_to_raise = (RuntimeError, TypeError)
        with contextlib.suppress(*expected_to_raise), contextlib.redirect_stdout(io.StringIO()):
            exec(caught.value.example, names)


def test_logits_of_a_type_that_a_package_registered_pass() -> None:
    @dataclass
    class Scores:
        scores: Tensor

    class Scoring(GoodMLP):
        def logits(self, hidden: Tensor) -> Any:
            return Scores(super().logits(hidden))

    assert outcomes(CHECKS, subject_of(Scoring))["S8"][0] is Status.ERROR
    distribution.register(Scores, lambda logits: Categorical(logits.scores))
    assert_passes(CHECKS, subject_of(Scoring, DISCRETE))
