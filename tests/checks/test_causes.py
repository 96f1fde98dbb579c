"""Each cause is one finding, with its place and its cure, and hides no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mutants_passes as passes
import pytest
import torch
from good import DISCRETE, IMAGE_HWC, GoodLSTM, GoodMLP, layer
from torch import Tensor, nn

from puffer_policies.checks import check_policy
from puffer_policies.checks.engine.causes import Causes
from puffer_policies.checks.engine.errors import without_numbers
from puffer_policies.checks.model import Level, Report, Result, Status
from puffer_policies.spaces import Spaces

QUICK = "B,S,R,A,N"


def report_of(policy: Any, spaces: Spaces | None = DISCRETE, **options: Any) -> Report:
    return check_policy(policy, spaces, isolate=False, **{"select": QUICK, **options})


class TypesWrong(GoodMLP):
    """A layer for another width, in a file of its author."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder = layer(nn.Linear(3, 16))


class TimeFirst(GoodMLP):
    """An LSTM without batch_first, whose step takes the batch for time."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.lstm = nn.LSTM(16, 16)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations)
        return self.lstm(hidden.unsqueeze(1))[0].squeeze(1)


class StateOnSelf(GoodLSTM):
    """Carries its state on itself in the usual form, and sends none."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.hidden: Any = None

    initial_state = None  # type: ignore[assignment]

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        rows = len(observations)
        if self.hidden is None or len(self.hidden[0]) != rows:
            self.hidden = (torch.zeros(rows, 16), torch.zeros(rows, 16))
        self.hidden = self.cell(self.encode_observations(observations), self.hidden)
        return self.decode_actions(self.hidden[0])

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.forward_eval(observations.reshape(-1, observations.shape[-1]), state)


@pytest.mark.parametrize(
    ("policy", "spaces", "place", "cure"),
    [
        (passes.ThreeOutputs, DISCRETE, "in forward_eval", "Return logits and values and nothing"),
        (passes.ReturnsDistribution, DISCRETE, "in forward_eval", "the logits of a Categorical"),
        (passes.ChannelsFirst, IMAGE_HWC, "in encode_observations", "permute"),
        (passes.GivesUp, DISCRETE, "in encode_observations", "Raise an error instead"),
        (passes.FailsOnSequences, DISCRETE, "in forward", "Mend this line"),
        (TypesWrong, DISCRETE, "in encode_observations", "read the width from the space"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_pass_that_does_not_run_is_one_error_with_its_place_and_its_cure(
    policy, spaces, place, cure
):
    report = report_of(policy, spaces)
    (finding,) = report.findings
    assert (finding.codes, finding.level) == (["B9"], Level.ERROR)
    assert place in finding.first.where
    assert finding.first.where.startswith(str(Path(__file__).parent))
    assert cure in finding.first.fix
    skips = [
        each for each in report.results if each.message.startswith("not run because of B9 runs")
    ]
    assert len(skips) > 30
    assert {each.cause for each in skips} == {finding.first.cause}


@pytest.mark.parametrize(("policy", "code"), [(TimeFirst, "S5"), (StateOnSelf, "R6")])
def test_one_mistake_that_many_promises_meet_is_one_finding(policy, code):
    report = report_of(policy, levels=["error", "failure"])
    (finding,) = report.findings
    assert finding.first.code == code


def test_an_error_of_one_place_is_one_finding_on_all_spaces_and_in_all_stacks():
    alone = report_of(TypesWrong, None)
    texts = {each.actual for each in alone.bad}
    assert len(alone.bad) == 3
    assert len(alone.findings) == 1
    stacked = report_of(TypesWrong, wrappers=["LSTMWrapper"])
    assert stacked.findings[0].first.cause == alone.findings[0].first.cause
    assert all("mat1 and mat2" in text for text in texts)


class TwoMistakes(GoodMLP):
    """Values without their axis, and a weight that never learns."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.idle = nn.Parameter(torch.zeros(3))

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden).squeeze(-1)


class ThirdMistake(TwoMistakes):
    """And a pass that does not run before that is mended."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        raise RuntimeError("not yet")


def test_independent_mistakes_are_findings_of_their_own():
    assert [each.codes for each in report_of(TwoMistakes).findings] == [["S1"], ["N6"]]


def test_what_a_mended_cause_has_hidden_shows_afterwards():
    assert [each.codes for each in report_of(ThirdMistake).findings] == [["B9"]]
    assert [each.codes for each in report_of(TwoMistakes).findings] == [["S1"], ["N6"]]


def test_a_trial_that_was_not_selected_is_told_under_a_check_that_was():
    report = report_of(TypesWrong, select="S1,S8,A1")
    assert [each.status for each in report.results] == [Status.ERROR, *[Status.SKIPPED] * 2]
    assert "mat1 and mat2" in report.results[0].message
    assert report.results[0].level is Level.ERROR
    good = report_of(GoodMLP, select="S1,S8,A1")
    assert [each.code for each in good.results] == ["S1", "S8", "A1"]


def test_a_failure_inside_a_stack_has_the_cause_of_its_part():
    def failure(policy: str, code: str = "S1") -> Result:
        return Result(code, "name", Status.FAILED, policy, "Box(4,)", "Discrete(3)")

    causes = Causes()
    net = causes.named(failure("acme/Net")).cause
    wrapper = causes.named(failure("acme/Wrapper(Default)", "R3")).cause
    stack = "acme/Wrapper(other/Memory(acme/Net, layers=2))"
    assert causes.named(failure(stack)).cause == net
    assert causes.named(failure(stack, "R3")).cause == wrapper
    assert causes.named(failure("acme/Wrapper(other/Net)")).cause not in (net, wrapper)


def test_texts_that_differ_in_numbers_and_shapes_are_one():
    first, second = (
        "input [5, 4] and (1x4 and 7x8) at 0.5",
        "input [30, 2, 2] and (6x2 and 9x1) at 2",
    )
    assert without_numbers(first) == without_numbers(second)
    assert without_numbers("got Byte") != without_numbers("got Long")
