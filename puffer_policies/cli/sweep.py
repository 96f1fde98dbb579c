"""The verb sweep: a search for good options, as a table and a config."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from puffer_policies.cli.compare import folder_beside_runs
from puffer_policies.cli.configs import config_of
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.cli.train import INTERRUPTED
from puffer_policies.config.resolved import Config
from puffer_policies.errors import TrainingError
from puffer_policies.studies.ranges import SearchRange, ranges_of_file, ranges_of_flags
from puffer_policies.studies.study import Trial
from puffer_policies.studies.sweep import BEST_CONFIG, Sweep, described, short, sweep

SHOWN = 10
"""Trials in the table."""


def run_sweep(options: argparse.Namespace) -> int:
    """Search, print the best trials; 130 if Ctrl-C cut it short."""
    config = config_of(options)
    found = sweep(
        config,
        _ranges(options),
        trials=options.trials,
        folder=options.output or _default_folder(config),
        sampler=options.sampler,
        objective=options.objective,
        minimize=options.minimize,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if options.json:
        print_json(found.to_dict())
    else:
        _print(found)
    if found.interrupted:
        return INTERRUPTED
    if found.best is None:
        raise TrainingError(f"No trial finished. The last one: {found.trials[-1].error}")
    return 0


def _ranges(options: argparse.Namespace) -> list[SearchRange]:
    """Return the ranges of the file with those of the flags over them."""
    of_file = ranges_of_file(options.name) if Path(options.name).suffix == ".toml" else {}
    return list({**of_file, **ranges_of_flags(options.param)}.values())


def _default_folder(config: Config) -> Path:
    # No time in it: the same command goes on where it was interrupted.
    return folder_beside_runs(config, "sweeps")


def _print(found: Sweep) -> None:
    counted = ", ".join(
        f"{sum(each.outcome == outcome for each in found.trials)} {outcome}"
        for outcome in ("finished", "pruned", "failed")
    )
    rows = [_row(each) for each in found.trials[:SHOWN]]
    title = f"{found.env}: {counted}; best first"
    print_table(title, ("trial", found.objective, "values", "run"), rows)
    if found.interrupted:
        print("Interrupted. The same command goes on.")
    if found.best is not None:
        print(f"puffer-policies train {found.folder / BEST_CONFIG}")


def _row(trial: Trial) -> tuple[str, ...]:
    reached = trial.outcome if trial.objective is None else short(trial.objective)
    return str(trial.number), reached, described(trial.values), trial.error or trial.folder
