"""The verb why: how a name is resolved."""

from __future__ import annotations

import argparse

from puffer_policies.cli.output import print_json
from puffer_policies.registry import default_registry
from puffer_policies.registry.resolution import USABLE
from puffer_policies.streams import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a policy, a wrapper, a preset, a pretrained policy or an env of a registry.toml",
    )


def run(options: argparse.Namespace) -> int:
    """Print how a name is resolved; 1 if it refers to nothing."""
    explanation = default_registry().explain(options.name)
    if options.json:
        record = explanation.record
        print_json(
            {
                "asked": explanation.name,
                "verdict": explanation.verdict,
                "lines": explanation.lines,
                "record": record.to_dict() if record else None,
            }
        )
    else:
        write("\n".join(explanation.lines))
    return 0 if explanation.verdict in (*USABLE, "preset", "pretrained", "env") else 1
