"""The test that ``pytest --policy NAME`` collects; the plug-in fills in the cases."""

from __future__ import annotations

from typing import Any

from puffer_policies.checks.pytest_plugin import assert_good


def test_policy(conformance_case: Any) -> None:
    """One check of one policy on one pair of spaces."""
    assert_good(conformance_case)
