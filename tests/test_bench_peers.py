"""Candidates of the benchmark suite run: ours and those written by hand, on small sizes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def measure(monkeypatch, forks, tmp_path):
    """Return the answers of one turn of scripts, by their arguments, from Pythons that fork."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    harness = importlib.import_module("suite.harness")
    python = tmp_path / "python"
    forks.write_python(python, python=Path(sys.executable))

    def run(*lines: str):
        candidates = [harness.Candidate(line, *_split(line)) for line in lines]
        case = harness.Case("toy/one", "", tuple(candidates), turn=0.0, rounds=(1, 1))
        return harness.measure(case, {"ours": str(python)})

    return run


def _split(line: str) -> tuple[str, tuple[str, ...]]:
    script, *arguments = line.split()
    return script, tuple(arguments)


@pytest.mark.parametrize(
    "lines",
    [
        ["act.py ours 2", "act.py floor 2", "act.py torch 2"],
        ["act.py ours lstm 2", "act.py floor lstm 2", "act.py floor lstm 512"],
        ["sample.py ours 2", "sample.py floor 2", "sample.py torch 2"],
        ["ours.py 2", "ours.py lstm 4", "floor.py 2", "floor.py lstm 4", "ppo_single_file.py 2"],
        ["ours.py 2 --env=puffer_policies/TorchCartPole-v0", "processes.py 1"],
        ["update_ours.py 2 --env=Noise-v0", "update_floor.py 2 --env=Noise-v0"],
        ["update_ours.py 1 --env=NoiseImage-v0 --policy=Convolutional --hidden=512"],
        ["memory.py lstm 4", "memory.py lstm-loop 4", "memory.py torch 4", "memory.py mingru 4"],
        ["build.py off", "build.py static"],
        ["cartpole_env.py ours 2", "cartpole_env.py gymnasium 2"],
    ],
    ids=lambda lines: lines[0].removesuffix(".py"),
)
def test_candidates_answer(measure, lines):
    result = measure(*lines)
    assert result.missing == {}
    assert all(seconds > 0 for times in result.times.values() for seconds in times.wall)


def test_starts_are_timed_among_fake_packages(measure):
    result = measure("start.py python 3 --policies", "start.py list 3 --policies")
    assert result.missing == {}
    assert result.times["start.py list 3 --policies"].cpu[0] > 0
