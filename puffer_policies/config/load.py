"""`load_config`: from the name of a config, a file or an env id to a `Config`."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from puffer_policies.config.flags import Key
from puffer_policies.config.ini import read_ini
from puffer_policies.config.layers import (
    Layer,
    Unread,
    Value,
    args_layer,
    command_line_layer,
    default_layer,
    ini_layer,
    toml_layer,
)
from puffer_policies.config.merging import merge
from puffer_policies.config.presets import find_shipped, resolve_env_name, shipped_configs
from puffer_policies.config.resolved import Config
from puffer_policies.errors import ConfigError, did_you_mean
from puffer_policies.tomlfile import read_toml

ENV_NAME: Key = ("base", "env_name")

_ENV_VERSION = re.compile(r"-v\d+$")

FILE_TYPES = (".toml", ".ini")

CONFIG_FILE = "config.json"
"""What a run's folder calls its config, as `Config.to_args` gives it."""


SWEEP = "sweep"
"""The section of a file that says which values a sweep tries; it is no part of a config."""

COMPLETE = "complete"
"""Key of a TOML file that says everything: no shipped config is laid under it."""


ASKED = "the name asked for"
"""The origin of an env's id that stands for its config: there is no shipped one."""


class ConfigWarning(UserWarning):
    """Entries of a file that have no effect here."""


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
    flags = command_line_layer(overrides)
    is_file = path.suffix in FILE_TYPES
    layers = _file_layers(name, flags, allow_unknown) if is_file else _named_layers(name)
    unread = _warned(layers)
    named = [_with_env_id(each) for each in (*layers, flags)]
    return Config.from_values(merge([default_layer(), *named]), unread)


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
    flags = command_line_layer(overrides)
    path = Path(folder)
    path = path if path.suffix == ".json" else path / CONFIG_FILE
    saved = args_layer(_read_args(path, folder), origin=str(path), allow_unknown=allow_unknown)
    unread = _warned([saved])
    return Config.from_values(merge([default_layer(), saved, _with_env_id(flags)]), unread)


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


def _warned(layers: Sequence[Layer]) -> tuple[Unread, ...]:
    """Warn of the entries that have no effect, and return them."""
    unread = tuple(entry for layer in layers for entry in layer.unread)
    if unread:
        warnings.warn("\n".join(str(each) for each in unread), ConfigWarning, stacklevel=3)
    return unread


def _named_layers(name: str) -> list[Layer]:
    shipped = find_shipped(name)
    if shipped is None and Path(name).is_file():
        raise ConfigError(
            f"{name} is a file, but no config: those end in {', '.join(FILE_TYPES)} or .json.",
            fix="puffer-policies show-config NAME > run.toml writes one.",
        )
    return [shipped.layer if shipped else Layer({ENV_NAME: Value(name, ASKED)})]


def _file_layers(name: str, flags: Layer, allow_unknown: bool) -> list[Layer]:
    """Return the file's layer, on top of the shipped config of its env if there is one."""
    layer, is_complete = _read_layer(Path(name), allow_unknown)
    chosen = flags.values.get(ENV_NAME) or layer.values.get(ENV_NAME)
    if chosen is None:
        raise ConfigError(f"{name} names no env.", fix="Give base.env_name or --env-name.")
    layer = _one_env(layer, chosen.value)
    shipped = None if is_complete else find_shipped(chosen.value)
    if shipped is None:
        return [layer]
    # A bare name in a PufferLib file is PufferLib's own env, of which ours is the namesake.
    is_namesake = Path(name).suffix == ".ini" and chosen.value != shipped.env_name
    if is_namesake or chosen.value.startswith("puffer_"):
        layer = _for_our_env(layer, shipped.env_name)
    return [shipped.layer, layer]


def _read_layer(path: Path, allow_unknown: bool) -> tuple[Layer, bool]:
    """Return what a file says, and whether it says everything."""
    if not path.is_file() and (near := did_you_mean(path.stem, shipped_configs())):
        raise ConfigError(f"There is no file {path}.", fix=f"{near} That is a config by name.")
    if path.suffix == ".ini":
        return ini_layer(read_ini(path), allow_unknown=allow_unknown), False
    file = read_toml(path)
    complete = file.data.get(COMPLETE, False)
    if not isinstance(complete, bool):
        raise ConfigError(
            f"{file.at(COMPLETE)}: {COMPLETE}: expected true or false, found {complete!r}."
        )
    layer = toml_layer(file, file.data, skip=(COMPLETE, SWEEP), allow_unknown=allow_unknown)
    return layer, complete


def _one_env(layer: Layer, chosen: str) -> Layer:
    """PufferLib's files may serve several envs; keep the chosen one, and [env] with it."""
    said = layer.values.get(ENV_NAME)
    names = said.value.split() if said else []
    if said is None or chosen not in (*names, said.value):
        return layer
    if chosen not in names:
        raise ConfigError(
            f"{said.origin}: base.env_name has {len(names)} names: {', '.join(names)}.",
            fix="Choose one with --env-name.",
        )
    return replace(layer, values={**layer.values, ENV_NAME: replace(said, value=chosen)})


def _for_our_env(layer: Layer, env_id: str) -> Layer:
    """Set aside [env] where our env serves for PufferLib's own: the arguments are the other's."""
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
