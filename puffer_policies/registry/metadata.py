"""Reads the metadata of installed distributions from its files: names, versions, entry points.

`importlib.metadata` does the same, but importing it takes longer than all the rest of discovery,
and it parses the entry points of every stranger. So it is used only where the import path holds
more than folders, such as an archive or somebody's own finder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from puffer_policies.registry.names import normalize

_ENDINGS = (".dist-info", ".egg-info")
_FINDERS_OF_FOLDERS = ("_frozen_importlib_external", "importlib_metadata")


class Distribution(Protocol):
    """An installed distribution; those of `importlib.metadata` are like this."""

    def read_text(self, filename: str) -> str | None:
        """Return the text of a file of its metadata, or None if there is none."""
        ...


class EntryPoint(NamedTuple):
    """A line ``name = value`` in the section ``[group]`` of an entry_points.txt."""

    group: str
    name: str
    value: str


class _Folder:
    """A distribution whose metadata lies in a folder."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read_text(self, filename: str) -> str | None:
        try:
            # Bytes that are not UTF-8 must not keep the other distributions from being read.
            with open(os.path.join(self._path, filename), encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return None


def distributions() -> dict[str, Distribution]:
    """Return the installed distributions by normalized name; of two copies the first on the path.

    The names are those of files; `headers` has the name as it is written.
    """
    if not _path_is_folders():
        return _distributions_by_library()
    result: dict[str, Distribution] = {}
    for entry in dict.fromkeys(sys.path):
        for name in _listed(entry):
            if name.endswith(_ENDINGS):
                key = normalize(name.rpartition(".")[0].partition("-")[0])
                result.setdefault(key, _Folder(os.path.join(entry, name)))
    return result


def entry_points(distribution: Distribution, prefix: str) -> Iterator[EntryPoint]:
    """Yield the entry points of one distribution in groups that start with `prefix`."""
    text = distribution.read_text("entry_points.txt") or ""
    if prefix not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif line and not line.startswith("#") and group.startswith(prefix):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.strip())


def headers(distribution: Distribution) -> dict[str, str]:
    """Return the head of a distribution's metadata, keys in lower case.

    Ten times faster than the parser of e-mail in the library, its import not counted.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    values: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.lower(), value.strip())
    return values


def _listed(entry: str) -> list[str]:
    try:
        return os.listdir(entry or ".")
    except OSError:
        return []  # the path names folders that do not exist, or can't be read


def _path_is_folders() -> bool:
    """Return whether listing the folders of the path finds every distribution."""
    finders = (f for f in sys.meta_path if hasattr(f, "find_distributions"))
    modules = {getattr(each, "__module__", "") for each in finders}
    archives = (entry for entry in sys.path if entry.endswith(".egg") or os.path.isfile(entry))
    return modules.issubset(_FINDERS_OF_FOLDERS) and not any(archives)


def _distributions_by_library() -> dict[str, Distribution]:
    from importlib import metadata

    result: dict[str, Distribution] = {}
    for number, each in enumerate(metadata.distributions()):
        # Without metadata (an installation that broke off) there is no name; keep them apart.
        result.setdefault(normalize(headers(each).get("name") or f"?{number}"), each)
    return result
