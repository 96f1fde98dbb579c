"""The verb show-config: a config with every value filled in."""

from __future__ import annotations

import argparse
from typing import Any

from puffer_policies.cli.config_arguments import (
    add_config_arguments,
    config_of,
    require_name,
    require_registered,
)
from puffer_policies.cli.output import print_json
from puffer_policies.config.config import Config, config_to_toml, sections_of
from puffer_policies.config.load import UNKNOWN_NAME, shipped_configs
from puffer_policies.errors import AmbiguousName, PolicyNotFound, PolicyRemoved
from puffer_policies.registry import default_registry
from puffer_policies.streams import write, write_note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, and whether origins are printed."""
    add_config_arguments(parser, optional=True)
    parser.add_argument(
        "--origin", action="store_true", help="also print where each value comes from"
    )
    parser.epilog = (
        "The flags of the config work as with 'train'. To save a config, write "
        "'puffer-policies show-config NAME > run.toml'."
    )


def run(options: argparse.Namespace) -> int:
    """Print a config as TOML, or as JSON in the form of a run's config.json."""
    require_name(options)
    config = config_of(options)
    if _is_unknown(config):
        import gymnasium

        from puffer_policies.envs.factory import env_not_found, id_of  # gymnasium
        from puffer_policies.envs.families import known_ids

        env_id = id_of(config.base.env_name)
        try:
            # Ids that are registered late are known without importing what registers them.
            env_id in {*known_ids(), *default_registry().envs} or gymnasium.spec(env_id)
        except gymnasium.error.Error as error:
            raise env_not_found(env_id, error, configs=shipped_configs()) from error
    try:
        require_registered(config)
    except (PolicyNotFound, AmbiguousName, PolicyRemoved) as error:
        # It may be the config of a run that was made where more was installed.
        write_note(f"warning: {error}")
    # Only the config goes to stdout, so that it can be redirected into a file.
    if not options.json:
        write(config_to_toml(config, origins=options.origin).removesuffix("\n"))
    else:
        print_json(_with_origins(config) if options.origin else config.to_args())
    return 0


def _is_unknown(config: Config) -> bool:
    """Return whether the name is no config's, so that it should be an id of gymnasium.

    A file may name an env that the user's own program registers, so only names are looked up.
    """
    is_elsewhere = (
        config.base.env_name.startswith("pettingzoo/") or config.vec.vectorization == "envpool"
    )
    return config.origin("base", "env_name") == UNKNOWN_NAME and not is_elsewhere


def _with_origins(config: Config) -> dict[str, Any]:
    return {
        section: {
            key: {"value": value, "origin": config.origin(section, key)}
            for key, value in table.items()
        }
        for section, table in sections_of(config).items()
    }
