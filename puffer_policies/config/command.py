"""The command line that trains by a config: a name, and a flag for each value that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puffer_policies.config.config import Config, sections_of
from puffer_policies.config.flags import Key
from puffer_policies.config.load import load_config, shipped_configs
from puffer_policies.config.schema import SECTIONS, field_defaults, flag_of
from puffer_policies.errors import ConfigError

SEED: Key = ("train", "seed")

LOCAL: tuple[Key, ...] = (("train", "data_dir"), ("log", "tensorboard"), ("log", "wandb"))
"""Where a run leaves its files, which changes nothing of its result and concerns nobody else."""


def training_command(config: Config, imports: Sequence[str] = ()) -> list[str]:
    """Return the words of the shortest command that trains by an equal config; [] if none does.

    Args:
        config: that of a run.
        imports: the modules that its user had imported.
    """
    names = [each.name for each in shipped_configs().values()] + [config.base.env_name]
    commands = (_command(name, config, imports) for name in names)
    return min((each for each in commands if each), key=len, default=[])


def without_places(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of `Config.to_args` with the defaults for what is `LOCAL`."""
    result = dict(args)
    for section, key in LOCAL:
        table = result.get(section)
        if isinstance(table, Mapping) and key in table:
            result[section] = {**table, key: field_defaults(SECTIONS[section])[key]}
    return result


def _command(name: str, config: Config, imports: Sequence[str]) -> list[str]:
    """Return the command by the name of a config; [] if no flags make it equal."""
    target = _values(config)
    try:
        start = load_config(name)
        if start.base.env_name != config.base.env_name:
            return []
        flags = list(_flags(_values(start), target))
        if _values(load_config(name, flags)) != target:
            return []
    except ConfigError:
        return []
    modules = [word for each in imports for word in ("--import", each)]
    seed = [flag_of(*SEED), str(config.train.seed)]
    others = [each for each in flags if not each.startswith(f"{seed[0]}=")]
    return ["puffer-policies", "train", *modules, name, *seed, *others]


def _values(config: Config) -> dict[Key, Any]:
    return {
        (section, key): value
        for section, table in sections_of(config).items()
        for key, value in table.items()
        if (section, key) not in LOCAL
    }


def _flags(start: Mapping[Key, Any], target: Mapping[Key, Any]) -> Iterator[str]:
    for (section, key), value in target.items():
        if (section, key) not in start or start[section, key] != value:
            text = value if isinstance(value, str) else _literal(value)
            yield f"{flag_of(section, key)}={text}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
