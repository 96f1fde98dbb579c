"""The result of an evaluation: returns and lengths of whole episodes, and their mean's interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from puffer_policies.runs.statistics import interval_kind, mean_interval, mean_text


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Returns and lengths of whole episodes, in the order of envs."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    episodes: int
    """How many were asked for; fewer were played only where the step limit was met."""
    seed: int
    deterministic: bool
    max_steps: int
    """Steps of each env after which it ended."""

    @property
    def complete(self) -> bool:
        """Whether every episode that was asked for was played to its end."""
        return len(self.returns) == self.episodes

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean's interval, of the kind that `mean_interval` gives; None of one episode."""
        return mean_interval(self.returns)

    @property
    def mean(self) -> float:
        """Mean return; NaN if no episode ended."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    @property
    def std(self) -> float:
        """Standard deviation of the returns; NaN if no episode ended."""
        return float(np.std(self.returns)) if self.returns else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; None, as JSON has no NaN, for what no episode gave."""
        return {
            "mean": self.mean if self.returns else None,
            "interval": self.interval,
            "interval_kind": interval_kind(len(self.returns)),
            "std": self.std if self.returns else None,
            "min": min(self.returns, default=None),
            "max": max(self.returns, default=None),
            "length": float(np.mean(self.lengths)) if self.lengths else None,
            "length_min": min(self.lengths, default=None),
            "length_max": max(self.lengths, default=None),
            "episodes": len(self.returns),
            "episodes_asked": self.episodes,
            "seed": self.seed,
            "deterministic": self.deterministic,
        }

    def fields(self) -> dict[str, str]:
        """Return the rows of a table: return, spread, length and episodes, as texts."""
        kind = "deterministic" if self.deterministic else "sampled"
        rows = {}
        if self.returns:
            rows["return"] = mean_text(self.mean, self.interval, len(self.returns))
        if len(self.returns) > 1:
            low, high = min(self.returns), max(self.returns)
            rows["spread"] = f"std {self.std:,.2f}, {low:,.2f} to {high:,.2f}"
        if self.lengths:
            low, high = min(self.lengths), max(self.lengths)
            mean = f"mean {np.mean(self.lengths):,.1f}, {low:,} to " if low < high else ""
            rows["length"] = f"{mean}{high:,} steps"
        rows["episodes"] = f"{self._ended()}, {kind}, seed {self.seed}"
        return rows

    def _ended(self) -> str:
        if self.complete:
            return f"{self.episodes:,}"
        told = (
            f"{len(self.returns):,} of the {self.episodes:,} asked for ended in "
            f"{self.max_steps:,} steps of each env (eval.max_steps)"
        )
        return f"{told}; short ones are favoured" if self.returns else told
