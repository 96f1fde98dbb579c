"""The arguments of the verbs that take a config: its name, its flags, and the config they give.

Free of torch and gymnasium, so that ``train --help`` is quick.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from puffer_policies.cli.configs import print_configs
from puffer_policies.config.config import Config
from puffer_policies.config.flags import read_flags
from puffer_policies.config.load import ConfigWarning, load_config, load_run_config
from puffer_policies.config.schema import SECTIONS, field_types, flag_of
from puffer_policies.config.sources import command_line_source
from puffer_policies.errors import ConfigError, nearest
from puffer_policies.files import user_path
from puffer_policies.registry import default_registry
from puffer_policies.registry.user_modules import require_names
from puffer_policies.streams import write_note

NAMES_A_CONFIG = "a config, a .toml or .ini file, the folder of a run, or a gymnasium id"


def add_config_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the name of a config; the flags of its options are then taken, too."""
    parser.add_argument(
        "name", nargs="?" if optional else None, metavar="NAME", help=NAMES_A_CONFIG
    )
    parser.add_argument(
        "--allow-unknown",
        action="store_true",
        help="ignore unknown keys in config files, with a warning (default: an error)",
    )
    parser.set_defaults(split_overrides=split_overrides)


def split_overrides(arguments: Sequence[str], own: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separate the flags of a config, with their values, from the rest of a command line.

    Argparse does not know them, and would take the value of one for the verb's own argument.

    Args:
        arguments: the words of the command line.
        own: the flags of the verb.

    Returns:
        The other words, and the flags of the config.

    Raises:
        ConfigError: an unknown flag that is closest to one of the verb's.
    """
    own_flags = set(own)
    # The verb's own flags are known, so that the config's reader does not take their values.
    flags, others = read_flags(arguments, others=own_flags)
    config_flags = {
        flag_of(name, key) for name, cls in SECTIONS.items() for key in field_types(cls)
    }
    for flag in flags:
        near = nearest(flag.name, {*own_flags, *config_flags}, limit=1)
        if flag.name not in config_flags and own_flags.intersection(near):
            raise ConfigError(f"There is no flag {flag.name}.", fix=f"Did you mean {near[0]!r}?")
    return others, [str(flag) for flag in flags]


def config_of(options: argparse.Namespace) -> Config:
    """Return the config of the name with its flags; without a name, of the run to resume.

    Entries of files that have no effect are printed to standard error.
    """
    # Python shows a warning once per place, but two files may have the same problem.
    warnings.simplefilter("always", ConfigWarning)
    if options.name is None:
        return load_run_config(
            options.resume, options.overrides, allow_unknown=options.allow_unknown
        )
    return load_config(options.name, options.overrides, allow_unknown=options.allow_unknown)


def require_name(options: argparse.Namespace) -> None:
    """Refuse a command line that names no config, after a list of those that exist.

    Raises:
        ConfigError: there is no name.
    """
    if options.name is not None:
        return
    # A misspelled flag is reported first: it may have taken the name for its value.
    command_line_source(options.overrides)
    if not options.json:
        print_configs()
    raise ConfigError(
        f"Say what to {options.verb.partition('-')[0]}: {NAMES_A_CONFIG}.",
        fix=f"puffer-policies {options.verb} cartpole",
    )


def require_registered(config: Config) -> None:
    """Refuse names of policies and wrappers that are not registered, before an env is made.

    Raises:
        PolicyError: as of `require_names`.
    """
    base = config.base
    # Without this check, a misspelled policy would be reported only after the env was made, which
    # may take seconds.
    require_names(
        base.policy_name,
        base.rnn_name,
        package=base.package,
        registry=default_registry(),
        note=lambda text: write_note(f"note: {text}"),
    )


def folder_beside_runs(config: Config, kind: str) -> Path:
    """Return ``<kind>/<env>`` beside the folder of runs, which is to hold nothing but runs."""
    name = config.base.env_name.replace("/", "_").replace(":", "_")
    return user_path(config.train.data_dir).parent / kind / name
