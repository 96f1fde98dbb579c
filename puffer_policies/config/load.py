"""Loading of configs: by the name of a shipped one, from a file or a run, or for a gymnasium id."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from puffer_policies.config.config import COMPLETE, Config
from puffer_policies.config.flags import Key
from puffer_policies.config.ini import read_ini
from puffer_policies.config.sources import (
    ConfigSource,
    IgnoredEntry,
    Value,
    args_source,
    command_line_source,
    default_source,
    ini_source,
    merge,
    toml_source,
)
from puffer_policies.errors import ConfigError, did_you_mean, nearest
from puffer_policies.files import path_text, read_text, user_path
from puffer_policies.registry import default_registry
from puffer_policies.tomlfile import TomlFile, read_toml

ENV_NAME: Key = ("base", "env_name")

_ENV_VERSION = re.compile(r"-v\d+$")

FILE_TYPES = (".toml", ".ini")

CONFIG_FILE = "config.json"
"""File name of a run's config, which holds `Config.to_args`."""

SWEEP = "sweep"
"""The section of a file with the ranges of a sweep, which is not a part of the config."""

UNKNOWN_NAME = "the name asked for"
"""The origin of a name that is not a config's, and is therefore taken for a gymnasium id."""

_ABOUT = ("summary", "aliases", "envs", "serves")
"""Keys of a shipped config's table that are not sections."""


class ConfigWarning(UserWarning):
    """Entries of a file that have no effect here."""


@dataclass(frozen=True, slots=True)
class ShippedConfig:
    """A config that ships with the package."""

    name: str
    summary: str
    """One line for listings: what it trains, and where its settings come from."""
    aliases: tuple[str, ...]
    """Other names for it, such as PufferLib's name of the env or the gymnasium id."""
    env_name: str
    """The gymnasium id."""
    source: ConfigSource
    serves: tuple[str, ...] = ()
    """Patterns of the ids without a config of their own to which these settings apply."""

    def for_env(self, env_id: str) -> ShippedConfig:
        """Return the same settings for another env."""
        env_name = replace(self.source.values[ENV_NAME], value=env_id)
        source = replace(self.source, values={**self.source.values, ENV_NAME: env_name})
        return replace(self, env_name=env_id, source=source)


@cache
def shipped_configs() -> dict[str, ShippedConfig]:
    """Return the shipped configs by name, sorted."""
    configs = {each.name: each for file in _family_files() for each in _configs_in(file)}
    return dict(sorted(configs.items()))


def find_shipped(name: str) -> ShippedConfig | None:
    """Return the shipped config with this name or alias, or whose pattern matches it, or None.

    Patterns are those of a shell: ``ALE/*`` matches every Atari game.
    """
    configs = shipped_configs().values()
    # Exact names first: a pattern of another config must not win over an alias.
    for config in configs:
        if name == config.name or name in config.aliases:
            return config
    for config in configs:
        if any(fnmatchcase(name, pattern) for pattern in config.serves):
            return config.for_env(name)
    return None


def resolve_env_name(name: str) -> str:
    """Return the gymnasium id of a shipped config's name or alias; any other name as it is."""
    config = find_shipped(name)
    return config.env_name if config else name


def load_config(
    name: str | os.PathLike[str], overrides: Sequence[str] = (), *, allow_unknown: bool = False
) -> Config:
    """Return the config of a shipped name, a file, the folder of a run, or a gymnasium id.

    Later sources win: the defaults of the schema, the shipped config of the env, the file, the
    overrides. A run's config.json and a .toml file with ``complete = true`` hold every value, so
    the shipped config is left out. A gymnasium id is not checked until the env is made.

    Args:
        name: ``cartpole``, ``my/run.toml``, PufferLib's ``breakout.ini``, ``runs/cartpole-1``,
            ``Acrobot-v1``, ...
        overrides: flags such as ``["--train.learning-rate", "3e-4", "--policy-name", "Default"]``.
        allow_unknown: warn of unknown sections and keys in files instead of refusing them. Unknown
            flags are always errors.

    Raises:
        ConfigError: a wrong key or value, with ``file:line`` or the flag, and the nearest key.
    """
    name = path_text(name)
    path = user_path(name)
    if find_shipped(name) is None and _is_run(path):
        return load_run_config(path, overrides, allow_unknown=allow_unknown)
    # Read before any file, because flags choose the env among those that a file lists.
    flags = command_line_source(overrides)
    is_file = path.suffix in FILE_TYPES
    sources = _file_sources(path, flags, allow_unknown) if is_file else _name_sources(name)
    ignored = _warn_of_ignored(sources)
    sources = [_with_env_id(each) for each in (*sources, flags)]
    return Config.from_values(merge([default_source(), *sources]), ignored)


def load_run_config(
    folder: Path | str, overrides: Sequence[str] = (), *, allow_unknown: bool = False
) -> Config:
    """Return the config of an earlier run, with the flags `overrides` over it.

    Args:
        folder: the run's folder, or its config.json.
        overrides: as for `load_config`.
        allow_unknown: as for `load_config`.

    Raises:
        ConfigError: the folder holds no config of a run; else as for `load_config`.
    """
    flags = command_line_source(overrides)
    path = user_path(folder)
    # The config itself may be given, as copied from a run's folder.
    path = path if path.suffix == ".json" else path / CONFIG_FILE
    saved = args_source(_read_args(path, folder), origin=str(path), allow_unknown=allow_unknown)
    ignored = _warn_of_ignored([saved])
    return Config.from_values(merge([default_source(), saved, _with_env_id(flags)]), ignored)


def _is_run(path: Path) -> bool:
    """Return whether a path is a run. A folder that is named like an env id needs a config.json."""
    # The functions of os.path answer no, where pathlib's raise, for names that no file can have.
    if path.suffix == ".json" or os.path.isfile(path / CONFIG_FILE):
        return True
    return os.path.isdir(path) and not _ENV_VERSION.search(path.name)


def _read_args(path: Path, folder: Path | str) -> dict[str, Any]:
    try:
        args = json.loads(read_text(path))
        if not isinstance(args, dict):
            raise ValueError(f"{path} must hold a table")
    # A RecursionError comes from lists or tables that are nested too deeply.
    except (ConfigError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{folder} is not the folder of a run: {reason}.",
            fix="Give the folder that holds a run's config.json and checkpoint.",
        ) from error
    return args


def _warn_of_ignored(sources: Sequence[ConfigSource]) -> tuple[IgnoredEntry, ...]:
    """Warn of the entries that have no effect, and return them."""
    ignored = tuple(entry for source in sources for entry in source.ignored)
    if ignored:
        warnings.warn("\n".join(str(each) for each in ignored), ConfigWarning, stacklevel=3)
    return ignored


def _name_sources(name: str) -> list[ConfigSource]:
    shipped = find_shipped(name)
    if shipped is None and os.path.isfile(user_path(name)):
        raise ConfigError(
            f"{name} is a file, but not a config: configs end in {', '.join(FILE_TYPES)} or .json.",
            fix="Write one with: puffer-policies show-config NAME > run.toml",
        )
    if shipped is None:
        _refuse_misspelling(name)
    return [shipped.source if shipped else ConfigSource({ENV_NAME: Value(name, UNKNOWN_NAME)})]


def _refuse_misspelling(name: str) -> None:
    """Refuse a name that is close to a config's, if it is not an env's id for all that is known.

    Gymnasium, which knows the ids, is not imported here. But almost all ids have a version, and
    whoever has registered an env of their own has imported gymnasium or has a `registry.toml`.
    """
    if _ENV_VERSION.search(name) or "/" in name or ":" in name:
        return
    near = nearest(name, shipped_configs())
    registered = getattr(sys.modules.get("gymnasium"), "registry", {})
    if near and name not in registered and name not in default_registry().envs:
        configs = [f"{each!r} ({shipped_configs()[each].env_name!r})" for each in near]
        raise ConfigError(
            f"No config is called {name!r}, and no env of this id is registered.",
            fix=f"Did you mean the config {' or '.join(configs)}?",
        )


def _file_sources(path: Path, flags: ConfigSource, allow_unknown: bool) -> list[ConfigSource]:
    """Return the file's source, on top of the shipped config of its env if there is one."""
    source, is_complete = _read_source(path, allow_unknown)
    env = flags.values.get(ENV_NAME) or source.values.get(ENV_NAME)
    if env is None:
        raise ConfigError(f"{path} names no env.", fix="Give base.env_name or --env-name.")
    env_name = env.value
    source = _with_one_env(source, env_name)
    shipped = None if is_complete else find_shipped(env_name)
    if shipped is None:
        return [source]
    # A bare name in a PufferLib file is PufferLib's own env, of which ours is the namesake.
    is_namesake = path.suffix == ".ini" and env_name != shipped.env_name
    if is_namesake or env_name.startswith("puffer_"):
        source = _without_env_arguments(source, shipped.env_name)
    return [shipped.source, source]


def _read_source(path: Path, allow_unknown: bool) -> tuple[ConfigSource, bool]:
    """Return the values of a file, and whether it is complete."""
    # A missing file whose stem is close to a config's name: the suffix was probably the mistake.
    if not os.path.exists(path) and (near := did_you_mean(path.stem, shipped_configs())):
        raise ConfigError(f"There is no file {path}.", fix=f"{near} That is the name of a config.")
    if path.suffix == ".ini":
        return ini_source(read_ini(path), allow_unknown=allow_unknown), False
    file = read_toml(path)
    complete = file.data.get(COMPLETE, False)
    if not isinstance(complete, bool):
        raise ConfigError(
            f"{file.at(COMPLETE)}: {COMPLETE}: expected true or false, found {complete!r}."
        )
    source = toml_source(file, file.data, skip=(COMPLETE, SWEEP), allow_unknown=allow_unknown)
    return source, complete


def _with_one_env(source: ConfigSource, env_name: str) -> ConfigSource:
    """Return the source for one of its envs: a file of PufferLib's may list several."""
    entry = source.values.get(ENV_NAME)
    names = entry.value.split() if entry else []
    if entry is None or env_name not in (*names, entry.value):
        return source
    if env_name not in names:
        raise ConfigError(
            f"{entry.origin}: base.env_name has {len(names)} names: {', '.join(names)}.",
            fix="Choose one with --env-name.",
        )
    return replace(source, values={**source.values, ENV_NAME: replace(entry, value=env_name)})


def _without_env_arguments(source: ConfigSource, env_id: str) -> ConfigSource:
    """Ignore [env], whose arguments are those of PufferLib's own env and not of ours."""
    reason = f"it is an argument of PufferLib's env, and {env_id} is used instead"
    foreign = {key: value for key, value in source.values.items() if key[0] == "env"}
    ignored = [
        IgnoredEntry(f"env.{key[1]}", value.origin, reason) for key, value in foreign.items()
    ]
    values = {key: value for key, value in source.values.items() if key not in foreign}
    return ConfigSource(values, (*source.ignored, *ignored))


def _with_env_id(source: ConfigSource) -> ConfigSource:
    """Replace the name of a shipped config by its gymnasium id."""
    entry = source.values.get(ENV_NAME)
    if entry is None:
        return source
    env_id = replace(entry, value=resolve_env_name(entry.value))
    return replace(source, values={**source.values, ENV_NAME: env_id})


def _family_files() -> Iterator[TomlFile]:
    # As resources, so that the package also works from a zip file.
    folder = files("puffer_policies.config") / "families"
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:
                yield read_toml(path)


def _configs_in(file: TomlFile) -> Iterator[ShippedConfig]:
    """Return the configs of a file. A table with ``envs`` is also a config for each of these."""
    for name, tables in file.data.items():
        source = toml_source(file, tables, prefix=(name,), skip=_ABOUT)
        if ENV_NAME not in source.values:
            raise ConfigError(f"{file.at(name)}: {name!r} has no base.env_name.", fix="Add it.")
        config = ShippedConfig(
            name,
            str(tables.get("summary", "")),
            tuple(tables.get("aliases", ())),
            source.values[ENV_NAME].value,
            source,
            tuple(tables.get("serves", ())),
        )
        yield config
        for other, env_id in tables.get("envs", {}).items():
            summary = f"{env_id}: settings of {name!r}"
            twin = replace(config, name=other, summary=summary, aliases=(env_id,), serves=())
            yield twin.for_env(env_id)
