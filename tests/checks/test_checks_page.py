"""docs/checks.md says of every check what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "write_checks_page.py"


def load_tool():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current():
    tool = load_tool()
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run `make docs`"


def test_every_check_is_proved_by_two_bad_policies():
    tool = load_tool()
    codes = [mutant.code for mutant in tool.mutants()]
    lacking = {each.code: codes.count(each.code) for each in tool.all_checks()}
    assert {code: n for code, n in lacking.items() if n < 2} == {}
