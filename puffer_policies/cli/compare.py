"""The verb compare: several policies on one env, as a table and a picture."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from puffer_policies.cli.configs import config_of
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.cli.train import INTERRUPTED
from puffer_policies.config.resolved import Config
from puffer_policies.errors import PolicyError
from puffer_policies.runs.statistics import interval_text
from puffer_policies.studies.compare import (
    TABLE,
    Comparison,
    Entry,
    compare,
    draw_comparison,
)


def run_compare(options: argparse.Namespace) -> int:
    """Train all, print the table; 130 if Ctrl-C cut it short, 1 if a policy failed."""
    config = config_of(options)
    found = compare(
        config,
        options.policies,
        seeds=options.seeds,
        folder=options.output or _default_folder(config),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    picture = _drawn(found)
    if options.json:
        print_json({**found.to_dict(), "picture": None if picture is None else str(picture)})
    else:
        _print(found, picture)
    if found.interrupted:
        return INTERRUPTED
    return 1 if any(each.error for each in found.entries) else 0


def folder_beside_runs(config: Config, kind: str) -> Path:
    """Return ``<kind>/<env>`` beside the folder of runs: not in it, where all should be runs."""
    name = config.base.env_name.replace("/", "_").replace(":", "_")
    return Path(config.train.data_dir).expanduser().parent / kind / name


def _default_folder(config: Config) -> Path:
    folder = folder_beside_runs(config, "comparisons")
    return folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _drawn(found: Comparison) -> Path | None:
    try:
        return draw_comparison(found)
    except PolicyError as error:  # the table is there, with or without its picture
        print(f"No picture was drawn: {error}", file=sys.stderr)
        return None


def _print(found: Comparison, picture: Path | None) -> None:
    seeds = len(found.seeds)
    title = f"{found.env}, {found.steps:,} steps, {seeds} seed{'s' if seeds > 1 else ''}"
    columns = ("policy", "return", "runs", "parameters", "steps/s", "seconds", "error")
    print_table(title, columns, [_row(each) for each in found.entries])
    if found.interrupted:
        print("Interrupted: unfinished runs are left out.")
    print(found.folder / TABLE)
    if picture is not None:
        print(picture)


def _row(entry: Entry) -> tuple[str, ...]:
    data = entry.to_dict()
    mean, speed = data["mean"], data["steps_per_second"]
    return (
        entry.policy,
        "" if mean is None else f"{mean:,.2f}{interval_text(data['interval'])}",
        str(len(entry.results)),
        f"{entry.parameters:,}",
        "" if speed is None else f"{speed:,.0f}",
        f"{entry.seconds:.1f}" if entry.results else "",
        entry.error,
    )
