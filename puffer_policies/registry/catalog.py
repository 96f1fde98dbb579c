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
needs_previous = false
min_image_size = 0
override = true                     # replace a name on purpose; not in a package's manifest
[wrappers.MyWrapper]
target = "acme.nets:MyWrapper"      # with summary, paper, extra, defaults and override as above
requires = ["recurrent"]            # traits that must be below it,
forbids = ["masked"]                # that must not be,
provides = ["attention"]            # and that it adds
policy_arguments = ["critic"]       # arguments that are expressions of policies
[presets.my-preset]
policy = "LSTMWrapper(MyNet(hidden_size=512))"
[alias]
Net = "MyNet"
[deprecated]
OldNet = "MyNet"
[removed]
OlderNet = "its results could not be reproduced"
# in a user's or project's file only:
[envs]
"Corridor-v0" = "my_envs"           # the module that registers the env with gymnasium
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
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from puffer_policies.errors import BuildError, ConfigError
from puffer_policies.registry.fields import keyword_types, make_record, unknown_key, value_offence
from puffer_policies.registry.imports import module_offence
from puffer_policies.registry.names import (
    distribution_offence,
    name_offence,
    normalize,
    preset_name_offence,
    record_offences,
    reference_offence,
)
from puffer_policies.registry.records import (
    EnvModule,
    Kind,
    Layer,
    Pointer,
    Preset,
    Provenance,
    Record,
)
from puffer_policies.registry.registry import Registry
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.tomlfile import TomlFile, read_toml

# As gymnasium writes ids: namespace/Name-v0, the first and the last left out at will.
_ENV_ID = re.compile(r"(?:[\w-]+/)?[\w.-]+")

SCHEMA = 1
"""The format's version; a file with a higher one needs a newer puffer_policies."""

MAX_OFFENCES = 20
"""Errors of one file that are listed; the rest is counted."""

PointerKind = Literal["alias", "deprecated", "removed"]

_RECORD_TABLES: dict[str, Kind] = {"policies": "policy", "wrappers": "wrapper"}
_POINTER_TABLES: tuple[PointerKind, ...] = get_args(PointerKind)
_OWN_TABLES = ("envs", "resolve", "block", "require")
"""The tables of a user's or a project's file only."""
_TABLES = (*_RECORD_TABLES, "presets", *_POINTER_TABLES, *_OWN_TABLES)
_PRESET_TYPES = {"policy": str, "summary": str}
_BLOCK_TYPES = {"names": tuple, "distributions": tuple}


class Requirement(NamedTuple):
    """A version limit on a distribution."""

    distribution: str
    specifier: str
    origin: str

    def allows(self, version: str) -> bool:
        """Return whether an installed version is within the limit; pre-releases count."""
        # `packaging` is imported in functions: few files have limits, and its import takes as long
        # as reading all of them.
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion

        try:
            return SpecifierSet(self.specifier).contains(version, prereleases=True)
        except InvalidVersion:
            return False


class Choice(NamedTuple):
    """An entry of ``[resolve]`` or ``[block]``: the name or distribution, and its line."""

    table: Literal["resolve", "names", "distributions"]
    name: str
    distribution: str
    origin: str


@dataclass
class Catalog:
    """The content of one registry.toml, checked as far as the file alone allows."""

    records: list[Record] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)
    presets: list[Preset] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    envs: list[EnvModule] = field(default_factory=list)
    was_searched: bool = False
    """Whether a search has found the file, which the user may then know nothing of."""

    def add_to(self, registry: Registry) -> None:
        """Register everything but the version limits, which depend on what is installed."""
        for choice in self.choices:
            if choice.table == "resolve":
                registry.settle(choice.name, choice.distribution, origin=choice.origin)
            else:
                registry.block(**{choice.table: [choice.name]}, origin=choice.origin)
        for record in self.records:
            registry.add(record)
        for pointer in self.pointers:
            registry.alias(pointer)
        for preset in self.presets:
            registry.add_preset(preset)
        registry.envs.update({each.env_id: each for each in self.envs})


def read_catalog(
    path: str | os.PathLike[str], provenance: Provenance, *, search_path: str = ""
) -> Catalog:
    """Read a registry.toml whose owner is `provenance`; the origin of each record is its line.

    Raises:
        ConfigError: the file can't be read, or something in it is wrong; every offence is listed.
    """
    reader = _Reader(read_toml(path), provenance, search_path)
    catalog, offences = reader.read(), reader.offences
    if len(offences) == 1:
        raise ConfigError(f"{offences[0]}.")
    if offences:
        lines = [f"  {offence}" for offence in offences[:MAX_OFFENCES]]
        if len(offences) > MAX_OFFENCES:
            lines.append(f"  and {len(offences) - MAX_OFFENCES:,} more")
        count = f"{reader.file.path} has {len(offences):,} errors:"
        raise ConfigError("\n".join([count, *lines]))
    return catalog


class _Reader:
    """Fills a catalog from a file, and collects every offence with its line."""

    def __init__(self, file: TomlFile, provenance: Provenance, search_path: str) -> None:
        self.file = file
        self.provenance = provenance
        self.search_path = search_path
        self.catalog = Catalog()
        self.offences: list[str] = []

    def read(self) -> Catalog:
        """Read every table, or only the schema if that is not ours."""
        if self._check_top_level():
            for table_name, kind in _RECORD_TABLES.items():
                self._read_records(table_name, kind)
            self._read_presets()
            for pointer_kind in _POINTER_TABLES:
                self._read_pointers(pointer_kind)
            self._read_envs()
            self._read_resolve()
            self._read_block()
            self._read_require()
            self._check_unique()
        return self.catalog

    # -- the file as a whole ---------------------------------------------------------------------

    def _check_top_level(self) -> bool:
        schema = self.file.data.get("schema")
        # To Python, True equals 1.
        if schema != SCHEMA or isinstance(schema, bool):
            # A newer schema may mean anything by the other keys: do not judge them.
            self._offend(_schema_offence(schema), "schema")
            return False
        keys = ("schema", "distribution", *_TABLES)
        for key, value in self.file.data.items():
            if key not in keys:
                self._offend_unknown(key, keys, key)
            elif key == "distribution":
                self._offend(self._owner_offence(value), key)
            elif key in _TABLES and not isinstance(value, dict):
                self._offend(f"{key} {value_offence(value, dict)}", key)
            elif key in _OWN_TABLES and self.provenance.layer <= Layer.BUILTIN:
                # Installing a package must not change what other packages' names mean; for envs,
                # gymnasium has an entry point of its own.
                self._offend(
                    f"[{key}] is for a user's or a project's registry.toml, not for a package's",
                    key,
                )
        return True

    def _owner_offence(self, distribution: object) -> str:
        if offence := distribution_offence(distribution):
            return offence
        owner = self.provenance.distribution
        if self.provenance.layer <= Layer.BUILTIN and normalize(str(distribution)) != owner:
            return f"the manifest is of {distribution!r}, but {owner!r} is what installed it"
        return ""

    def _check_unique(self) -> None:
        """Refuse one name in two tables: they can't both be meant."""
        tables: dict[str, str] = {}
        for table in (*_RECORD_TABLES, *_POINTER_TABLES):
            for name in self._table(table):
                if name in tables:
                    self._offend(f"{name!r} is in [{tables[name]}] as well", table, name)
                tables[name] = table

    # -- names -----------------------------------------------------------------------------------

    def _read_records(self, table_name: str, kind: Kind) -> None:
        types = {"target": str, **keyword_types(kind)}
        for name, table in self._subtables(table_name, types):
            keys = (table_name, name)
            if "target" not in table:
                self._offend(f"{table_name}.{name} has no target", *keys)
                continue
            record = make_record(
                kind,
                {key: value for key, value in table.items() if key != "target"},
                name=name,
                target=table["target"],
                provenance=self._place(*keys),
                search_path=self.search_path,
            )
            # Each offence starts with the name of its field, so the line of that key is known.
            for offence in record_offences(record):
                self._offend(offence, *keys, offence.partition(":")[0])
            self.catalog.records.append(record)

    def _read_presets(self) -> None:
        for name, table in self._subtables("presets", _PRESET_TYPES):
            keys = ("presets", name)
            self._offend(preset_name_offence(name), *keys)
            if "policy" not in table:
                self._offend(f"presets.{name} has no policy", *keys)
                continue
            # The names inside are looked up when the preset is used: they may come from packages
            # that are read later.
            try:
                PolicySpec.parse(table["policy"])
            except BuildError as error:
                self._offend(error.problem.rstrip("."), *keys, "policy")
            self.catalog.presets.append(Preset(name=name, provenance=self._place(*keys), **table))

    def _read_pointers(self, kind: PointerKind) -> None:
        for name, text in self._texts(kind):
            self._offend(name_offence(name), kind, name)
            if kind != "removed":
                self._offend(reference_offence(text), kind, name)
            place = self._place(kind, name)
            self.catalog.pointers.append(Pointer(name=name, kind=kind, text=text, provenance=place))

    def _read_envs(self) -> None:
        for env_id, module in self._texts("envs"):
            if not _ENV_ID.fullmatch(env_id):
                self._offend(f"{env_id!r} is not the id of an env", "envs", env_id)
            self._offend(module_offence(module), "envs", env_id)
            self.catalog.envs.append(
                EnvModule(
                    env_id=env_id,
                    module=module,
                    provenance=self._place("envs", env_id),
                    search_path=self.search_path,
                )
            )

    # -- the user's rules ------------------------------------------------------------------------

    def _read_resolve(self) -> None:
        for name, text in self._texts("resolve"):
            distribution, slash, bare = text.partition("/")
            self._offend(name_offence(name), "resolve", name)
            self._offend(distribution_offence(distribution), "resolve", name)
            if slash and bare != name:
                self._offend(
                    f"{name} can only be settled for {distribution}/{name}, got {text!r}",
                    "resolve",
                    name,
                )
            origin = self.file.at("resolve", name)
            self.catalog.choices.append(Choice("resolve", name, distribution, origin))

    def _read_block(self) -> None:
        table = self._table("block")
        if not self._has_types(table, _BLOCK_TYPES, "block"):
            return
        for name in table.get("names", ()):
            self._offend(reference_offence(name), "block", "names")
            origin = self.file.at("block", "names")
            self.catalog.choices.append(Choice("names", name, "", origin))
        for name in table.get("distributions", ()):
            self._offend(distribution_offence(name), "block", "distributions")
            origin = self.file.at("block", "distributions")
            self.catalog.choices.append(Choice("distributions", name, "", origin))

    def _read_require(self) -> None:
        for name, specifier in self._texts("require"):
            self._offend(distribution_offence(name), "require", name)
            self._offend(_specifier_offence(specifier), "require", name)
            origin = self.file.at("require", name)
            self.catalog.requirements.append(Requirement(name, specifier, origin))

    # -- tables and their offences ---------------------------------------------------------------

    def _table(self, name: str) -> dict[str, Any]:
        """Return a top-level table; an empty one if there is none, or something else."""
        table = self.file.data.get(name, {})
        return table if isinstance(table, dict) else {}

    def _subtables(
        self, table_name: str, types: Mapping[str, type]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the sub-tables whose keys and types are right."""
        for name, table in self._table(table_name).items():
            if not isinstance(table, dict):
                self._offend(f"{table_name}.{name} {value_offence(table, dict)}", table_name, name)
            elif self._has_types(table, types, table_name, name):
                yield name, table

    def _texts(self, table_name: str) -> Iterator[tuple[str, str]]:
        """Yield the entries of a table of texts whose values are texts."""
        for name, text in self._table(table_name).items():
            if isinstance(text, str) and text.strip():
                yield name, text
            else:
                self._offend(
                    f"{table_name}.{name} should be some text, got {text!r}", table_name, name
                )

    def _has_types(self, table: Mapping[str, Any], types: Mapping[str, type], *keys: str) -> bool:
        """Compare a table's keys and types with `types`; return whether all are right."""
        count = len(self.offences)
        for key, value in table.items():
            if key not in types:
                self._offend_unknown(key, types, *keys, key)
            elif offence := value_offence(value, types[key]):
                self._offend(f"{'.'.join(keys)}.{key} {offence}", *keys, key)
        return len(self.offences) == count

    def _offend(self, offence: str, *keys: str) -> None:
        """Note an offence with the line of the table or key; an empty one is none."""
        if offence:
            self.offences.append(f"{self.file.at(*keys)}: {offence}")

    def _offend_unknown(self, key: str, valid: Iterable[str], *keys: str) -> None:
        # Near names are slow to find, so that those of a whole wrong file would take minutes.
        hint = unknown_key(key, valid) if len(self.offences) < MAX_OFFENCES else ""
        self._offend(f"unknown key {key!r}. {hint}".rstrip(". "), *keys)

    def _place(self, *keys: str) -> Provenance:
        return replace(self.provenance, origin=self.file.at(*keys))


def _schema_offence(schema: object) -> str:
    if schema is None:
        return f"the file has no schema; write `schema = {SCHEMA}` as its first line"
    if isinstance(schema, int) and schema > SCHEMA:
        return f"the file has schema {schema}, this puffer_policies reads {SCHEMA}: upgrade it"
    return f"schema should be {SCHEMA}, got {schema!r}"


def _specifier_offence(specifier: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(specifier)
    except InvalidSpecifier:
        return f"{specifier!r} is not a version limit such as '>=1.2,<2'"
    return ""
