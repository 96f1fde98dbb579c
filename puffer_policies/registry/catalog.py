"""Reads registry.toml files into records; every offence of a file is reported at once, by line.

```toml
schema = 1
[policies.MyNet]
target = "acme.nets:MyNet"          # required; the other keys are optional
summary = "..."
paper = "https://..."
extra = "torch-extras"              # the extra of the package that brings its imports
defaults = {hidden_size = 256}
observations = ["vector", "image"]  # kinds it reads; without the key, any
actions = ["discrete"]
recurrent = false
needs_mask = false
min_image_size = 0
override = true                     # replace a name on purpose; not in a package's manifest
[wrappers.MyWrapper]
target = "acme.nets:MyWrapper"      # with summary, paper, extra, defaults and override as above
requires = ["recurrent"]            # traits that must be below it,
forbids = ["masked"]                # that must not be,
provides = ["attention"]            # and that it adds
[presets.my-preset]
policy = "LSTMWrapper(MyNet(hidden_size=512))"
[alias]
Net = "MyNet"
[deprecated]
OldNet = "MyNet"
[removed]
OlderNet = "its results could not be reproduced"
# in a user's or project's file only:
[resolve]
Conv = "acme-nets"
[block]
names = ["Conv"]
distributions = ["bad-nets"]
[require]
acme-nets = ">=1.2"
```
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from puffer_policies.errors import BuildError, ConfigError
from puffer_policies.registry.manifest import Catalog, Choice, Requirement, specifier_offence
from puffer_policies.registry.names import (
    distribution_offence,
    name_offence,
    normalise,
    preset_name_offence,
    record_offences,
    reference_offence,
)
from puffer_policies.registry.records import (
    Capabilities,
    Layer,
    Pointer,
    PolicyRecord,
    Preset,
    Provenance,
    Record,
    WrapperRecord,
)
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.registry.tables import TableChecker
from puffer_policies.tomlfile import read_toml

SCHEMA = 1
"""The format's version; a file with a higher one needs a newer puffer_policies."""

_COMMON = {
    "target": str,
    "summary": str,
    "paper": str,
    "extra": str,
    "defaults": dict,
    "override": bool,
}
_CAPABILITIES = {
    "observations": list,
    "actions": list,
    "recurrent": bool,
    "needs_mask": bool,
    "min_image_size": int,
}
_TRAITS = {"requires": list, "forbids": list, "provides": list}
_KEYS: dict[str, dict[str, type]] = {
    "policies": _COMMON | _CAPABILITIES,
    "wrappers": _COMMON | _TRAITS,
    "presets": {"policy": str, "summary": str},
    "block": {"names": list, "distributions": list},
}
_TABLES = (*_KEYS, "alias", "deprecated", "removed", "resolve", "require")
_OF_USERS = ("resolve", "block", "require")


def read_catalog(
    path: str | os.PathLike[str], provenance: Provenance, *, search_path: str = ""
) -> Catalog:
    """Read a registry.toml; `provenance` says whose it is, each record's origin is its line.

    Raises:
        ConfigError: the file can't be read, or says something wrong; every offence is listed.
    """
    check = TableChecker(read_toml(path))
    catalog = _Reader(check, provenance, search_path).read()
    if check.offences:
        raise _offended(check)
    return catalog


def _offended(check: TableChecker) -> ConfigError:
    found = check.offences
    if len(found) == 1:
        return ConfigError(f"{found[0]}.")
    listed = "\n".join(f"  {offence}" for offence in found)
    return ConfigError(f"{check.file.path} has {len(found)} errors:\n{listed}")


@dataclass(slots=True)
class _Reader:
    """Collects what a file says, and what is wrong with it."""

    check: TableChecker
    provenance: Provenance
    search_path: str
    catalog: Catalog = field(default_factory=Catalog)

    def read(self) -> Catalog:
        if self._top_level():
            for name, table in self._entries("policies"):
                self._policy(name, table)
            for name, table in self._entries("wrappers"):
                self._wrapper(name, table)
            for name, table in self._entries("presets"):
                self._preset(name, table)
            for kind, table_name in _POINTERS.items():
                self._pointers(kind, table_name)
            self._resolve()
            self._block()
            self._require()
            self._unique()
        return self.catalog

    # -- the file as a whole ---------------------------------------------------------------------

    def _top_level(self) -> bool:
        schema = self.check.file.data.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):
            self.check.offend(_schema_offence(schema), "schema")
            return False
        known = ("schema", "distribution", *_TABLES)
        for key, value in self.check.file.data.items():
            if key not in known:
                self.check.unknown(key, known, key)
            elif key == "distribution":
                self.check.offend_if(self._distribution_offence(value), key)
            elif key in _TABLES and not isinstance(value, dict):
                self.check.offend(f"{key} should be a table, got {value!r}", key)
            elif key in _OF_USERS and self.provenance.layer <= Layer.BUILTIN:
                self.check.offend(
                    f"[{key}] is for a user's or a project's registry.toml, not for a package's",
                    key,
                )
        return True

    def _distribution_offence(self, said: object) -> str:
        if offence := distribution_offence(said):
            return offence
        owner = self.provenance.distribution
        if self.provenance.layer <= Layer.BUILTIN and normalise(str(said)) != owner:
            return f"the manifest says it is of {said!r}, but {owner!r} is what installed it"
        return ""

    def _unique(self) -> None:
        """Refuse one name in two tables: both can't be meant."""
        tables: dict[str, str] = {}
        for table in ("policies", "wrappers", *_POINTERS.values()):
            for name in self.check.table(table):
                if name in tables:
                    self.check.offend(f"{name!r} stands in [{tables[name]}] too", table, name)
                tables[name] = table

    def _entries(self, table_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the sub-tables whose keys and types are right."""
        for name, table in self.check.table(table_name).items():
            if not isinstance(table, dict):
                self.check.offend(
                    f"{table_name}.{name} should be a table, got {table!r}", table_name, name
                )
            elif self.check.typed(table, _KEYS[table_name], table_name, name):
                yield name, table

    def _place(self, *keys: str) -> Provenance:
        return replace(self.provenance, origin=self.check.file.at(*keys))

    # -- names -----------------------------------------------------------------------------------

    def _policy(self, name: str, table: dict[str, Any]) -> None:
        abilities = {key: _frozen(table.pop(key)) for key in _CAPABILITIES if key in table}
        self._record(PolicyRecord, "policies", name, table, capabilities=Capabilities(**abilities))

    def _wrapper(self, name: str, table: dict[str, Any]) -> None:
        traits = {key: _frozen(table.pop(key)) for key in _TRAITS if key in table}
        self._record(WrapperRecord, "wrappers", name, table, **traits)

    def _record(
        self,
        make: Callable[..., Record],
        table_name: str,
        name: str,
        table: dict[str, Any],
        **more: Any,
    ) -> None:
        if "target" not in table:
            self.check.offend(f"{table_name}.{name} has no target", table_name, name)
            return
        place = self._place(table_name, name)
        record = make(name=name, provenance=place, search_path=self.search_path, **table, **more)
        for offence in record_offences(record):
            self.check.offend(offence, table_name, name, offence.partition(":")[0])
        self.catalog.records.append(record)

    def _preset(self, name: str, table: dict[str, Any]) -> None:
        keys = ("presets", name)
        if offence := preset_name_offence(name):
            self.check.offend(offence, *keys)
        if "policy" not in table:
            self.check.offend(f"presets.{name} has no policy", *keys)
            return
        try:
            PolicySpec.parse(table["policy"])
        except BuildError as error:
            self.check.offend(error.problem.rstrip("."), *keys, "policy")
        self.catalog.presets.append(Preset(name=name, provenance=self._place(*keys), **table))

    def _pointers(self, kind: Literal["alias", "deprecated", "removed"], table_name: str) -> None:
        for name, text in self.check.strings(table_name):
            self.check.offend_if(name_offence(name), table_name, name)
            if kind != "removed":
                self.check.offend_if(reference_offence(text), table_name, name)
            place = self._place(table_name, name)
            pointer = Pointer(name=name, kind=kind, text=text, provenance=place)
            self.catalog.pointers.append(pointer)

    # -- the user's rules ------------------------------------------------------------------------

    def _resolve(self) -> None:
        for name, text in self.check.strings("resolve"):
            distribution, slash, chosen = text.partition("/")
            self.check.offend_if(name_offence(name), "resolve", name)
            self.check.offend_if(distribution_offence(distribution), "resolve", name)
            if slash and chosen != name:
                wanted = f"{name} can only be settled for {distribution}/{name}, got {text!r}"
                self.check.offend(wanted, "resolve", name)
            origin = self.check.file.at("resolve", name)
            self.catalog.choices.append(Choice("resolve", name, distribution, origin))

    def _block(self) -> None:
        table = self.check.table("block")
        if not self.check.typed(table, _KEYS["block"], "block"):
            return
        for name in table.get("names", ()):
            self.check.offend_if(reference_offence(name), "block", "names")
            self.catalog.choices.append(
                Choice("names", name, "", self.check.file.at("block", "names"))
            )
        for name in table.get("distributions", ()):
            self.check.offend_if(distribution_offence(name), "block", "distributions")
            origin = self.check.file.at("block", "distributions")
            self.catalog.choices.append(Choice("distributions", name, "", origin))

    def _require(self) -> None:
        for name, specifier in self.check.strings("require"):
            self.check.offend_if(distribution_offence(name), "require", name)
            self.check.offend_if(specifier_offence(specifier), "require", name)
            origin = self.check.file.at("require", name)
            self.catalog.requirements.append(Requirement(name, specifier, origin))


_POINTERS: dict[Literal["alias", "deprecated", "removed"], str] = {
    "alias": "alias",
    "deprecated": "deprecated",
    "removed": "removed",
}


def _schema_offence(schema: object) -> str:
    if schema is None:
        return f"the file has no schema; write `schema = {SCHEMA}` as its first line"
    if isinstance(schema, int) and schema > SCHEMA:
        return f"the file has schema {schema}, this puffer_policies reads {SCHEMA}: upgrade it"
    return f"schema should be {SCHEMA}, got {schema!r}"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
