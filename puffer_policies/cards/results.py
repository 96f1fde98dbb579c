"""Learning results of registered names, read from the lines of a results.jsonl.

``benchmarks/bench_learning.py`` writes a line per run: ``{"name": CONFIG AND FLAGS, "stack":
["puffer-policies/GRUWrapper"], "seed": 1, "steps": 150000, "seconds": 60.0, "evaluation": {"mean":
500.0, ...}}``. The stack lists the names that the result is shown for: every wrapper, and the
policy unless it is Default.
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
    """The final scores of one config with one stack, by seed."""

    config: str
    """The config's name."""
    flags: tuple[str, ...]
    """Flags of the command besides the config, such as ``("--rnn-name", "GRUWrapper")``."""
    seeds: tuple[int, ...]
    """The seeds, in ascending order."""
    returns: tuple[float, ...]
    """The mean return of the final evaluation, with each seed."""
    steps: int
    """Environment steps of the longest run."""
    deterministic: bool
    """Whether the evaluation took the likeliest actions instead of sampled ones."""

    @property
    def mean(self) -> float:
        """The mean of `returns`."""
        return sum(self.returns) / len(self.returns)

    @property
    def command(self) -> str:
        """The command that trains it again, without ``--train.seed``."""
        return shlex.join(["puffer-policies", "train", self.config, *self.flags])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the command and the mean, ready for JSON."""
        return {**asdict(self), "command": self.command, "mean": self.mean}


def read_results(path: Path | None) -> dict[str, list[LearningResult]]:
    """Return the results in a file, by qualified name; no results for None."""
    text = path.read_text(encoding="utf-8") if path else ""
    lines = [json.loads(line) for line in text.splitlines() if line]
    lines.sort(key=lambda line: (line["name"], line["seed"]))
    results: dict[str, list[LearningResult]] = {}
    for _, group in groupby(lines, key=lambda line: line["name"]):
        runs = list(group)
        result = _result(runs)
        for name in runs[0]["stack"]:
            results.setdefault(name, []).append(result)
    return results


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
