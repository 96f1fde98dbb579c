"""The configs shipped with the package: one TOML file per family of envs, one table per config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import as_file, files

from puffer_policies.config.flags import Key
from puffer_policies.config.layers import Layer, toml_layer
from puffer_policies.errors import ConfigError
from puffer_policies.tomlfile import TomlFile, read_toml

_ABOUT = ("summary", "aliases", "envs", "serves")
"""Keys of a config's own table that are not sections."""

_ENV_NAME: Key = ("base", "env_name")


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
    layer: Layer
    serves: tuple[str, ...] = ()
    """Patterns of ids that have no config of their own and take this one's settings."""

    def for_env(self, env_id: str) -> ShippedConfig:
        """Return the same settings for another env."""
        said = replace(self.layer.values[_ENV_NAME], value=env_id)
        layer = replace(self.layer, values={**self.layer.values, _ENV_NAME: said})
        return replace(self, env_name=env_id, layer=layer)


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


def _family_files() -> Iterator[TomlFile]:
    folder = files("puffer_policies.config") / "families"
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:
                yield read_toml(path)


def _configs_in(file: TomlFile) -> Iterator[ShippedConfig]:
    """Return the configs of a file; a table with ``envs`` is one for each env named there."""
    for name, tables in file.data.items():
        layer = toml_layer(file, tables, prefix=(name,), skip=_ABOUT)
        if _ENV_NAME not in layer.values:
            raise ConfigError(f"{file.at(name)}: {name!r} has no base.env_name.", fix="Add it.")
        config = ShippedConfig(
            name,
            str(tables.get("summary", "")),
            tuple(tables.get("aliases", ())),
            layer.values[_ENV_NAME].value,
            layer,
            tuple(tables.get("serves", ())),
        )
        yield config
        for other, env_id in tables.get("envs", {}).items():
            summary = f"{env_id}: settings of {name!r}"
            told = replace(config, name=other, summary=summary, aliases=(env_id,), serves=())
            yield told.for_env(env_id)
