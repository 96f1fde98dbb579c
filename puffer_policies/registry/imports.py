"""Imports of modules that register envs and policies, each by the user's own consent.

The consent is ``--import MODULE`` on the command line, or a line under ``[envs]`` of a
registry.toml that the user wrote or trusts. No name in a config, a checkpoint or a run imports
anything.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from puffer_policies.errors import ConfigError, PluginError, PolicyError, did_you_mean
from puffer_policies.foreign import error_text, foreign_import
from puffer_policies.registry.records import EnvModule

_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_modules: list[str] = []
"""The modules that were imported here; of the process, as what they register is, too."""


def module_offence(name: object) -> str:
    """Say what is wrong with the name of a module, or return ''."""
    if isinstance(name, str) and _MODULE.fullmatch(name):
        return ""
    return f"{name!r} is not the name of a module, such as my_envs or acme.envs"


def user_imports() -> tuple[str, ...]:
    """Return the modules that this process imported by the user's consent, in order."""
    return tuple(_modules)


def import_module(name: str) -> None:
    """Import the module of ``--import``: one from the path, or from the working folder.

    Raises:
        ConfigError: there is no such module.
        PluginError: importing it failed.
    """
    # As the path of a file, my_envs.py also looks like a module inside a package my_envs.
    stem = name.removesuffix(".py").replace("/", ".").strip(".")
    if stem != name or module_offence(name):
        hint = "" if module_offence(stem) else f"Write --import {stem}."
        raise ConfigError(f"--import: {name!r} is not the name of a module.", fix=hint)
    _import(name, folder=os.getcwd(), place=f"--import {name}")


def import_env_module(entry: EnvModule) -> None:
    """Import the module that a registry file names for an env.

    Raises:
        TrustError: the file is neither the user's own nor trusted.
        ConfigError: there is no such module.
        PluginError: importing it failed.
    """
    entry.provenance.require_consent(entry.env_id, entry.search_path)
    _import(entry.module, folder=entry.search_path, place=entry.provenance.origin)


def _import(name: str, *, folder: str, place: str) -> None:
    if folder not in sys.path:
        # Last, so that a file there never shadows an installed package. It stays on the path, as
        # gymnasium imports the entry point of an env when one is made, and worker processes do.
        sys.path.append(folder)
    with foreign_import(f"importing {name} ({place})", partial(_failure, name, folder, place)):
        module = importlib.import_module(name)
    _require_place(name, module, folder, place)
    if name not in _modules:
        _modules.append(name)


def _failure(name: str, folder: str, place: str, error: BaseException) -> PolicyError:
    if isinstance(error, ModuleNotFoundError):
        missing = str(error.name)
        if name == missing or name.startswith(f"{missing}."):
            return ConfigError(
                f"{place}: there is no module {missing!r} on Python's path or in {folder}.",
                fix=did_you_mean(name, _modules_in(folder)),
            )
    return PluginError(
        f"Importing {name!r} ({place}) failed: {error_text(error)}", fix="--traceback shows where."
    )


def _require_place(name: str, module: Any, folder: str, place: str) -> None:
    """Refuse a namesake of a module that lies in the folder, such as the standard library's."""
    top = name.partition(".")[0]
    own = (Path(folder, f"{top}.py"), Path(folder, top, "__init__.py"))
    actual = getattr(module, "__file__", None)
    if actual is None or not any(path.is_file() for path in own):
        return
    if not Path(os.path.realpath(actual)).is_relative_to(os.path.realpath(folder)):
        raise PluginError(
            f"{place}: {name!r} is {actual}, and not the module in {folder}.",
            fix="Rename yours: a module that is installed comes first.",
        )


def _modules_in(folder: str) -> Iterator[str]:
    try:
        for path in Path(folder).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                yield path.stem
    except OSError:
        return
