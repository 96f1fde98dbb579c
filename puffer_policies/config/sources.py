"""Layers of a config: what defaults, files and flags say, each value with its origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puffer_policies.config.flags import Flag, Key, meaning, near_flags, read_flags
from puffer_policies.config.ini import IniFile, reason_section_unread, reason_unread
from puffer_policies.config.schema import (
    FREE_SECTIONS,
    SECTIONS,
    BaseConfig,
    field_defaults,
    field_types,
    flag_of,
)
from puffer_policies.config.values import convert, parse_literal, with_none
from puffer_policies.errors import ConfigError, did_you_mean
from puffer_policies.tomlfile import TomlFile

ALL_SECTIONS = (*SECTIONS, *FREE_SECTIONS)

_OWNERS: dict[Key, str] = {
    ("base", "env_name"): "env",
    ("base", "policy_name"): "policy",
    ("base", "rnn_name"): "rnn",
}
"""Whose keyword arguments a section holds: new owners don't inherit them from a weaker layer."""

_SIZES: tuple[Key, ...] = (("rnn", "input_size"), ("rnn", "hidden_size"))
"""What a memory's arguments say of the policy inside it, as PufferLib's files do."""

COMMAND_LINE = "command line"
"""The origin of what a flag says."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it comes from: ``default``, ``path:line`` or ``command line``."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An entry of a file that has no effect here, and why."""

    key: str
    origin: str
    reason: str

    def __str__(self) -> str:
        end = "" if self.reason.endswith(("?", ".")) else "."
        return f"{self.origin}: {self.key} has no effect: {self.reason}{end}"


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """What one source says."""

    values: Mapping[Key, Value]
    unread: tuple[Unread, ...] = ()


class _Unknown(ValueError):
    """A section or key that does not exist."""


@dataclass(slots=True)
class _Reading:
    """A layer while it is read: all offences are collected and raised once."""

    allow_unknown: bool = False
    """Whether sections and keys that do not exist are kept as unread."""
    values: dict[Key, Value] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    offences: list[str] = field(default_factory=list)

    def put(self, key: Key, value: Any, *, origin: str, shown: str, is_text: bool) -> None:
        """Convert and keep one value; `shown` is what the user wrote for the key."""
        try:
            converted = _converted(key, value, is_text=is_text)
        except _Unknown as error:
            self.unknown(shown, origin, str(error))
        except ValueError as error:
            self.offend(f"{shown}: {error}", origin)
        else:
            self.values[key] = Value(converted, origin)

    def unknown(self, shown: str, origin: str, problem: str) -> None:
        """Keep a key that does not exist as unread where that is allowed, else as an offence."""
        if self.allow_unknown:
            self.unread.append(Unread(shown, origin, problem))
        else:
            self.offend(f"{shown}: {problem}", origin)

    def unknown_section(self, name: str, origin: str) -> None:
        """Keep a section that does not exist like a key."""
        if self.allow_unknown:
            self.unread.append(Unread(f"[{name}]", origin, _no_section(name)))
        else:
            self.offend(_no_section(name), origin)

    def offend(self, problem: str, origin: str) -> None:
        """Keep an offence, with its place where that is not the command line."""
        self.offences.append(problem if origin == COMMAND_LINE else f"{origin}: {problem}")

    def finish(self, fix: str) -> ConfigSource:
        """Return the layer, or raise every offence at once."""
        if self.offences:
            raise ConfigError("\n".join(self.offences), fix=fix)
        return ConfigSource(self.values, tuple(self.unread))


def default_source() -> ConfigSource:
    """Return the defaults of the schema."""
    return ConfigSource(
        {
            (name, key): Value(value, "default")
            for name, cls in SECTIONS.items()
            for key, value in field_defaults(cls).items()
        }
    )


def toml_source(
    file: TomlFile,
    tables: Mapping[str, Any],
    *,
    prefix: Sequence[str] = (),
    skip: Iterable[str] = (),
    allow_unknown: bool = False,
) -> ConfigSource:
    """Return what the `tables` of a TOML file say; `prefix` is where in the file they stand.

    Args:
        file: knows the lines.
        tables: sections by name.
        prefix: keys of the table that holds `tables`.
        skip: keys beside the sections that somebody else reads.
        allow_unknown: keep unknown sections and keys as `Unread`.

    Raises:
        ConfigError: unknown sections and keys, and wrong values, each with ``path:line``.
    """
    reading = _Reading(allow_unknown)
    for section, table in tables.items():
        if section in skip:
            continue
        where = file.at(*prefix, section)
        if not isinstance(table, dict):
            _refuse_loose(reading, section, table, where)
        elif section not in ALL_SECTIONS:
            reading.unknown_section(section, where)
        else:
            origins = {key: file.at(*prefix, section, key) for key in table}
            said = with_none(table) if section in FREE_SECTIONS else table
            _read_table(reading, section, said, origins)
    return reading.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def _refuse_loose(reading: _Reading, name: str, value: Any, where: str) -> None:
    if name in ALL_SECTIONS:
        reading.offend(f"[{name}] should be a table, found {value!r}.", where)
    else:
        reading.unknown(name, where, f"a key stands under a [section]. {_near_key(name, '')}")


def _read_table(
    reading: _Reading, section: str, table: Mapping[str, Any], origins: Mapping[str, str]
) -> None:
    for key, value in table.items():
        shown = f"{section}.{key}"
        reading.put((section, key), value, origin=origins[key], shown=shown, is_text=False)


def ini_source(file: IniFile, *, allow_unknown: bool = False) -> ConfigSource:
    """Return what a PufferLib .ini file says. Its entries without effect are kept as `Unread`.

    Raises:
        ConfigError: sections and keys that neither PufferLib nor we know, unless `allow_unknown`
            keeps those as `Unread`, too; and wrong values.
    """
    reading = _Reading(allow_unknown)
    for section, table in file.data.items():
        if reason := reason_section_unread(section):
            reading.unread.append(Unread(f"[{section}]", file.at(section), reason))
        elif section not in ALL_SECTIONS:
            reading.unknown_section(section, file.at(section))
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


def args_source(
    args: Mapping[str, Any], *, origin: str, allow_unknown: bool = False
) -> ConfigSource:
    """Return what a nested dict of `Config.to_args` says, such as a run's config.json.

    Raises:
        ConfigError: unknown sections and keys, and wrong values, each with `origin`.
    """
    reading = _Reading(allow_unknown)
    base = {key: value for key, value in args.items() if key in field_types(BaseConfig)}
    for section, table in {**args, BaseConfig.section: base}.items():
        if section in base:
            continue
        if not isinstance(table, dict):
            _refuse_loose(reading, section, table, origin)
        elif section not in ALL_SECTIONS:
            reading.unknown_section(section, origin)
        else:
            _read_table(reading, section, table, dict.fromkeys(table, origin))
    return reading.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def command_line_source(overrides: Sequence[str]) -> ConfigSource:
    """Return what flags such as ``--train.learning-rate 3e-4`` and ``--policy-name=X`` say.

    Raises:
        ConfigError: unknown flags, flags without a value, and wrong values.
    """
    reading = _Reading()
    flags, loose = read_flags(overrides)
    for word in loose:
        reading.offences.append(f"{word!r}: expected a flag, such as --train.learning-rate.")
    for flag in flags:
        _read_flag(reading, flag)
    return reading.finish(
        "Flags are --section.key VALUE; those of [base] need no section. Arguments of the env, "
        "the policy and the wrapper are --env.KEY, --policy.KEY and --rnn.KEY."
    )


def _read_flag(reading: _Reading, flag: Flag) -> None:
    try:
        key, text = meaning(flag)
    except ValueError as error:
        reading.offences.append(f"{flag.written}: {error}")
        return
    section, name = key
    if section == BaseConfig.section and name not in field_types(BaseConfig):
        reading.offences.append(f"{flag.written}: no such option. {_near_key(name, '')}".rstrip())
    else:
        reading.put(key, text, origin=COMMAND_LINE, shown=flag.written, is_text=True)


def _converted(key: Key, value: Any, *, is_text: bool) -> Any:
    section, name = key
    if section in FREE_SECTIONS:
        if not name.isidentifier():
            raise ValueError("expected the name of a keyword argument.")
        return parse_literal(value) if is_text else value
    if section not in SECTIONS:
        raise _Unknown(_no_section(section))
    types = field_types(SECTIONS[section])
    if name not in types:
        raise _Unknown(f"no such key in [{section}]. {_near_key(name, section)}".rstrip())
    return convert(value, types[name])


def _near_key(name: str, section: str) -> str:
    """Return a hint at the same key in another section or else at the nearest key in this one."""
    homes = [each for each, cls in SECTIONS.items() if name in field_types(cls)]
    if homes:
        return f"It is a key of [{homes[0]}]: {flag_of(homes[0], name)}."
    near = did_you_mean(name, field_types(SECTIONS[section])) if section in SECTIONS else ""
    return near or near_flags(name)


def _no_section(name: str) -> str:
    return f"there is no section [{name}]. {did_you_mean(name, ALL_SECTIONS)}".rstrip()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"[{each}]" for each in names)


def merge(sources: Iterable[ConfigSource]) -> dict[Key, Value]:
    """Lay the sources over each other, weakest first.

    A source that names another policy, wrapper or env drops the keyword arguments that weaker
    sources gave to the former one: they were written for its constructor. With a policy go its
    widths, too, which a memory finds out by itself.
    """
    merged: dict[Key, Value] = {}
    for source in sources:
        changed = {section for owner, section in _OWNERS.items() if _differs(merged, source, owner)}
        gone = _SIZES if "policy" in changed else ()
        merged = {
            key: value for key, value in merged.items() if key[0] not in changed and key not in gone
        }
        merged.update(source.values)
    return merged


def _differs(merged: Mapping[Key, Value], source: ConfigSource, key: Key) -> bool:
    before, now = merged.get(key), source.values.get(key)
    return before is not None and now is not None and before.value != now.value
