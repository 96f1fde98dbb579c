"""The configs shipped with the package: one TOML file per family of envs, one table per config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

from puffer_policies.config.layers import Layer, toml_layer
from puffer_policies.errors import ConfigError
from puffer_policies.tomlfile import TomlFile, read_toml

_ABOUT = ("summary", "aliases")
"""Keys of a config's own table that are not sections."""


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


@cache
def shipped_configs() -> dict[str, ShippedConfig]:
    """Return the shipped configs by name, sorted."""
    found = {each.name: each for file in _family_files() for each in _configs_in(file)}
    return dict(sorted(found.items()))


def find_shipped(name: str) -> ShippedConfig | None:
    """Return the shipped config with this name or alias, or None."""
    for config in shipped_configs().values():
        if name == config.name or name in config.aliases:
            return config
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
    for name, tables in file.data.items():
        layer = toml_layer(file, tables, prefix=(name,), skip=_ABOUT)
        if ("base", "env_name") not in layer.values:
            raise ConfigError(f"{file.at(name)}: {name!r} has no base.env_name.", fix="Add it.")
        yield ShippedConfig(
            name,
            str(tables.get("summary", "")),
            tuple(tables.get("aliases", ())),
            layer.values[("base", "env_name")].value,
            layer,
        )
