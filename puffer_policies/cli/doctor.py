"""The verb doctor: what is wrong with the plug-ins that are installed."""

from __future__ import annotations

import argparse

from puffer_policies.cli.numbers import seconds
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.registry import default_registry
from puffer_policies.registry.doctor import examine
from puffer_policies.streams import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the time above which an import is slow."""
    parser.add_argument(
        "--slow",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="report imports that take longer than this (default: 1)",
    )


def run(options: argparse.Namespace) -> int:
    """Import everything and print the findings; 1 if one is a problem."""
    # This is the one verb that imports every plug-in and class, which is why it may be slow.
    findings = examine(default_registry(), slow_seconds=options.slow)
    problems = sum(finding.is_problem for finding in findings)
    if options.json:
        print_json([finding.to_dict() for finding in findings])
    else:
        rows = [(f.subject, f.verdict, f.detail) for f in findings]
        print_table("Plug-ins", ("what", "verdict", "detail"), rows)
        write(f"{problems} problem{'s' * (problems != 1)} in {len(findings)} findings.")
    return 1 if problems else 0
