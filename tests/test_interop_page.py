"""The tables of the trainers of others are those that were measured."""

from __future__ import annotations

from tool_files import load_tool

TOOL, PAGE = load_tool("measure_interop"), load_tool("write_interop_page")


def test_the_page_has_what_was_measured():
    assert PAGE.page() == PAGE.PAGE.read_text(), "run `make docs`"


def test_every_finding_has_been_judged():
    findings = TOOL.read_data()["findings"].values()
    pairs = {(each["name"], code) for each in findings for code in each["findings"]}
    assert pairs <= set(PAGE.JUDGMENTS)
