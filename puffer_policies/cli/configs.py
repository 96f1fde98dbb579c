"""What a config can say: its options, the names of those that ship, and the one that is asked for.

Free of torch and gymnasium.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from puffer_policies.cli.output import print_json, print_table
from puffer_policies.config.layers import command_line_layer
from puffer_policies.config.load import ConfigWarning, load_config, load_run_config
from puffer_policies.config.presets import ShippedConfig, shipped_configs
from puffer_policies.config.resolved import Config
from puffer_policies.config.schema import FREE_SECTIONS, Option, options
from puffer_policies.errors import ConfigError
from puffer_policies.registry import default_registry
from puffer_policies.registry.names import matches


def run_options(arguments: argparse.Namespace) -> int:
    """Print every option of a config: type, default or the value that a config sets, meaning."""
    config = None if arguments.name is None else config_of(arguments)
    if arguments.json:
        print_json([{**asdict(option), **_setting(option, config)} for option in options()])
        return 0
    for option in options():
        (word, value), *_ = _setting(option, config).items() or [("default", option.default)]
        print(f"{option.flag} {option.type}  ({word}: {value})\n    {option.doc}")
    free = ", ".join(f"--{section}.KEY" for section in FREE_SECTIONS)
    print(f"{free}\n    Arguments of the env, the policy and the wrapper.")
    return 0


def run_configs(arguments: argparse.Namespace) -> int:
    """Print the shipped configs that match."""
    found = [each for each in shipped_configs().values() if _matches(each, arguments.pattern)]
    if arguments.json:
        print_json([_config_data(each) for each in found])
        return 0
    if not found:
        print(f"Nothing matches {arguments.pattern!r}.")
        return 0
    rows = [(each.name, each.summary, ", ".join(each.aliases)) for each in found]
    print_table("Configs", ("name", "summary", "also called"), rows)
    return 0


def run_names(arguments: argparse.Namespace) -> int:
    """Print what has a name, for a command line that names nothing to train or to show."""
    command_line_layer(arguments.overrides)  # a mistake there may have swallowed the name
    if not arguments.json:
        run_configs(argparse.Namespace(json=False, pattern="*"))
    raise ConfigError(
        f"Say what to {arguments.verb.partition('-')[0]}: a config, a .toml or .ini file, the "
        "folder of a run, or a gymnasium id.",
        fix=f"puffer-policies {arguments.verb} cartpole",
    )


def config_of(arguments: argparse.Namespace) -> Config:
    """Return the config of the name with its flags; without a name, of the run that is resumed.

    What has no effect in it is printed to standard error.
    """
    with _warnings_printed():
        if arguments.name is None:
            return load_run_config(
                arguments.resume, arguments.overrides, allow_unknown=arguments.allow_unknown
            )
        return load_config(
            arguments.name, arguments.overrides, allow_unknown=arguments.allow_unknown
        )


def require_registered(config: Config) -> None:
    """Refuse names of policies and wrappers that are not registered, before an env is made.

    Raises:
        PolicyError: as `get_policy`, with near names.
    """
    registry = default_registry()
    spec = registry.spec(config.base.policy_name)
    registry.get(spec.name, kind="policy")
    wrappers = [each.name for each in spec.wrappers]
    for wrapper in (*wrappers, config.base.rnn_name):
        if wrapper is not None:
            registry.get(wrapper, kind="wrapper")


@contextmanager
def _warnings_printed() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConfigWarning)
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _setting(option: Option, config: Config | None) -> dict[str, Any]:
    """Return what `config` sets an option to, as ``{"value": ...}``, or nothing without one."""
    if config is None:
        return {}
    return {"value": getattr(getattr(config, option.section), option.key)}


def _matches(config: ShippedConfig, pattern: str) -> bool:
    return any(matches(name, pattern) for name in (config.name, *config.aliases))


def _config_data(config: ShippedConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "summary": config.summary,
        "aliases": list(config.aliases),
        "env_name": config.env_name,
    }
