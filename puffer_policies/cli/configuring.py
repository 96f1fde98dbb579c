"""What a config can say: its options, and the names of those that ship."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.config.presets import shipped_configs
from puffer_policies.config.schema import FREE_SECTIONS, options
from puffer_policies.errors import ConfigError


def run_options(arguments: argparse.Namespace) -> int:
    """Print every option of a config with its type, default and meaning."""
    if arguments.json:
        print_json([asdict(option) for option in options()])
        return 0
    for option in options():
        print(f"{option.flag} {option.type}  (default: {option.default})\n    {option.doc}")
    free = ", ".join(f"--{section}.KEY" for section in FREE_SECTIONS)
    print(f"{free}\n    Arguments of the env, the policy and the wrapper.")
    return 0


def run_names(arguments: argparse.Namespace) -> int:
    """Print what can be trained by name, for a command line that names nothing."""
    configs = [(shipped.name, shipped.summary) for shipped in shipped_configs().values()]
    if not arguments.json:
        print_fields(configs)
    raise ConfigError(
        "Say what to train: a config, a .toml or .ini file, or a gymnasium id.",
        fix="puffer-policies train cartpole",
    )
