"""Whose code a registry.toml may run: the user's own, and what the user has consented to.

A file that discovery finds from the working folder may have come with a download, or lie in a
folder that everybody writes to. Its names are data and listed like all others. Its code is imported
only if the file is the user's own, or if the user has trusted it once: by ``puffer-policies trust
PATH``, which is remembered, or by the variable ``PUFFER_POLICIES_TRUST``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from puffer_policies.errors import ConfigError
from puffer_policies.files import is_in_run, replace_file

FILE_NAME = "registry.toml"
STORE_NAME = "trusted.json"
TRUST_VARIABLE = "PUFFER_POLICIES_TRUST"


def config_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the user's own folder for settings; None where no variable leads to one."""
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    if not os.path.isabs(base):
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".config")
    return Path(base, "puffer_policies")


def distrust_of(path: Path, environ: Mapping[str, str]) -> str:
    """Say why code of a registry file must not run without consent, or return ''."""
    try:
        reason = _foreign(path)
        return reason if reason and not _is_trusted(path, environ) else ""
    except OSError as error:
        return f"the owner of {path} is unknown: {error}"


def _foreign(path: Path) -> str:
    """Say why a file is not the user's own, or return ''."""
    if is_in_run(path.parent):
        return f"{path.parent} belongs to a run, which may come from somebody else"
    if not hasattr(os, "geteuid"):
        return ""  # Windows: the owner of a file is not a number that can be compared
    for place in (path, path.parent):
        status = place.stat()
        if status.st_uid != os.geteuid():
            return f"{place} belongs to {owner_text(status.st_uid)}, not to you"
        if status.st_mode & stat.S_IWOTH:
            return f"everybody on this machine may write to {place}"
    return ""


def _is_trusted(path: Path, environ: Mapping[str, str]) -> bool:
    key = os.path.realpath(path)
    entries = environ.get(TRUST_VARIABLE, "").split(os.pathsep)
    from_variable = {os.path.realpath(os.path.expanduser(e)) for e in entries if e.strip()}
    if {key, os.path.dirname(key)} & from_variable:
        return True
    # A file that has changed hands since then is another's.
    return read_trusted(environ).owners.get(key) == os.stat(key).st_uid


@dataclass(frozen=True, slots=True)
class Trusted:
    """The registry files that the user has trusted, as the store holds them."""

    store: Path | None
    """The file of the store; None where the user has no folder for settings."""
    owners: dict[str, int] = field(default_factory=dict)
    """Real path of a registry file -> the number of the user who owned it when it was trusted."""
    problem: str = ""
    """Why the store, or a part of it, can't be read; what can't be read counts as not trusted."""


def read_trusted(environ: Mapping[str, str]) -> Trusted:
    """Read the store. A broken one trusts nothing, and stops no command."""
    folder = config_folder(environ)
    if folder is None:
        return Trusted(None)
    store = folder / STORE_NAME
    try:
        data = json.loads(store.read_text(encoding="utf-8"))
        # To Python, True is an int as well.
        owners = {path: owner for path, owner in data.items() if type(owner) is int}
    except FileNotFoundError:
        return Trusted(store)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return Trusted(store, problem=f"{store} can't be read: {error}.")
    return Trusted(store, owners)


def trust(path: str | os.PathLike[str], environ: Mapping[str, str]) -> Path:
    """Remember that a registry file, or that in a folder, may run its code; return its real path.

    Raises:
        ConfigError: there is no such file, or the store can't be written.
    """
    file = _registry_file(path)
    if not file.is_file():
        raise ConfigError(
            f"There is no file {file}.", fix=f"Give a {FILE_NAME}, or the folder that holds it."
        )
    owners = read_trusted(environ).owners
    _write(environ, {**owners, str(file): file.stat().st_uid})
    return file


def forget(path: str | os.PathLike[str], environ: Mapping[str, str]) -> Path:
    """Take back what `trust` remembered, also of a file that is gone; return its path.

    Raises:
        ConfigError: it was not trusted, or the store can't be written.
    """
    file, owners = _registry_file(path), read_trusted(environ).owners
    key = str(file) if str(file) in owners else os.path.realpath(path)
    if key not in owners:
        raise ConfigError(
            f"{file} is not among the files that you have trusted.",
            fix="puffer-policies trust --list shows them.",
        )
    _write(environ, {each: owner for each, owner in owners.items() if each != key})
    return Path(key)


def owner_text(number: int) -> str:
    """Return the name of a user, or the number where it has none."""
    try:
        import pwd  # Windows does not have it

        return f"user {pwd.getpwuid(number).pw_name!r}"
    except (ImportError, KeyError):
        return f"user {number}"


def _registry_file(path: str | os.PathLike[str]) -> Path:
    real = Path(os.path.realpath(os.path.expanduser(path)))
    return real / FILE_NAME if real.is_dir() else real


def _write(environ: Mapping[str, str], owners: Mapping[str, int]) -> None:
    store = read_trusted(environ).store
    if store is None:
        raise ConfigError(
            "Your folder for settings is unknown, as HOME is not set.",
            fix=f"Set HOME, or name the file in {TRUST_VARIABLE}.",
        )
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        replace_file(store, f"{json.dumps(dict(sorted(owners.items())), indent=2)}\n".encode())
    except OSError as error:
        raise ConfigError(
            f"{store} can't be written: {error}.",
            fix=f"Name the file in {TRUST_VARIABLE} instead.",
        ) from error
