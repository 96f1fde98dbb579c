"""What all tests of the checks run in: an empty folder, as some bad policies litter.

The new processes of checks are forks of one Python, as where the command line runs the suite.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from puffer_policies.checks.probes import fresh_process


def pytest_pycollect_makemodule() -> None:
    """Fork that Python before the first module of tests is imported."""
    if fresh_process._forked is None:
        fresh_process.serve_forks()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
