"""docs/checks.md says of every check what the code says."""

from __future__ import annotations

from tool_files import load_tool

NAME = "write_checks_page"


def test_the_page_is_current():
    tool = load_tool(NAME)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run `make docs`"


def test_the_readme_counts_them():
    tool = load_tool(NAME)
    readme = (tool.PAGE.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f" {len(list(tool.all_checks()))} promises" in readme


def test_every_check_is_proved_by_two_bad_policies():
    tool = load_tool(NAME)
    codes = [mutant.code for mutant in tool.mutants()]
    lacking = {each.code: codes.count(each.code) for each in tool.all_checks()}
    assert {code: n for code, n in lacking.items() if n < 2} == {}
