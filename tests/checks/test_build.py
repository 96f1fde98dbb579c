"""B1-B7 catch what they name, in every style, and find no fault with correct policies."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from good import DISCRETE, FOUR, IMAGE, GoodLSTM, GoodMLP
from gymnasium import spaces as gym
from mutant import assert_passes, outcomes, subject_of
from mutants_build import Announces, LinksResources, Reseeds

from puffer_policies.checks.model import Status
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.promises import build, shapes
from puffer_policies.checks.promises.build import CHECKS
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces
from puffer_policies.zoo.conv import Convolutional

BOTH = (*build.CHECKS, *shapes.CHECKS)


def test_a_refusal_in_words_is_a_skip_that_quotes_it() -> None:
    spaces = Spaces(gym.Discrete(3), FOUR)
    status, text = outcomes(CHECKS, subject_of(Convolutional, spaces))["B1"]
    assert status is Status.SKIPPED
    assert "Discrete(3)" in text


@pytest.mark.parametrize("error", [IncompatibleSpace("no space"), ValueError("Box expected")])
def test_a_refusal_of_declared_spaces_fails(error: Exception) -> None:
    def refuse(_: Spaces) -> Any:
        raise error

    subject = subject_of(refuse, IMAGE, capabilities=Capabilities(observations=("image",)))
    assert outcomes(CHECKS, subject)["B1"][0] is Status.FAILED
    elsewhere = subject_of(refuse, DISCRETE, capabilities=Capabilities(observations=("image",)))
    assert outcomes(CHECKS, elsewhere)["B1"][0] is Status.SKIPPED


def test_a_policy_that_is_not_known_as_a_class_skips_the_arguments_with_the_reason() -> None:
    subject = Subject("made", DISCRETE, build=lambda: GoodMLP(DISCRETE))
    assert outcomes(CHECKS, subject)["B6"] == (
        Status.SKIPPED,
        "its class is not known, only how to build it",
    )


def test_parts_that_are_registered_twice_are_no_fault() -> None:
    class Aliased(GoodLSTM):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.parts = {"encoder": self.encoder, "cell": [self.cell]}
            self.run_later = lambda hidden: self.critic(hidden)
            self.activations = [torch.nn.ReLU(), torch.nn.Tanh()]

    assert_passes(CHECKS, subject_of(Aliased))


@pytest.mark.parametrize("cls", [Reseeds, LinksResources, Announces])
def test_what_a_build_does_besides_is_undone(
    cls: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(Exception, match="side effects"):
        _only_b7().run(Subject("p", DISCRETE, build=_second_time(cls)))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert os.getcwd() == str(tmp_path)
    assert not os.listdir(tmp_path)
    assert capsys.readouterr().out == ""


def _only_b7() -> Any:
    return next(check for check in CHECKS if check.code == "B7")


def _second_time(cls: Any) -> Any:
    """Build harmlessly until the check watches: once for it to look at, twice to compare."""
    calls = []

    def make() -> Any:
        calls.append(None)
        return GoodMLP(DISCRETE) if len(calls) <= 3 else cls(DISCRETE)

    return make
