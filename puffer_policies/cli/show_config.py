"""The verb that writes a config with every value filled in."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import gymnasium

from puffer_policies.cli.configs import config_of, require_registered
from puffer_policies.cli.output import print_json
from puffer_policies.config.load import ASKED
from puffer_policies.config.presets import shipped_configs
from puffer_policies.config.resolved import Config
from puffer_policies.config.writing import config_to_toml, sections_of
from puffer_policies.envs.families import known_ids
from puffer_policies.errors import AmbiguousName, PolicyNotFound, PolicyRemoved
from puffer_policies.spaces import env_not_found


def run_show_config(options: argparse.Namespace) -> int:
    """Print a config as TOML, or as JSON in the form of a run's config.json."""
    config = config_of(options)
    _require_env(config)
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


def _require_env(config: Config) -> None:
    """Refuse a name that is neither a config nor an env id; files may name envs of programs."""
    env_id = config.base.env_name
    is_asked = config.origin("base", "env_name") == ASKED
    is_others = env_id.startswith("pettingzoo/") or config.vec.vectorization == "envpool"
    if not is_asked or is_others or env_id in known_ids():
        return
    try:
        gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        raise env_not_found(env_id, error, names=shipped_configs()) from error


def _with_origins(config: Config) -> dict[str, Any]:
    return {
        section: {
            key: {"value": value, "origin": config.origin(section, key)}
            for key, value in table.items()
        }
        for section, table in sections_of(config).items()
    }
