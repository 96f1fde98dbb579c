"""`load_config`: from the name of a config, a file or an env id to a `Config`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from puffer_policies.config.ini import read_ini
from puffer_policies.config.layers import (
    Key,
    Layer,
    Unread,
    Value,
    args_layer,
    command_line_layer,
    default_layer,
    ini_layer,
    merge,
    toml_layer,
)
from puffer_policies.config.presets import find_shipped, resolve_env_name
from puffer_policies.config.resolved import Config
from puffer_policies.errors import ConfigError
from puffer_policies.tomlfile import read_toml

ENV_NAME: Key = ("base", "env_name")

CONFIG_FILE = "config.json"
"""What a run's folder calls its config, as `Config.to_args` gives it."""


class ConfigWarning(UserWarning):
    """Entries of a PufferLib file that have no effect here."""


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a shipped name, a .toml or .ini file, or a gymnasium id.

    Layers, weakest first: defaults of the schema, the shipped config of the env, the file, the
    overrides. Whether a gymnasium id exists is found out when the env is made.

    Args:
        name: ``cartpole``, ``my/run.toml``, PufferLib's ``breakout.ini``, ``Acrobot-v1``, ...
        overrides: flags such as ``["--train.learning-rate", "3e-4", "--policy-name", "Default"]``.

    Raises:
        ConfigError: with ``file:line`` or the flag, and the nearest key.
    """
    flags = command_line_layer(overrides)
    is_file = Path(name).suffix in (".toml", ".ini")
    layers = _file_layers(name, flags) if is_file else _named_layers(name)
    unread = tuple(entry for layer in layers for entry in layer.unread)
    if unread:
        warnings.warn("\n".join(str(each) for each in unread), ConfigWarning, stacklevel=2)
    named = [_with_env_id(each) for each in (*layers, flags)]
    return Config.from_values(merge([default_layer(), *named]), unread)


def load_run_config(folder: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Return the config of an earlier run, with the flags `overrides` over it.

    Raises:
        ConfigError: the folder holds no config of a run; else as for `load_config`.
    """
    path = Path(folder) / CONFIG_FILE
    flags = command_line_layer(overrides)
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} is no folder of a run: {error}.",
            fix="Give the folder that holds a run's config.json and checkpoint.",
        ) from error
    saved = args_layer(Config.from_args(args).to_args(), origin=str(path))
    return Config.from_values(merge([saved, _with_env_id(flags)]))


def _named_layers(name: str) -> list[Layer]:
    shipped = find_shipped(name)
    return [shipped.layer if shipped else Layer({ENV_NAME: Value(name, "the name asked for")})]


def _file_layers(name: str, flags: Layer) -> list[Layer]:
    """Return the file's layer, on top of the shipped config of its env if there is one."""
    layer = _read_layer(Path(name))
    chosen = flags.values.get(ENV_NAME) or layer.values.get(ENV_NAME)
    if chosen is None:
        raise ConfigError(f"{name} names no env.", fix="Give base.env_name or --env-name.")
    layer = _one_env(layer, chosen.value)
    shipped = find_shipped(chosen.value)
    if shipped is None:
        return [layer]
    return [shipped.layer, _for_our_env(layer, chosen.value, shipped.env_name)]


def _read_layer(path: Path) -> Layer:
    if path.suffix == ".ini":
        return ini_layer(read_ini(path))
    file = read_toml(path)
    return toml_layer(file, file.data)


def _one_env(layer: Layer, chosen: str) -> Layer:
    """PufferLib's files may serve several envs; keep the chosen one."""
    said = layer.values.get(ENV_NAME)
    names = said.value.split() if said else []
    if chosen in names or said is None:
        return layer
    if said.value == chosen:
        raise ConfigError(
            f"{said.origin}: base.env_name has {len(names)} names: {', '.join(names)}.",
            fix="Choose one with --env-name.",
        )
    return layer


def _for_our_env(layer: Layer, chosen: str, env_id: str) -> Layer:
    """Set aside [env] where our env serves for PufferLib's own: the arguments are the other's."""
    if not chosen.startswith("puffer_"):
        return layer
    reason = f"it is an argument of PufferLib's env, and {env_id} stands in for it"
    foreign = {key: value for key, value in layer.values.items() if key[0] == "env"}
    unread = [Unread(f"env.{key[1]}", value.origin, reason) for key, value in foreign.items()]
    kept = {key: value for key, value in layer.values.items() if key not in foreign}
    return Layer(kept, (*layer.unread, *unread))


def _with_env_id(layer: Layer) -> Layer:
    said = layer.values.get(ENV_NAME)
    if said is None:
        return layer
    env_id = replace(said, value=resolve_env_name(said.value))
    return replace(layer, values={**layer.values, ENV_NAME: env_id})
