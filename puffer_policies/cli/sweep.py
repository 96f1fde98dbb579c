"""The verb sweep: a search for good hyperparameters, as a table and a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puffer_policies.cli.config_arguments import (
    add_config_arguments,
    config_of,
    folder_beside_runs,
)
from puffer_policies.cli.numbers import count
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.cli.parser import text
from puffer_policies.errors import TrainingError
from puffer_policies.files import user_path
from puffer_policies.streams import write, write_note

if TYPE_CHECKING:
    from puffer_policies.studies.sweep import Sweep

TABLE_ROWS = 10
"""Trials in the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, and what is searched for how long."""
    add_config_arguments(parser)
    parser.add_argument(
        "--trials",
        type=count,
        required=True,
        metavar="N",
        help="total trials, counting those already in the folder",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=RANGE",
        help="an option to search and its range (may be repeated)",
    )
    parser.add_argument(
        "--sampler",
        choices=("tpe", "random"),
        default="tpe",
        help="how trials are proposed (default: tpe, Optuna's Bayesian sampler)",
    )
    parser.add_argument(
        "--objective",
        type=text,
        default="evaluation",
        metavar="METRIC",
        help="what to optimize: a key of the runs' metrics.jsonl (default: the mean return of the "
        "final evaluation)",
    )
    parser.add_argument(
        "--minimize", action="store_true", help="minimize the objective instead of maximizing it"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=text,
        metavar="DIR",
        help="folder of the sweep, which continues if it is there (default: sweeps/ENV)",
    )
    parser.epilog = (
        "A range is log:1e-4:1e-2, 0.9:0.999 or 16,32,64; a .toml file may hold them in "
        "[sweep.train]. The flags of the config work as with 'train'."
    )


def run(options: argparse.Namespace) -> int:
    """Search, print the best trials; 128 plus its number if a signal stopped it."""
    config = config_of(options)

    from puffer_policies.runs.interrupts import exit_code
    from puffer_policies.studies.ranges import ranges_of_file, ranges_of_flags
    from puffer_policies.studies.sweep import sweep  # torch

    path = user_path(options.name)
    ranges = ranges_of_file(path) if path.suffix == ".toml" else {}
    # Flags take precedence over the file, as everywhere.
    ranges |= ranges_of_flags(options.param)
    result = sweep(
        config,
        list(ranges.values()),
        trials=options.trials,
        # The folder has no time in its name, so that the same command continues the sweep.
        folder=options.output or folder_beside_runs(config, "sweeps"),
        sampler=options.sampler,
        objective=options.objective,
        minimize=options.minimize,
        tell=write_note,
    )
    if options.json:
        print_json(result.to_dict())
    else:
        _print(result)
    if result.interrupted:
        return exit_code(result.signal)
    if result.best is None:
        # All trials failed: the reason of the last is likely that of all.
        raise TrainingError(f"No trial finished. The last one: {result.trials[-1].error}")
    return 0


def _print(sweep: Sweep) -> None:
    counts = ", ".join(
        f"{sum(each.outcome == outcome for each in sweep.trials)} {outcome}"
        for outcome in ("finished", "pruned", "failed")
    )
    rows = [
        (str(each.number), each.objective_text, each.values_text, each.error or each.folder)
        for each in sweep.trials[:TABLE_ROWS]
    ]
    title = f"{sweep.env}: {counts}; best first"
    print_table(title, ("trial", sweep.objective, "values", "run"), rows)
    if sweep.interrupted:
        write("Interrupted. The same command continues the sweep.")
    if sweep.best is not None:
        write(f"puffer-policies train {sweep.best_config}")
