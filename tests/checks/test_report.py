"""What a report tells people and machines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from puffer_policies.checks.engine.report import codes_text, counts_line, render
from puffer_policies.checks.model import Level, Report, Result, Status, check

CHECK = check("S1", "value-shape", promise="PROMISE.", why="WHY.", fix="FIX.")(lambda _: None)


def result(status: Status, *, code: str = "S1", policy: str = "Net", **texts: Any) -> Result:
    return Result(code, "value-shape", status, policy, "Box(4,)", "Discrete(3)", **texts)


@pytest.fixture
def report() -> Report:
    results = [
        result(Status.PASSED, code="B1"),
        result(
            Status.FAILED,
            expected="(5, 1)",
            actual="(5,)",
            example="policy = Net()",
            fix="FIX.",
            where="net.py:3 in forward: return x",
        ),
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


def test_the_first_line_says_whether_it_works():
    def line(*levels: Level) -> str:
        bad = [
            result(Status.FAILED, code=f"N{number}", level=level)
            for number, level in enumerate(levels)
        ]
        return render(Report([result(Status.PASSED), *bad], {})).splitlines()[0]

    error, failure, advice = Level
    assert line() == "Net works: every promise that was checked is kept."
    assert line(advice) == "Net works: 0 errors, 0 failures, 1 piece of advice."
    assert line(advice, failure) == (
        "Net works, but not exactly: 0 errors, 1 failure, 1 piece of advice."
    )
    assert line(advice, error, error) == (
        "Net does not work: 2 errors, 0 failures, 1 piece of advice."
    )


def test_the_first_line_counts_policies():
    results = [
        result(Status.FAILED, policy="A", level=Level.ERROR),
        result(Status.FAILED, policy="B"),
        result(Status.PASSED, policy="C"),
        result(Status.PASSED, policy="D"),
    ]
    assert render(Report(results, {})).splitlines()[0] == (
        "Of 4 policies 1 does not work, 1 works, but not exactly, 2 work: "
        "1 error, 1 failure, 0 pieces of advice."
    )


def test_the_text_says_why_each_skip_and_expected_failure(report):
    text = render(report)
    assert "2x     no memory (R2, R10)" in text
    assert "it is known (N5)" in text


def test_a_finding_says_all_that_is_needed_to_mend_it(report):
    text = render(report)
    parts = ("S1", "Net", "Box(4,)", "Discrete(3)", "(5, 1)", "(5,)", "PROMISE", "WHY", "FIX")
    for part in (*parts, "net.py:3 in forward", "policy = Net()"):
        assert part in text


def test_no_line_is_longer_than_the_terminal_but_for_paths_and_examples(report):
    long = result(Status.FAILED, actual="a number, " * 200, where=f"/tmp/{'folder/' * 20}net.py:3")
    for line in render(Report([long], {})).splitlines():
        assert len(line) <= 80 or "/tmp/folder/" in line
    assert "(2000 characters)" in render(Report([long], {}))


def test_the_same_failure_on_other_spaces_is_told_in_a_line(report):
    other = replace(report.results[1], observation="Box(3,)")
    text = render(Report([report.results[1], other], report.checks))
    assert text.count("WHY") == 1
    assert "also on   Box(3,) -> Discrete(3)" in text


def test_results_of_one_cause_are_one_finding_of_the_gravest_level():
    same = [
        result(Status.ERROR, code=code, message="ValueError: no", cause="net.py:3")
        for code in ("S1", "S2", "S3", "A1")
    ]
    same[3] = replace(same[3], level=Level.ERROR)
    other = result(Status.ERROR, code="P1", message="KeyError: x", cause="net.py:4")
    report = Report([other, *same], {"S1": CHECK})
    assert [each.codes for each in report.findings] == [["S1", "A1", "S2", "S3"], ["P1"]]
    assert report.levels == {"error": 1, "failure": 1, "advice": 0}
    text = render(report)
    assert text.count("ValueError: no") == 1
    assert "so also   A1, S2, S3, which may pass once this is mended" in text
    assert "KeyError: x" in text


def test_advice_makes_no_report_bad():
    report = Report([result(Status.FAILED, level=Level.ADVICE), result(Status.PASSED, code="S2")])
    assert report.ok
    assert (report.bad, report.failed()) == ([], set())
    assert [each.code for each in report.advice] == ["S1"]


def test_neighboring_codes_are_a_range():
    assert codes_text(["S1", "R2", "R1", "R3", "R10", "S2", "S1"]) == "R1 to R3, R10, S1, S2"


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
    assert data["levels"] == {"error": 0, "failure": 2, "advice": 0}
    assert data["findings"][0] == {**data["results"][1], "codes": ["S1"]}
