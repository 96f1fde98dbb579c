"""What a report tells people and machines."""

from __future__ import annotations

import json

import pytest

from puffer_policies.checks.engine.report import counts_line, details, render
from puffer_policies.checks.model import Report, Result, Status, check

CHECK = check("S1", "value-shape", promise="PROMISE.", why="WHY.", fix="FIX.")(lambda _: None)


def result(status: Status, *, code: str = "S1", policy: str = "Net", **texts: str) -> Result:
    return Result(code, "value-shape", status, policy, "Box(4,)", "Discrete(3)", **texts)


@pytest.fixture
def report() -> Report:
    results = [
        result(Status.PASSED, code="B1"),
        result(Status.FAILED, expected="(5, 1)", actual="(5,)", example="policy = Net()"),
        result(Status.SKIPPED, code="R10", message="no memory"),
        result(Status.SKIPPED, code="R2", message="no memory"),
        result(Status.EXPECTED, code="N5", message="it is known"),
        result(Status.ERROR, code="A1", message="ValueError: \x1b[1mno"),
    ]
    return Report(results, {"S1": CHECK})


def test_the_text_shows_every_number(report):
    line = "6 selected, 4 run: 1 passed, 1 failed, 2 skipped, 1 expected failure, 1 error."
    assert counts_line(report) == line
    assert render(report).endswith(line)


def test_the_text_says_why_each_skip_and_expected_failure(report):
    text = render(report)
    assert "2x  no memory (R2, R10)" in text
    assert "it is known (N5)" in text


def test_a_failure_says_all_that_is_needed_to_mend_it(report):
    text = details(report.results[1], report)
    for part in ("S1", "Net", "Box(4,)", "Discrete(3)", "(5, 1)", "(5,)", "PROMISE", "WHY", "FIX"):
        assert part in text
    assert "policy = Net()" in text


def test_the_same_failure_on_other_spaces_is_told_in_a_line(report):
    twice = Report([report.results[1], report.results[1]], report.checks)
    text = render(twice)
    assert text.count("WHY") == 1
    assert "also on  Box(4,) -> Discrete(3)" in text


def test_one_error_that_ends_many_checks_is_told_once():
    same = [
        result(Status.ERROR, code=code, message="ValueError: no") for code in ("S1", "S2", "A1")
    ]
    other = result(Status.ERROR, code="P1", message="KeyError: x")
    text = render(Report([*same, other], {"S1": CHECK}))
    assert text.count("ValueError: no") == 1
    assert "so also  A1, S2" in text
    assert "KeyError: x" in text


def test_nothing_run_is_not_good():
    empty = Report([result(Status.SKIPPED, message="no memory")], {})
    assert not empty.ok
    assert "proves nothing" in render(empty)
    assert not Report().ok


def test_json_holds_everything(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert data["counts"]["skipped"] == 2
    assert data["results"][1]["expected"] == "(5, 1)"
    assert data["ok"] is False
