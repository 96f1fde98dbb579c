"""The verb configs: what can be trained by name."""

from __future__ import annotations

import argparse
from typing import Any

from puffer_policies.cli.output import print_json, print_table
from puffer_policies.config.load import ShippedConfig, shipped_configs
from puffer_policies.registry.names import matches
from puffer_policies.streams import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pattern of names."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="names to list, such as 'cart*' (default: all)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the shipped configs that match."""
    configs = _matching(options.pattern)
    if options.json:
        print_json([_config_data(each) for each in configs])
    elif configs:
        print_configs(configs)
    else:
        write(f"Nothing matches {options.pattern!r}.")
    return 0


def print_configs(configs: list[ShippedConfig] | None = None) -> None:
    """Print a table of `configs`, or of all that ship."""
    configs = _matching("*") if configs is None else configs
    rows = [(each.name, each.summary, ", ".join(each.aliases)) for each in configs]
    print_table("Configs", ("name", "summary", "also called"), rows)


def _matching(pattern: str) -> list[ShippedConfig]:
    return [
        each
        for each in shipped_configs().values()
        if any(matches(name, pattern) for name in (each.name, *each.aliases))
    ]


def _config_data(config: ShippedConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "summary": config.summary,
        "aliases": list(config.aliases),
        "env_name": config.env_name,
    }
