"""The verb plot: learning curves of runs as a picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puffer_policies.cli.output import print_json, print_table
from puffer_policies.cli.parser import text
from puffer_policies.files import user_path

if TYPE_CHECKING:
    from puffer_policies.studies.curves import Series

RETURN = "environment/episode_return"
"""As in `studies.curves`, which needs numpy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs, and what is drawn of them."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs, or of a comparison or a sweep"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=text,
        required=True,
        metavar="FILE",
        help="the picture to write: .png, .svg or .pdf",
    )
    parser.add_argument(
        "--x", choices=("steps", "seconds"), default="steps", help="the x-axis (default: steps)"
    )
    parser.add_argument(
        "--metric",
        type=text,
        default=RETURN,
        help=f"the y-axis: a key of the runs' metrics.jsonl (default: {RETURN})",
    )
    parser.add_argument(
        "--group-by",
        type=text,
        default="config",
        metavar="WHAT",
        help="one line for each config, with its seeds averaged (config), for each run (run), or "
        "for each value of an option, such as train.learning-rate (default: config)",
    )


def run(options: argparse.Namespace) -> int:
    """Draw the runs, and print the last point of each line."""
    from puffer_policies.studies.plot import plot_runs  # numpy

    panels = plot_runs(
        options.runs,
        options.output,
        metric=options.metric,
        x=options.x,
        group_by=options.group_by,
    )
    if options.json:
        envs = {env: [_data(each) for each in series] for env, series in panels.items()}
        print_json({"path": str(user_path(options.output)), "metric": options.metric, "envs": envs})
        return 0
    rows = [
        (each.label, env, str(each.runs), each.last_text)
        for env, series in panels.items()
        for each in series
    ]
    print_table(f"{options.metric}, in {options.output}", ("group", "env", "runs", "last"), rows)
    return 0


def _data(series: Series) -> dict[str, object]:
    return {
        "group": series.label,
        "runs": series.runs,
        "last": float(series.mean[-1]),
        "interval": series.last_interval,
        "interval_kind": series.interval_kind,
    }
