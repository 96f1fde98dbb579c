"""The verb export: a trained policy as a file of another runtime."""

from __future__ import annotations

import argparse

from puffer_policies.cli.checkpoint_arguments import add_checkpoint_arguments, location_of
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.export.targets import DEFAULT_STYLE, TARGETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, and what it becomes."""
    add_checkpoint_arguments(parser)
    kinds = "; ".join(f"{name}: {target.summary}" for name, target in TARGETS.items())
    parser.add_argument("--to", required=True, choices=[*TARGETS], help=kinds)
    parser.add_argument(
        "--out",
        type=text,
        metavar="PATH",
        help="the file (default: beside the checkpoint, with its name)",
    )
    styles = dict.fromkeys(style for target in TARGETS.values() for style in target.styles)
    parser.add_argument(
        "--style",
        choices=[*styles],
        default=DEFAULT_STYLE,
        help="names of inputs and outputs that a deployer knows (default: ours); float: for "
        "PufferLib's float build",
    )
    parser.add_argument(
        "--env",
        type=text,
        metavar="ENV",
        help="the environment, for a file that does not hold its spaces",
    )


def run(options: argparse.Namespace) -> int:
    """Write the file and print its path."""
    from puffer_policies.export.api import export_policy  # torch

    path = export_policy(
        location_of(options),
        options.out,
        to=options.to,
        style=options.style,
        env=options.env,
        best=options.best,
    )
    size = path.stat().st_size
    if options.json:
        print_json({"path": str(path), "to": options.to, "style": options.style, "bytes": size})
    else:
        print_fields([("file", str(path)), ("size", f"{size:,} bytes")])
    return 0
