"""The verb that writes a config with every value filled in."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from puffer_policies.cli.configuring import config_of, require_registered
from puffer_policies.cli.output import print_json
from puffer_policies.config.resolved import Config
from puffer_policies.config.writing import config_to_toml, sections_of
from puffer_policies.errors import AmbiguousName, PolicyNotFound, PolicyRemoved


def run_show_config(options: argparse.Namespace) -> int:
    """Print a config as TOML, or as JSON in the form of a run's config.json."""
    config = config_of(options)
    try:
        require_registered(config)
    except (PolicyNotFound, AmbiguousName, PolicyRemoved) as error:
        # It may be the config of a run that was made where more was installed.
        print(f"warning: {error}", file=sys.stderr)
    if not options.json:
        print(config_to_toml(config, origins=options.origin), end="")
    else:
        print_json(_with_origins(config) if options.origin else config.to_args())
    return 0


def _with_origins(config: Config) -> dict[str, Any]:
    return {
        section: {
            key: {"value": value, "origin": config.origin(section, key)}
            for key, value in table.items()
        }
        for section, table in sections_of(config).items()
    }
