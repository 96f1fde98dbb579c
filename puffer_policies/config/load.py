"""`load_config`: from the name of a config, a file or an env id to a `Config`."""

from __future__ import annotations

import json
import re
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
    Unread,
    Value,
    args_source,
    command_line_source,
    default_source,
    ini_source,
    merge,
    toml_source,
)
from puffer_policies.errors import ConfigError, did_you_mean
from puffer_policies.tomlfile import TomlFile, read_toml

ENV_NAME: Key = ("base", "env_name")

_ENV_VERSION = re.compile(r"-v\d+$")

FILE_TYPES = (".toml", ".ini")

CONFIG_FILE = "config.json"
"""What a run's folder calls its config, as `Config.to_args` gives it."""


SWEEP = "sweep"
"""The section of a file that says which values a sweep tries; it is no part of a config."""


ASKED = "the name asked for"
"""The origin of an env's id that stands for its config: there is no shipped one."""


_ABOUT = ("summary", "aliases", "envs", "serves")
"""Keys of a config's own table that are not sections."""


class ConfigWarning(UserWarning):
    """Entries of a file that have no effect here."""


@dataclass(frozen=True, slots=True)
class ShippedConfig:
    """A config that has a name of its own."""

    name: str
    summary: str
    """One line for listings: what is trained, and where the settings come from."""
    aliases: tuple[str, ...]
    """Other names for it, such as PufferLib's name of the env or the gymnasium id."""
    env_name: str
    """The gymnasium id."""
    source: ConfigSource
    serves: tuple[str, ...] = ()
    """Patterns of ids that have no config of their own and take this one's settings."""

    def for_env(self, env_id: str) -> ShippedConfig:
        """Return the same settings for another env."""
        said = replace(self.source.values[ENV_NAME], value=env_id)
        source = replace(self.source, values={**self.source.values, ENV_NAME: said})
        return replace(self, env_name=env_id, source=source)


@cache
def shipped_configs() -> dict[str, ShippedConfig]:
    """Return the shipped configs by name, sorted."""
    found = {each.name: each for file in _family_files() for each in _configs_in(file)}
    return dict(sorted(found.items()))


def find_shipped(name: str) -> ShippedConfig | None:
    """Return the shipped config with this name or alias, or the one that serves such ids, or None.

    Patterns are those of the shell: ``ALE/*`` serves every Atari game.
    """
    configs = shipped_configs().values()
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


def load_config(name: str, overrides: Sequence[str] = (), *, allow_unknown: bool = False) -> Config:
    """Return the config of a shipped name, a file, the folder of a run, or a gymnasium id.

    Layers, weakest first: defaults of the schema, the shipped config of the env, the file, the
    overrides. A run's config.json and a .toml file with ``complete = true`` say everything: no
    shipped config lies under them. Whether a gymnasium id exists is found out when the env is made.

    Args:
        name: ``cartpole``, ``my/run.toml``, PufferLib's ``breakout.ini``, ``runs/cartpole-1``,
            ``Acrobot-v1``, ...
        overrides: flags such as ``["--train.learning-rate", "3e-4", "--policy-name", "Default"]``.
        allow_unknown: warn of sections and keys of files that do not exist, instead of refusing
            them. Flags that do not exist stay errors.

    Raises:
        ConfigError: with ``file:line`` or the flag, and the nearest key.
    """
    path = Path(name)
    if find_shipped(name) is None and _is_run(path):
        return load_run_config(path, overrides, allow_unknown=allow_unknown)
    flags = command_line_source(overrides)
    is_file = path.suffix in FILE_TYPES
    sources = _file_layers(name, flags, allow_unknown) if is_file else _named_layers(name)
    unread = _warned(sources)
    named = [_with_env_id(each) for each in (*sources, flags)]
    return Config.from_values(merge([default_source(), *named]), unread)


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
    path = Path(folder)
    path = path if path.suffix == ".json" else path / CONFIG_FILE
    saved = args_source(_read_args(path, folder), origin=str(path), allow_unknown=allow_unknown)
    unread = _warned([saved])
    return Config.from_values(merge([default_source(), saved, _with_env_id(flags)]), unread)


def _is_run(path: Path) -> bool:
    """Return whether a run is meant: an env id may be the name of a folder, too."""
    if path.suffix == ".json" or (path / CONFIG_FILE).is_file():
        return True
    return path.is_dir() and not _ENV_VERSION.search(path.name)


def _read_args(path: Path, asked: Path | str) -> dict[str, Any]:
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(args, dict):
            raise ValueError(f"{path} should hold a table")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{asked} is no folder of a run: {error}.",
            fix="Give the folder that holds a run's config.json and checkpoint.",
        ) from error
    return args


def _warned(sources: Sequence[ConfigSource]) -> tuple[Unread, ...]:
    """Warn of the entries that have no effect, and return them."""
    unread = tuple(entry for source in sources for entry in source.unread)
    if unread:
        warnings.warn("\n".join(str(each) for each in unread), ConfigWarning, stacklevel=3)
    return unread


def _named_layers(name: str) -> list[ConfigSource]:
    shipped = find_shipped(name)
    if shipped is None and Path(name).is_file():
        raise ConfigError(
            f"{name} is a file, but no config: those end in {', '.join(FILE_TYPES)} or .json.",
            fix="puffer-policies show-config NAME > run.toml writes one.",
        )
    return [shipped.source if shipped else ConfigSource({ENV_NAME: Value(name, ASKED)})]


def _file_layers(name: str, flags: ConfigSource, allow_unknown: bool) -> list[ConfigSource]:
    """Return the file's source, on top of the shipped config of its env if there is one."""
    source, is_complete = _read_layer(Path(name), allow_unknown)
    chosen = flags.values.get(ENV_NAME) or source.values.get(ENV_NAME)
    if chosen is None:
        raise ConfigError(f"{name} names no env.", fix="Give base.env_name or --env-name.")
    source = _one_env(source, chosen.value)
    shipped = None if is_complete else find_shipped(chosen.value)
    if shipped is None:
        return [source]
    # A bare name in a PufferLib file is PufferLib's own env, of which ours is the namesake.
    is_namesake = Path(name).suffix == ".ini" and chosen.value != shipped.env_name
    if is_namesake or chosen.value.startswith("puffer_"):
        source = _for_our_env(source, shipped.env_name)
    return [shipped.source, source]


def _read_layer(path: Path, allow_unknown: bool) -> tuple[ConfigSource, bool]:
    """Return what a file says, and whether it says everything."""
    if not path.is_file() and (near := did_you_mean(path.stem, shipped_configs())):
        raise ConfigError(f"There is no file {path}.", fix=f"{near} That is a config by name.")
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


def _one_env(source: ConfigSource, chosen: str) -> ConfigSource:
    """PufferLib's files may serve several envs; keep the chosen one, and [env] with it."""
    said = source.values.get(ENV_NAME)
    names = said.value.split() if said else []
    if said is None or chosen not in (*names, said.value):
        return source
    if chosen not in names:
        raise ConfigError(
            f"{said.origin}: base.env_name has {len(names)} names: {', '.join(names)}.",
            fix="Choose one with --env-name.",
        )
    return replace(source, values={**source.values, ENV_NAME: replace(said, value=chosen)})


def _for_our_env(source: ConfigSource, env_id: str) -> ConfigSource:
    """Set aside [env] where our env serves for PufferLib's own: the arguments are the other's."""
    reason = f"it is an argument of PufferLib's env, and {env_id} stands in for it"
    foreign = {key: value for key, value in source.values.items() if key[0] == "env"}
    unread = [Unread(f"env.{key[1]}", value.origin, reason) for key, value in foreign.items()]
    kept = {key: value for key, value in source.values.items() if key not in foreign}
    return ConfigSource(kept, (*source.unread, *unread))


def _with_env_id(source: ConfigSource) -> ConfigSource:
    said = source.values.get(ENV_NAME)
    if said is None:
        return source
    env_id = replace(said, value=resolve_env_name(said.value))
    return replace(source, values={**source.values, ENV_NAME: env_id})


def _family_files() -> Iterator[TomlFile]:
    folder = files("puffer_policies.config") / "families"
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:
                yield read_toml(path)


def _configs_in(file: TomlFile) -> Iterator[ShippedConfig]:
    """Return the configs of a file; a table with ``envs`` is one for each env named there."""
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
            told = replace(config, name=other, summary=summary, aliases=(env_id,), serves=())
            yield told.for_env(env_id)
