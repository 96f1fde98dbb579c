"""What registered names have learned: the lines of a results.jsonl, by the name they speak for.

``benchmarks/bench_learning.py`` writes a line a run: ``{"name": CONFIG AND FLAGS, "stack":
["puffer-policies/GRUWrapper"], "seed": 1, "steps": 150000, "seconds": 60.0, "evaluation": {"mean":
500.0, ...}}``. The stack is whom it speaks for: every wrapper, and the policy, if not Default.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningResult:
    """What one config reached with one stack, seed by seed."""

    config: str
    """The config's name."""
    flags: tuple[str, ...]
    """What was given besides the name, such as ``("--rnn-name", "GRUWrapper")``."""
    seeds: tuple[int, ...]
    """The seeds, in order."""
    returns: tuple[float, ...]
    """The final evaluation's mean return with each seed."""
    steps: int
    """Environment steps of the longest run."""
    deterministic: bool
    """Whether it was evaluated by its likeliest actions, not by sampled ones."""

    @property
    def mean(self) -> float:
        """The mean return over seeds."""
        return sum(self.returns) / len(self.returns)

    @property
    def command(self) -> str:
        """What trains it again, but for ``--train.seed``."""
        return shlex.join(["puffer-policies", "train", self.config, *self.flags])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the command and the mean."""
        return {**asdict(self), "command": self.command, "mean": self.mean}


def read_results(path: Path | None) -> dict[str, list[LearningResult]]:
    """Return the results in a file, by qualified name; none for None."""
    text = path.read_text(encoding="utf-8") if path else ""
    lines = [json.loads(line) for line in text.splitlines() if line]
    lines.sort(key=lambda line: (line["name"], line["seed"]))
    found: dict[str, list[LearningResult]] = {}
    for _, group in groupby(lines, key=lambda line: line["name"]):
        runs = list(group)
        result = _result(runs)
        for name in runs[0]["stack"]:
            found.setdefault(name, []).append(result)
    return found


def _result(runs: list[Mapping[str, Any]]) -> LearningResult:
    config, *flags = runs[0]["name"].split()
    return LearningResult(
        config=config,
        flags=tuple(flags),
        seeds=tuple(run["seed"] for run in runs),
        returns=tuple(run["evaluation"]["mean"] for run in runs),
        steps=max(run["steps"] for run in runs),
        deterministic=all(run["evaluation"]["deterministic"] for run in runs),
    )
