"""Finds the installed packages that offer policies, from their entry points; none is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from puffer_policies.errors import PluginError, PolicyError
from puffer_policies.registry.metadata import (
    Distribution,
    EntryPoint,
    distributions,
    entry_points,
    headers,
)
from puffer_policies.registry.names import BUILTIN, normalize
from puffer_policies.registry.plugins import Plugin
from puffer_policies.registry.records import Layer, PolicyRecord, Provenance, Record, WrapperRecord
from puffer_policies.registry.source import find_package

POLICIES = "puffer_policies.policies"
WRAPPERS = "puffer_policies.wrappers"
MANIFEST = "puffer_policies.manifest"
PLUGINS = "puffer_policies.plugins"
GROUPS = (MANIFEST, POLICIES, WRAPPERS, PLUGINS)

_VALUE = re.compile(r"(?P<target>[^\[\]]*?)\s*(?:\[\s*(?P<extra>[^\],]*).*\])?\s*")
_MANIFEST = re.compile(r"(?P<package>\w+(?:\.\w+)*)\s*:\s*(?P<file>[\w-]+(?:[./][\w-]+)*\.toml)")


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


def packages_with_policies() -> list[Package]:
    """Return the packages that offer policies, sorted by name."""
    packages: dict[str, Package] = {}
    for distribution in distributions().values():
        entries = [e for e in entry_points(distribution, "puffer_policies.") if e.group in GROUPS]
        if entries:
            name, version = _identity(distribution, entries[0])
            if name != BUILTIN:
                packages.setdefault(name, Package(name, version)).entries.extend(entries)
    return [packages[name] for name in sorted(packages)]


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    installed = distributions().get(normalize(distribution))
    return None if installed is None else headers(installed).get("version", "")


def manifest_path(value: str) -> Path:
    """Return the file that a manifest entry point such as ``acme.data:registry.toml`` names.

    Only the top-level package is looked for, which imports nothing.

    Raises:
        PluginError: the value is malformed, or there is no such package or file.
    """
    match = _MANIFEST.fullmatch(value.strip())
    if match is None:
        raise PluginError(
            f"the manifest entry point {value!r} can't be read.",
            fix="Write it as 'package:registry.toml'.",
        )
    top, *folders = match["package"].split(".")
    tried = [Path(place, *folders, match["file"]) for place in _folders(top)]
    for path in tried:
        if path.is_file():
            return path
    looked = ", ".join(map(str, tried)) or f"there is no package {top!r}"
    raise PluginError(
        f"the manifest {value!r} was not found ({looked}).",
        fix="Is the file among the package's data?",
    )


def _folders(package: str) -> list[str]:
    spec = find_package(package)
    return list(spec.submodule_search_locations or ()) if spec else []


def _identity(distribution: Distribution, entry: EntryPoint) -> tuple[str, str]:
    """Return the normalized name and the version of a distribution."""
    values = headers(distribution)
    # Without metadata (an installation that broke off), its top-level package stands in.
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
