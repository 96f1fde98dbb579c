"""Learning curves: read from the metrics of runs, grouped by config, averaged over seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from puffer_policies.config.load import load_run_config
from puffer_policies.errors import ConfigError, did_you_mean
from puffer_policies.files import user_path
from puffer_policies.runs.metrics import read_metrics
from puffer_policies.runs.statistics import interval_kind, mean_band, mean_text

Axis = Literal["steps", "seconds"]

RETURN = "environment/episode_return"

_OF_ONE_RUN = (
    "package",
    "train.env",
    "train.seed",
    "train.data_dir",
    "train.device",
    "train.num_threads",
    "train.checkpoint_interval",
)
"""Options that may differ between runs of one group, as may all of [eval]."""
_MAX_POINTS = 400
"""Maximum points of an averaged curve, about as many as a plot has pixels to show."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A metric of one run over its steps or seconds."""

    folder: Path
    options: Mapping[str, Any]
    """The run's config, flat: ``train.learning_rate`` -> 0.003."""
    x: np.ndarray
    """(K,) float64, increasing: steps or seconds."""
    y: np.ndarray
    """(K,) float64, finite: the metric."""

    @property
    def env(self) -> str:
        """The env's name."""
        return str(self.options["env_name"])


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The mean of the curves of one group, and its interval."""

    label: str
    runs: int
    """Runs that differ; a repetition of the same seed does not count."""
    x: np.ndarray
    """(K,)."""
    mean: np.ndarray
    """(K,)."""
    low: np.ndarray
    """(K,): with one run, the mean itself."""
    high: np.ndarray
    """(K,)."""

    @property
    def interval_kind(self) -> str | None:
        """What `low` and `high` are: ``95 % CI``, ``range``, or None of one run."""
        return interval_kind(self.runs)

    @property
    def last_interval(self) -> tuple[float, float] | None:
        """`low` and `high` at the end; None of one run."""
        return (float(self.low[-1]), float(self.high[-1])) if self.runs > 1 else None

    @property
    def last_text(self) -> str:
        """The last mean with its interval."""
        return mean_text(float(self.mean[-1]), self.last_interval, self.runs)


def read_curve(folder: Path | str, *, metric: str = RETURN, x: Axis = "steps") -> Curve:
    """Read a metric of a run, over env steps or over seconds of training.

    Raises:
        CheckpointError: `folder` is not the folder of a run, or has no metrics.
        ConfigError: the run has no such metric.
    """
    folder = user_path(folder)
    lines = [line for line in read_metrics(folder) if "SPS" in line]
    points = _points(lines, metric, x)
    if not points:
        raise _no_metric(folder, lines, metric)
    array = np.asarray(points, dtype=np.float64)
    return Curve(folder, _options(folder), array[:, 0], array[:, 1])


def average_curves(curves: Sequence[Curve], labels: Sequence[str]) -> list[Series]:
    """Average the curves that share a label, in the order in which labels first appear.

    Raises:
        ConfigError: curves of one label do not overlap.
    """
    groups: dict[str, list[Curve]] = {}
    for curve, label in zip(curves, labels, strict=True):
        groups.setdefault(label, []).append(curve)
    return [_averaged(label, group) for label, group in groups.items()]


def labels_of(curves: Sequence[Curve], *, by: str = "config") -> list[str]:
    """Return the group of each curve.

    Args:
        curves: curves of any envs; those of different envs may share a label.
        by: ``config`` groups runs that differ only in seed and machine, under the options in which
            the groups differ; ``run`` puts each run in a group of its own; anything else is an
            option to group by, such as ``train.learning_rate``.

    Raises:
        ConfigError: there is no such option.
    """
    if by == "run":
        return [curve.folder.name for curve in curves]
    if by != "config":
        key = by.replace("-", "_")
        return [f"{key}={_option(curve, key)}" for curve in curves]
    differing = {env: _differing([c for c in curves if c.env == env]) for env in _envs(curves)}
    return [_label(curve, differing[curve.env]) for curve in curves]


def _points(lines: Iterable[Mapping[str, Any]], metric: str, x: Axis) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    steps = seconds = 0.0
    for line in lines:
        before, steps = steps, line["agent_steps"]
        seconds += max(steps - before, 0.0) / line["SPS"]
        place = steps if x == "steps" else seconds
        while points and points[-1][0] >= place:
            points.pop()  # a run that resumed from an earlier checkpoint repeats these steps
        if _is_number(line.get(metric)):
            points.append((place, line[metric]))
    return points


def _no_metric(folder: Path, lines: Iterable[Mapping[str, Any]], metric: str) -> ConfigError:
    keys = sorted({key for line in lines for key, value in line.items() if _is_number(value)})
    if not keys:
        return ConfigError(f"{folder} has measured nothing yet.", fix="Wait for its first update.")
    if metric == RETURN:
        return ConfigError(
            f"No episode ended in {folder}, so it has no {metric}.",
            fix=f"Train longer, or plot another metric: {', '.join(keys)}.",
        )
    hint = did_you_mean(metric, [*keys, *(key.rpartition("/")[2] for key in keys)])
    return ConfigError(
        f"{folder} has no metric {metric!r}. {hint}".rstrip(), fix=f"It has {', '.join(keys)}."
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max  # an integer may be too large


def _options(folder: Path) -> dict[str, Any]:
    # Through the schema, which fills in what a run of an earlier version did not know.
    flat = flat_options(load_run_config(folder).to_args())
    return {
        key: value
        for key, value in flat.items()
        if key not in _OF_ONE_RUN and not key.startswith("eval.")
    }


def flat_options(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a config's plain data, such as ``train.gamma``, in one dict."""
    flat: dict[str, Any] = {}
    for section, value in args.items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": each for key, each in value.items()}
        else:
            flat[section] = value
    return flat


def _option(curve: Curve, key: str) -> Any:
    if key not in curve.options:
        choices = ["config", "run", *curve.options]
        raise ConfigError(
            f"{curve.folder} has no option {key!r} to group by.",
            fix=did_you_mean(key, choices)
            or "Group by config, by run, or by an option such as train.learning_rate.",
        )
    return curve.options[key]


def _envs(curves: Iterable[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.env for curve in curves))


def _differing(curves: Sequence[Curve]) -> list[str]:
    """Return the options in which curves of one env differ."""
    # dict, not set: labels name options in the order of the config.
    keys = dict.fromkeys(key for curve in curves for key in curve.options)
    return [key for key in keys if len({repr(curve.options.get(key)) for curve in curves}) > 1]


def _label(curve: Curve, keys: Sequence[str]) -> str:
    if keys:
        parts = (f"{key.removeprefix('train.')}={curve.options.get(key)}" for key in keys)
        return ", ".join(parts)
    wrapper = curve.options.get("rnn_name")
    policy = str(curve.options["policy_name"])
    return f"{wrapper}({policy})" if wrapper else policy


def _averaged(label: str, curves: Sequence[Curve]) -> Series:
    grid = _common_grid(label, curves)
    curves = _distinct(curves)
    if len(curves) == 1:
        (curve,) = curves
        return Series(label, 1, curve.x, curve.y, curve.y, curve.y)
    # Seeds are measured at different steps when episodes or envs differ, hence the common grid.
    values = np.stack([np.interp(grid, curve.x, curve.y) for curve in curves])  # (S, K)
    return Series(label, len(curves), grid, values.mean(0), *mean_band(values))


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    """Leave out repetitions: a seed that ran twice is one sample, and narrows no interval."""
    distinct: list[Curve] = []
    for curve in curves:
        if not any(np.array_equal(curve.y, each.y) for each in distinct):
            distinct.append(curve)
    return distinct


def _common_grid(label: str, curves: Sequence[Curve]) -> np.ndarray:
    """Return x values at which every curve can be interpolated."""
    begin, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if begin > end:
        raise ConfigError(
            f"Runs of {label!r} do not overlap: one begins at {begin:,.0f}, another ends at "
            f"{end:,.0f}.",
            fix="Group by run, or give runs of the same steps.",
        )
    places = np.unique(np.concatenate([curve.x for curve in curves]))
    places = places[(places >= begin) & (places <= end)]
    return places if len(places) <= _MAX_POINTS else np.linspace(begin, end, _MAX_POINTS)
