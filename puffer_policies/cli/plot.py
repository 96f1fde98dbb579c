"""The verb plot: learning curves of runs as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from puffer_policies.cli.output import print_json, print_table
from puffer_policies.runs.statistics import interval_text
from puffer_policies.studies.curves import Series
from puffer_policies.studies.plot import plot_runs


def run_plot(options: argparse.Namespace) -> int:
    """Draw the runs, and print what each line ends at."""
    panels = plot_runs(
        options.runs,
        options.output,
        metric=options.metric,
        x=options.x,
        group_by=options.group_by,
    )
    if options.json:
        data = {env: [_data(each) for each in series] for env, series in panels.items()}
        print_json({"path": str(Path(options.output)), "metric": options.metric, "envs": data})
        return 0
    rows = [_row(env, each) for env, series in panels.items() for each in series]
    print_table(f"{options.metric}, in {options.output}", ("group", "env", "runs", "last"), rows)
    return 0


def _data(series: Series) -> dict[str, object]:
    interval = _last(series)
    return {
        "group": series.label,
        "runs": series.runs,
        "last": float(series.mean[-1]),
        "interval": interval,
    }


def _row(env: str, series: Series) -> tuple[str, ...]:
    last = f"{series.mean[-1]:,.2f}{interval_text(_last(series))}"
    return series.label, env, str(series.runs), last


def _last(series: Series) -> tuple[float, float] | None:
    return (float(series.low[-1]), float(series.high[-1])) if series.runs > 1 else None
