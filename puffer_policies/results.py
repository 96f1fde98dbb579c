"""What registered names have learned: the lines of a results.jsonl, by the name they speak for.

``benchmarks/bench_learning.py`` writes a line a run: ``{"name": CONFIG AND FLAGS, "seed": 1,
"steps": 150000, "seconds": 60.0, "evaluation": {"mean": 500.0, ...}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from puffer_policies.config.load import load_config
from puffer_policies.specs import PolicySpec

FILE_NAME = "results.jsonl"


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
        return " ".join(["puffer-policies train", self.config, *self.flags])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the command and the mean."""
        return {**asdict(self), "command": self.command, "mean": self.mean}


def shipped_results() -> Path | None:
    """Return the results.jsonl of the repository that this package runs from, None elsewhere."""
    place = Path(__file__).parent.parent / "docs" / FILE_NAME
    return place if place.is_file() else None


def read_results(path: Path | None) -> dict[str, list[LearningResult]]:
    """Return the results in a file, by bare name; none for None.

    A run with wrappers speaks for each of them, one without for its policy.
    """
    text = path.read_text(encoding="utf-8") if path else ""
    lines = [json.loads(line) for line in text.splitlines() if line]
    lines.sort(key=lambda line: (line["name"], line["seed"]))
    found: dict[str, list[LearningResult]] = {}
    for _, runs in groupby(lines, key=lambda line: line["name"]):
        result = _result(list(runs))
        for name in _spoken_for(result):
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


def _spoken_for(result: LearningResult) -> list[str]:
    base = load_config(result.config, result.flags).base
    policy = PolicySpec.parse(base.policy_name)
    wrappers = [each.name for each in policy.wrappers] + ([base.rnn_name] if base.rnn_name else [])
    return _bare(wrappers or [policy.name])


def _bare(names: Iterable[str]) -> list[str]:
    return [name.rpartition("/")[2] for name in names]
