"""The verb compare: several policies on one environment, as a table and a picture."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from puffer_policies.cli.config_arguments import (
    add_config_arguments,
    config_of,
    folder_beside_runs,
)
from puffer_policies.cli.numbers import count
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.cli.parser import text
from puffer_policies.config.config import Config
from puffer_policies.errors import PolicyError
from puffer_policies.streams import write, write_note

if TYPE_CHECKING:
    from puffer_policies.studies.compare import Comparison, Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, the policies and the number of seeds."""
    add_config_arguments(parser)
    parser.add_argument(
        "policies",
        nargs="+",
        metavar="POLICY",
        help="names of policies, or expressions such as 'LSTMWrapper(Default)'",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=3,
        metavar="N",
        help="runs of each policy, each with its own seed (default: 3)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=text,
        metavar="DIR",
        help="a new folder for the runs and the table, or that of a comparison, which goes on "
        "(default: comparisons/ENV-TIME)",
    )
    parser.epilog = "The flags of the config work as with 'train' and apply to every policy."


def run(options: argparse.Namespace) -> int:
    """Train all, print the table; 128 plus its number if a signal stopped it, 1 if one failed."""
    config = config_of(options)

    from puffer_policies.runs.interrupts import exit_code
    from puffer_policies.studies.compare import TABLE, compare, draw_comparison  # torch

    comparison = compare(
        config,
        options.policies,
        seeds=options.seeds,
        folder=options.output or _default_folder(config),
        tell=write_note,
    )
    try:
        picture = draw_comparison(comparison)
    except PolicyError as error:  # the table exists, with or without its picture
        write_note(f"No picture was drawn: {error}")
        picture = None
    if options.json:
        print_json({**comparison.to_dict(), "picture": None if picture is None else str(picture)})
    else:
        _print(comparison)
        write("\n".join(map(str, [comparison.folder / TABLE, *[picture] * (picture is not None)])))
    if comparison.interrupted:
        return exit_code(comparison.signal)
    return 1 if any(each.error for each in comparison.entries) else 0


def _default_folder(config: Config) -> Path:
    # The time makes it a new folder: a comparison never mixes with the runs of another one.
    folder = folder_beside_runs(config, "comparisons")
    return folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _print(comparison: Comparison) -> None:
    seeds = len(comparison.seeds)
    asked = comparison.config["train"]["total_timesteps"]
    whole = f" (whole updates; {asked:,} were asked for)" if comparison.steps > asked else ""
    title = f"{comparison.env}, {comparison.steps:,} steps{whole}, {seeds} seed" + "s" * (seeds > 1)
    columns = ("policy", "return", "runs", "parameters", "steps/s", "seconds", "error")
    print_table(title, columns, [_row(each) for each in comparison.entries])
    if comparison.interrupted:
        write("Interrupted: unfinished runs are left out. The same command goes on with")
        write(f"-o {comparison.folder}")


def _row(entry: Entry) -> tuple[str, ...]:
    speed = entry.speed
    return (
        entry.policy,
        entry.return_text,
        str(len(entry.runs)),
        f"{entry.parameters:,}",
        "" if speed is None else f"{speed:,.0f}",
        f"{entry.seconds:.1f}" if entry.runs else "",
        entry.error,
    )
