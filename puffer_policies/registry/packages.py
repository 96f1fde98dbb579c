"""Finds the installed packages that offer policies, from their entry points; none is imported.

`importlib_metadata` reads the same, but importing it takes longer than all the rest of discovery,
it parses the entry points of every package, and one file that is not UTF-8 ends it. So it serves
only where the import path holds more than folders, such as an archive or somebody's own finder.
Among 200 packages of others, `list` takes 0.73 of the CPU time that it takes with the library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from puffer_policies.errors import PluginError, PolicyError
from puffer_policies.registry.names import BUILTIN, normalize
from puffer_policies.registry.plugins import Plugin
from puffer_policies.registry.records import (
    Layer,
    PolicyRecord,
    Pretrained,
    Provenance,
    Record,
    WrapperRecord,
)
from puffer_policies.registry.source import find_package

POLICIES = "puffer_policies.policies"
WRAPPERS = "puffer_policies.wrappers"
MANIFEST = "puffer_policies.manifest"
PLUGINS = "puffer_policies.plugins"
PRETRAINED = "puffer_policies.pretrained"
GROUPS = (MANIFEST, POLICIES, WRAPPERS, PLUGINS, PRETRAINED)

# "Object reference" in the entry points specification: module:attr [extra1, extra2].
_VALUE = re.compile(r"(?P<target>[^\[\]]*?)\s*(?:\[\s*(?P<extra>[^\],]*).*\])?\s*")
_FILE = re.compile(r"(?P<package>\w+(?:\.\w+)*)\s*:\s*(?P<file>[\w-]+(?:[./][\w-]+)*)")


# A line without '=' that is neither empty, a comment nor the head of a section; or one with the
# character that stands for bytes which are not UTF-8.
_BAD_LINE = re.compile(r"^(?!\s*(?:#|\[.*\]\s*$|$))[^=\n]*$|^.*\ufffd.*$", re.MULTILINE)

_ENDINGS = (".dist-info", ".egg-info")
_FINDERS_OF_FOLDERS = ("_frozen_importlib_external", "importlib_metadata")


class Distribution(Protocol):
    """An installed distribution; those of `importlib_metadata` are like this."""

    def read_text(self, filename: str) -> str | None:
        """Return the text of a file of its metadata, or None if there is none."""
        ...


class EntryPoint(NamedTuple):
    """A line ``name = value`` in the section ``[group]`` of an entry_points.txt."""

    group: str
    name: str
    value: str


class _Foreign:
    """A distribution that somebody's finder or an archive on the path offers."""

    def __init__(self, distribution: Any) -> None:
        self._distribution = distribution

    def read_text(self, filename: str) -> str | None:
        try:
            text: object = self._distribution.read_text(filename)
        except UnicodeDecodeError as error:
            return error.object.decode(error.encoding, errors="replace")
        except Exception:  # a damaged archive, or a finder that fails: as if there was no such file
            return None
        return text if isinstance(text, str) else None


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


@dataclass(slots=True)
class Package:
    """An installed distribution that offers policies."""

    distribution: str
    """The normalized name."""
    version: str
    entries: list[EntryPoint] = field(default_factory=list)

    def place(self, origin: str) -> Provenance:
        """Return the provenance of something that this package declares at `origin`."""
        return Provenance(
            layer=Layer.PLUGIN,
            distribution=self.distribution,
            version=self.version,
            origin=origin,
        )

    def values(self, group: str) -> list[EntryPoint]:
        """Return the entry points of one group, sorted by name."""
        return sorted((e for e in self.entries if e.group == group), key=lambda e: e.name)

    def records(self) -> list[Record]:
        """Return the policies and wrappers that entry points name."""
        policies = [self._record(PolicyRecord, entry) for entry in self.values(POLICIES)]
        return [*policies, *(self._record(WrapperRecord, each) for each in self.values(WRAPPERS))]

    def plugins(self) -> list[Plugin]:
        """Return the plug-ins that entry points name; none is imported."""
        return [
            Plugin(entry.name, _split(entry.value)[0], self.place(_origin(entry)))
            for entry in self.values(PLUGINS)
        ]

    def pretrained(self) -> list[Pretrained]:
        """Return the pretrained policies that entry points name."""
        return [
            Pretrained(name=each.name, target=each.value, provenance=self.place(_origin(each)))
            for each in self.values(PRETRAINED)
        ]

    def top_level(self) -> set[str]:
        """Return the top-level packages that the entry points lie in."""
        return {_top_level(entry) for entry in self.entries}

    def failure(self, error: PolicyError) -> PluginError:
        """Return `error` as this package's."""
        return PluginError(
            f"{self.distribution} {self.version}: {error.problem}",
            fix=error.fix,
            distribution=self.distribution,
            version=self.version,
        )

    def _record(self, make: type[Record], entry: EntryPoint) -> Record:
        target, extra = _split(entry.value)
        return make(
            name=entry.name, target=target, extra=extra, provenance=self.place(_origin(entry))
        )


def packages_with_policies(errors: list[PluginError] | None = None) -> list[Package]:
    """Return the packages that offer policies, sorted by name.

    Args:
        errors: takes an error for each distribution whose metadata is malformed.
    """
    packages: dict[str, Package] = {}
    for distribution in distributions().values():
        text = distribution.read_text("entry_points.txt") or ""
        if errors is not None and (error := _malformed(distribution, text)):
            errors.append(error)
        entries = [each for each in entry_points(text, "puffer_policies.") if each.group in GROUPS]
        if entries:
            name, version = _identity(distribution, entries[0])
            # The built-in names come from the shipped manifest, and have a layer of their own.
            if name != BUILTIN:
                packages.setdefault(name, Package(name, version)).entries.extend(entries)
    return [packages[name] for name in sorted(packages)]


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    installed = distributions().get(normalize(distribution))
    return None if installed is None else headers(installed).get("version", "")


def extras_of(distribution: str) -> dict[str, list[str]]:
    """Return the extras of an installed distribution, each with the distributions that it adds.

    Those are left out that need not be installed here, such as on another system.
    """
    # Imported here, as only `doctor` asks, and `list` would wait for it.
    from packaging.requirements import InvalidRequirement, Requirement

    installed = distributions().get(normalize(distribution))
    head = (installed.read_text("METADATA") or "").partition("\n\n")[0] if installed else ""
    pairs = [(key, value.strip()) for key, _, value in (x.partition(":") for x in head.split("\n"))]
    extras: dict[str, list[str]] = {value: [] for key, value in pairs if key == "Provides-Extra"}
    for requirement in (value for key, value in pairs if key == "Requires-Dist"):
        with suppress(InvalidRequirement):
            parsed = Requirement(requirement)
            for extra, names in extras.items():
                marker = parsed.marker
                if marker and "extra" in str(marker) and marker.evaluate({"extra": extra}):
                    names += _with_extras(parsed.name, parsed.extras, distribution)
    return extras


def _with_extras(name: str, extras: Iterable[str], owner: str) -> list[str]:
    """Return a required distribution with those of its extras, such as ``gymnasium[box2d]``."""
    own = normalize(name)
    # An extra may be a list of others of the same distribution, which are reported themselves.
    if own == normalize(owner):
        return []
    offered = extras_of(own) if extras else {}
    return [own, *(each for extra in sorted(extras) for each in offered.get(extra, ()))]


def package_file(value: str, kind: str, example: str) -> Path:
    """Return the file that an entry point such as ``acme.data:registry.toml`` names.

    Only the top-level package is looked for, which imports nothing.

    Args:
        value: that of the entry point.
        kind: what the file is.
        example: a value of the right form; the file must end as its file does.

    Raises:
        PluginError: the value is malformed, or there is no such package or file.
    """
    match = _FILE.fullmatch(value.strip())
    if match is None or Path(match["file"]).suffix != Path(example).suffix:
        raise PluginError(
            f"the {kind} entry point {value!r} can't be read.", fix=f"Write it as {example!r}."
        )
    top, *folders = match["package"].split(".")
    tried = [Path(place, *folders, match["file"]) for place in _folders(top)]
    for path in tried:
        if path.is_file():
            return path
    looked = ", ".join(map(str, tried)) or f"there is no package {top!r}"
    raise PluginError(
        f"the {kind} {value!r} was not found ({looked}).",
        fix="Is the file among the package's data?",
    )


def manifest_path(value: str) -> Path:
    """Return the file of a manifest; errors are those of `package_file`."""
    return package_file(value, "manifest", "package:registry.toml")


def pretrained_path(record: Pretrained) -> Path:
    """Return the checkpoint of a pretrained policy.

    Raises:
        PluginError: the package does not hold it.
    """
    try:
        return package_file(record.target, "checkpoint", "package:name.safetensors")
    except PluginError as error:
        place = record.provenance
        raise PluginError(
            f"{record.qualified_name} ({place.version}): {error.problem}",
            fix=error.fix,
            distribution=place.distribution,
            version=place.version,
        ) from error


def _folders(package: str) -> list[str]:
    spec = find_package(package)
    return list(spec.submodule_search_locations or ()) if spec else []


def _identity(distribution: Distribution, entry: EntryPoint) -> tuple[str, str]:
    """Return the normalized name and the version of a distribution."""
    values = headers(distribution)
    # An interrupted installation may have no metadata; then its top-level package is the name.
    return normalize(values.get("name") or _top_level(entry)), values.get("version", "")


def _top_level(entry: EntryPoint) -> str:
    return re.split(r"[.:\s\[]", entry.value.strip(), maxsplit=1)[0]


def _split(value: str) -> tuple[str, str]:
    """Split ``module:Class [extra]``."""
    match = _VALUE.fullmatch(value.strip())
    if match is None:
        return value, ""
    return re.sub(r"\s*:\s*", ":", match["target"]), (match["extra"] or "").strip()


def _origin(entry: EntryPoint) -> str:
    return f"entry point {entry.name!r} of [{entry.group}]"


# -- installed metadata --------------------------------------------------------------------------


def distributions() -> dict[str, Distribution]:
    """Return the installed distributions by normalized name; of two copies the first on the path.

    The names are those of files; `headers` has the name as it is written.
    """
    result = {} if _path_is_folders() else _distributions_by_library()
    # In the order of the path, so that the copy counts that Python would import. Python skips what
    # is not a string, such as a `Path` that a program has put there.
    for entry in dict.fromkeys(each for each in sys.path if isinstance(each, str)):
        for name in _listed(entry):
            if name.endswith(_ENDINGS):
                key = normalize(name.rpartition(".")[0].partition("-")[0])
                result.setdefault(key, _Folder(os.path.join(entry, name)))
    return result


def entry_points(text: str, prefix: str) -> Iterator[EntryPoint]:
    """Yield the entry points in groups that start with `prefix` from an entry_points.txt."""
    # Nearly every package ends here, unparsed: this is what keeps `list` fast among hundreds.
    if prefix not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif line and not line.startswith("#") and group.startswith(prefix):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.strip())


def _malformed(distribution: Distribution, text: str) -> PluginError | None:
    """Return the error of an entry_points.txt at which Python's own reader fails, or None.

    That reader parses the files of all packages, and so the first bad one ends whoever asks it.
    """
    match = _BAD_LINE.search(text)
    if match is None:
        return None
    values = headers(distribution)
    name, version = normalize(values.get("name", "")) or "a package", values.get("version", "")
    return PluginError(
        f"{name} {version}: its entry_points.txt has the line {match[0].strip()!r}, which is not "
        "'name = value' in UTF-8. Python's importlib.metadata fails at it, and with that whatever "
        "asks for entry points, such as torch.",
        fix=f"Repair or reinstall {name}.",
        distribution=name,
        version=version,
    )


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
    except (OSError, ValueError):
        return []  # the path names folders that do not exist, or can't be read


def _path_is_folders() -> bool:
    """Return whether listing the folders of the path finds every distribution."""
    finders = (f for f in sys.meta_path if hasattr(f, "find_distributions"))
    modules = {getattr(each, "__module__", "") for each in finders}
    entries = (entry for entry in sys.path if isinstance(entry, str))
    archives = (entry for entry in entries if entry.endswith(".egg") or os.path.isfile(entry))
    return modules.issubset(_FINDERS_OF_FOLDERS) and not any(archives)


def _distributions_by_library() -> dict[str, Distribution]:
    import importlib_metadata as metadata

    result: dict[str, Distribution] = {}
    # What lies in folders is added by the caller, also where somebody's finder fails.
    with suppress(Exception):
        for number, each in enumerate(map(_Foreign, metadata.distributions())):
            # An interrupted installation may have no metadata, and so no name; keep those apart.
            result.setdefault(normalize(headers(each).get("name") or f"?{number}"), each)
    return result
