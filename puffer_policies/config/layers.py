"""Layers of a config: values with their origins, from files and flags, merged weakest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puffer_policies.config.ini import IniFile
from puffer_policies.config.pufferlib import UNREAD_SECTIONS, reason_unread
from puffer_policies.config.schema import (
    FREE_SECTIONS,
    SECTIONS,
    field_defaults,
    field_types,
    flag_of,
)
from puffer_policies.config.values import convert, parse_literal
from puffer_policies.errors import ConfigError, did_you_mean
from puffer_policies.tomlfile import TomlFile

Key = tuple[str, str]
"""Section and name of an option."""

ALL_SECTIONS = (*SECTIONS, *FREE_SECTIONS)

_OWNERS: dict[Key, str] = {
    ("base", "env_name"): "env",
    ("base", "policy_name"): "policy",
    ("base", "rnn_name"): "rnn",
}
"""Whose keyword arguments a section holds: new owners don't inherit them from a weaker layer."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it comes from: ``default``, ``path:line`` or ``command line``."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An entry of a PufferLib file that has no effect here, and why."""

    key: str
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.key} has no effect: {self.reason}."


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says."""

    values: Mapping[Key, Value]
    unread: tuple[Unread, ...] = ()


@dataclass(slots=True)
class _Reading:
    """A layer while it is read: all offences are collected and raised once."""

    values: dict[Key, Value] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    offences: list[str] = field(default_factory=list)

    def put(self, key: Key, value: Any, *, origin: str, shown: str, is_text: bool) -> None:
        """Convert and keep one value; `shown` is what the user wrote for the key."""
        try:
            converted = _converted(key, value, is_text=is_text)
        except ValueError as error:
            place = "" if origin == "command line" else f"{origin}: "
            self.offences.append(f"{place}{shown}: {error}")
        else:
            self.values[key] = Value(converted, origin)

    def finish(self, fix: str) -> Layer:
        """Return the layer, or raise every offence at once."""
        if self.offences:
            raise ConfigError("\n".join(self.offences), fix=fix)
        return Layer(self.values, tuple(self.unread))


def default_layer() -> Layer:
    """Return the defaults of the schema."""
    return Layer(
        {
            (name, key): Value(value, "default")
            for name, cls in SECTIONS.items()
            for key, value in field_defaults(cls).items()
        }
    )


def toml_layer(
    file: TomlFile,
    tables: Mapping[str, Any],
    *,
    prefix: Sequence[str] = (),
    skip: Iterable[str] = (),
) -> Layer:
    """Return what the `tables` of a TOML file say; `prefix` is where in the file they stand.

    Raises:
        ConfigError: unknown sections and keys, and wrong values, each with ``path:line``.
    """
    reading = _Reading()
    for section, table in tables.items():
        if section in skip:
            continue
        where = file.at(*prefix, section)
        if section in ALL_SECTIONS and not isinstance(table, dict):
            reading.offences.append(f"{where}: [{section}] should be a table, found {table!r}.")
            continue
        if section not in ALL_SECTIONS:
            reading.offences.append(f"{where}: {_no_section(section)}")
            continue
        for key, value in table.items():
            origin = file.at(*prefix, section, key)
            shown = f"{section}.{key}"
            reading.put((section, key), value, origin=origin, shown=shown, is_text=False)
    return reading.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def ini_layer(file: IniFile) -> Layer:
    """Return what a PufferLib .ini file says. Its entries without effect are kept as `Unread`.

    Raises:
        ConfigError: sections and keys that neither PufferLib nor we know, and wrong values.
    """
    reading = _Reading()
    for section, table in file.data.items():
        if reason := UNREAD_SECTIONS.get(section.partition(".")[0], ""):
            reading.unread.append(Unread(f"[{section}]", file.at(section), reason))
        elif section not in ALL_SECTIONS:
            reading.offences.append(f"{file.at(section)}: {_no_section(section)}")
        else:
            _read_ini_section(reading, file, section, table)
    return reading.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def _read_ini_section(
    reading: _Reading, file: IniFile, section: str, table: Mapping[str, str]
) -> None:
    for key, text in table.items():
        origin, shown = file.at(section, key), f"{section}.{key}"
        if reason := reason_unread(section, key, text):
            reading.unread.append(Unread(shown, origin, reason))
        else:
            reading.put((section, key), text, origin=origin, shown=shown, is_text=True)


def args_layer(args: Mapping[str, Any], *, origin: str) -> Layer:
    """Return what a nested dict of `Config.to_args` says."""
    tables = {section: args[section] for section in ALL_SECTIONS if section in args}
    tables["base"] = {key: args[key] for key in field_types(SECTIONS["base"]) if key in args}
    return Layer(
        {
            (section, key): Value(value, origin)
            for section, table in tables.items()
            for key, value in table.items()
        }
    )


def command_line_layer(overrides: Sequence[str]) -> Layer:
    """Return what flags such as ``--train.learning-rate 3e-4`` and ``--policy-name=X`` say.

    Raises:
        ConfigError: unknown flags, flags without a value, and wrong values.
    """
    reading = _Reading()
    words = iter(overrides)
    for word in words:
        flag, has_value, text = word.partition("=")
        if not flag.startswith("--"):
            reading.offences.append(f"{word!r}: expected a flag, such as --train.learning-rate.")
            continue
        value = text if has_value else next(words, None)
        if value is None:
            reading.offences.append(f"{flag}: expected a value after it.")
            continue
        reading.put(_key_of(flag), value, origin="command line", shown=flag, is_text=True)
    return reading.finish("Flags are --section.key VALUE; those of [base] need no section.")


def merge(layers: Iterable[Layer]) -> dict[Key, Value]:
    """Lay the layers over each other, weakest first.

    A layer that names another policy, wrapper or env drops the keyword arguments that weaker layers
    gave to the former one: they were written for its constructor.
    """
    merged: dict[Key, Value] = {}
    for layer in layers:
        changed = {section for owner, section in _OWNERS.items() if _differs(merged, layer, owner)}
        merged = {key: value for key, value in merged.items() if key[0] not in changed}
        merged.update(layer.values)
    return merged


def _differs(merged: Mapping[Key, Value], layer: Layer, key: Key) -> bool:
    before, now = merged.get(key), layer.values.get(key)
    return before is not None and now is not None and before.value != now.value


def _key_of(flag: str) -> Key:
    section, dot, key = flag.removeprefix("--").replace("-", "_").partition(".")
    return (section, key) if dot else ("base", section)


def _converted(key: Key, value: Any, *, is_text: bool) -> Any:
    section, name = key
    if section in FREE_SECTIONS:
        if not name.isidentifier():
            raise ValueError("expected the name of a keyword argument.")
        return parse_literal(value) if is_text else value
    if section not in SECTIONS:
        raise ValueError(_no_section(section))
    types = field_types(SECTIONS[section])
    if name not in types:
        raise ValueError(f"no such key in [{section}]. {_near_key(name, section)}".rstrip())
    return convert(value, types[name])


def _near_key(name: str, section: str) -> str:
    """Return a hint at the same key in another section or else at the nearest key in this one."""
    homes = [each for each, cls in SECTIONS.items() if name in field_types(cls)]
    if homes:
        return f"It is a key of [{homes[0]}]: {flag_of(homes[0], name)}."
    return did_you_mean(name, field_types(SECTIONS[section]))


def _no_section(name: str) -> str:
    return f"there is no section [{name}]. {did_you_mean(name, ALL_SECTIONS)}".rstrip()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"[{each}]" for each in names)
