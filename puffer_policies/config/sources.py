"""The sources of a config: defaults, files and flags, each value with its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from puffer_policies.config.flags import Flag, Key, meaning, near_flags, read_flags
from puffer_policies.config.ini import IniFile, reason_ignored, reason_section_ignored
from puffer_policies.config.schema import (
    FREE_SECTIONS,
    OTHER_NAMES,
    SECTIONS,
    BaseConfig,
    field_defaults,
    field_types,
    flag_of,
)
from puffer_policies.config.values import argument, convert, parse_literal, with_none
from puffer_policies.errors import MAX_PROBLEMS, ConfigError, did_you_mean, joined, short
from puffer_policies.tomlfile import TomlFile

ALL_SECTIONS = (*SECTIONS, *FREE_SECTIONS)

_OWNERS: dict[Key, str] = {
    ("base", "env_name"): "env",
    ("base", "policy_name"): "policy",
    ("base", "rnn_name"): "rnn",
}
"""Key of a name -> section of its keyword arguments, which are dropped when the name changes."""

_SIZES: tuple[Key, ...] = (("rnn", "input_size"), ("rnn", "hidden_size"))
"""Arguments of a memory that depend on the policy inside it; PufferLib's files set them."""

COMMAND_LINE = "command line"
"""The origin of a flag's value."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it comes from: ``default``, ``path:line`` or ``command line``."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class IgnoredEntry:
    """An entry of a file that has no effect here, and why."""

    key: str
    origin: str
    reason: str

    def __str__(self) -> str:
        end = "" if self.reason.endswith(("?", ".")) else "."
        return f"{self.origin}: {self.key} has no effect: {self.reason}{end}"


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """The values of one config source, with their origins."""

    values: Mapping[Key, Value]
    ignored: tuple[IgnoredEntry, ...] = ()


class _Unknown(ValueError):
    """A section or key that does not exist; `hint` finds its near names, which is slow."""

    def __init__(self, problem: str, hint: Callable[[], str]) -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(slots=True)
class _Collector:
    """Collects the values of a source, and all problems in it, which are raised together."""

    allow_unknown: bool = False
    """Whether unknown sections and keys are ignored, with a warning, instead of refused."""
    values: dict[Key, Value] = field(default_factory=dict)
    ignored: list[IgnoredEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _hints: int = 0
    _is_form_wrong: bool = False
    """Whether the form of names or flags is wrong, and not only values."""

    def add(self, key: Key, value: Any, *, origin: str, label: str, is_text: bool) -> None:
        """Convert and add one value; `label` is what the user wrote for the key."""
        try:
            converted = _converted(key, value, is_text=is_text)
        except _Unknown as error:
            self.add_unknown(label, origin, error)
        except ValueError as error:
            self.add_problem(f"{label}: {error}", origin)
        else:
            self.values[key] = Value(converted, origin)

    def add_unknown(self, label: str, origin: str, error: _Unknown) -> None:
        """Add an unknown key as ignored where that is allowed, else as a problem."""
        self._add_unknown(label, origin, f"{label}: ", error)

    def add_unknown_section(self, name: str, origin: str) -> None:
        """Add an unknown section as `add_unknown` does a key."""
        self._add_unknown(f"[{name}]", origin, "", _no_section(name))

    def _add_unknown(self, label: str, origin: str, start: str, error: _Unknown) -> None:
        self._hints += 1
        # A file can have thousands of unknown keys, and a hint takes milliseconds.
        hint = error.hint() if self._hints <= MAX_PROBLEMS else ""
        problem = f"{error} {hint}".rstrip()
        if self.allow_unknown:
            self.ignored.append(IgnoredEntry(label, origin, problem))
        else:
            self.add_wrong_form(f"{start}{problem}", origin)

    def add_wrong_form(self, problem: str, origin: str) -> None:
        """Add a problem that is cured by other names or another form, which the fix describes."""
        self._is_form_wrong = True
        self.add_problem(problem, origin)

    def add_problem(self, problem: str, origin: str) -> None:
        """Add a problem, with its place unless that is the command line."""
        # Flags name themselves in the problem, so a place would repeat it.
        self.problems.append(problem if origin == COMMAND_LINE else f"{origin}: {problem}")

    def finish(self, fix: str) -> ConfigSource:
        """Return the source, or raise all problems at once; `fix` describes names and forms."""
        if self.problems:
            raise ConfigError(joined(self.problems), fix=fix if self._is_form_wrong else "")
        return ConfigSource(self.values, tuple(self.ignored))


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
    """Return the values in `tables` of a TOML file.

    Args:
        file: the file, which knows the line of each key.
        tables: sections by name.
        prefix: keys of the table in the file that holds `tables`.
        skip: keys beside the sections that are read elsewhere.
        allow_unknown: ignore unknown sections and keys instead of refusing them.

    Raises:
        ConfigError: unknown sections and keys, and wrong values, each with ``path:line``.
    """
    collector = _Collector(allow_unknown)
    for section, table in tables.items():
        if section in skip:
            continue
        where = file.at(*prefix, section)
        if not isinstance(table, dict):
            _refuse_loose(collector, section, table, where)
        elif section not in ALL_SECTIONS:
            collector.add_unknown_section(section, where)
        else:
            origins = {key: file.at(*prefix, section, key) for key in table}
            # Typed sections convert "None" by their annotation; free ones have none to go by.
            values = with_none(table) if section in FREE_SECTIONS else table
            _read_table(collector, section, values, origins)
    return collector.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def _refuse_loose(collector: _Collector, name: str, value: Any, where: str) -> None:
    if name in ALL_SECTIONS:
        collector.add_wrong_form(f"[{name}] must be a table, found {short(value)}.", where)
    else:
        problem = "a key must be under a [section]."
        collector.add_unknown(name, where, _Unknown(problem, partial(_near_key, name, "")))


def _read_table(
    collector: _Collector, section: str, table: Mapping[str, Any], origins: Mapping[str, str]
) -> None:
    for key, value in table.items():
        label = f"{section}.{key}"
        collector.add((section, key), value, origin=origins[key], label=label, is_text=False)


def ini_source(file: IniFile, *, allow_unknown: bool = False) -> ConfigSource:
    """Return the values of a PufferLib .ini file; entries without effect here are `ignored`.

    Raises:
        ConfigError: wrong values; and sections and keys that neither PufferLib nor we know, unless
            `allow_unknown` lets them be ignored, too.
    """
    collector = _Collector(allow_unknown)
    for section, table in file.data.items():
        if reason := reason_section_ignored(section):
            collector.ignored.append(IgnoredEntry(f"[{section}]", file.at(section), reason))
        elif section not in ALL_SECTIONS:
            collector.add_unknown_section(section, file.at(section))
        else:
            _read_ini_section(collector, file, section, table)
    return collector.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def _read_ini_section(
    collector: _Collector, file: IniFile, section: str, table: Mapping[str, str]
) -> None:
    for key, text in table.items():
        origin, label = file.at(section, key), f"{section}.{key}"
        if reason := reason_ignored(section, key, text):
            collector.ignored.append(IgnoredEntry(label, origin, reason))
        else:
            collector.add((section, key), text, origin=origin, label=label, is_text=True)


def args_source(
    args: Mapping[str, Any], *, origin: str, allow_unknown: bool = False
) -> ConfigSource:
    """Return the values of a nested dict as `Config.to_args` makes it, such as a run's config.json.

    Raises:
        ConfigError: unknown sections and keys, and wrong values, each with `origin`.
    """
    collector = _Collector(allow_unknown)
    # PufferLib's nested dict keeps the keys of [base] at the top.
    base = {key: value for key, value in args.items() if key in field_types(BaseConfig)}
    for section, table in {**args, BaseConfig.section: base}.items():
        if section in base:
            continue
        if not isinstance(table, dict):
            _refuse_loose(collector, section, table, origin)
        elif section not in ALL_SECTIONS:
            collector.add_unknown_section(section, origin)
        else:
            _read_table(collector, section, table, dict.fromkeys(table, origin))
    return collector.finish(f"Sections are {_listed(ALL_SECTIONS)}.")


def command_line_source(overrides: Sequence[str]) -> ConfigSource:
    """Return the values of flags such as ``--train.learning-rate 3e-4`` and ``--policy-name=X``.

    Raises:
        ConfigError: unknown flags, flags without a value, and wrong values.
    """
    collector = _Collector()
    # A loose word is usually a value whose flag was forgotten, or a second config.
    flags, loose = read_flags(overrides)
    for word in loose:
        problem = f"{word!r}: expected a flag, such as --train.learning-rate."
        collector.add_wrong_form(problem, COMMAND_LINE)
    for flag in flags:
        _read_flag(collector, flag)
    return collector.finish(
        "Flags are --section.key VALUE; those of [base] need no section. Arguments of the env, "
        "the policy and the wrapper are --env.KEY, --policy.KEY and --rnn.KEY."
    )


def _read_flag(collector: _Collector, flag: Flag) -> None:
    try:
        key, text = meaning(flag)
    except ValueError as error:
        collector.add_wrong_form(f"{flag.name}: {error}", COMMAND_LINE)
        return
    section, name = key
    if section == BaseConfig.section and name not in field_types(BaseConfig):
        unknown = _Unknown("no such option.", partial(_near_key, name, ""))
        collector.add_unknown(flag.name, COMMAND_LINE, unknown)
    else:
        collector.add(key, text, origin=COMMAND_LINE, label=flag.name, is_text=True)


def _converted(key: Key, value: Any, *, is_text: bool) -> Any:
    section, name = key
    if section in FREE_SECTIONS:
        return argument(name, parse_literal(value) if is_text else value)
    if section not in SECTIONS:
        raise _no_section(section)
    types = field_types(SECTIONS[section])
    if name not in types:
        raise _Unknown(f"no such key in [{section}].", partial(_near_key, name, section))
    return convert(value, types[name])


def _near_key(name: str, section: str) -> str:
    """Return a hint at the same key in another section, or else at the nearest key in this one."""
    # A key in the wrong section is a more common mistake than a misspelled one.
    homes = [each for each, cls in SECTIONS.items() if name in field_types(cls)]
    if homes:
        return f"It is a key of [{homes[0]}]: {flag_of(homes[0], name)}."
    if name in OTHER_NAMES:
        return f"Did you mean {flag_of(*OTHER_NAMES[name])!r}?"
    near = did_you_mean(name, field_types(SECTIONS[section])) if section in SECTIONS else ""
    return near or near_flags(name)


def _no_section(name: str) -> _Unknown:
    return _Unknown(f"there is no section [{name}].", partial(did_you_mean, name, ALL_SECTIONS))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"[{each}]" for each in names)


def merge(sources: Iterable[ConfigSource]) -> dict[Key, Value]:
    """Merge sources, weakest first: a later value replaces an earlier one.

    A source that names another policy, wrapper or env also drops the keyword arguments that weaker
    sources gave to the former one, as they were written for its constructor. A new policy also
    drops the widths of the memory around it, which the memory reads from the policy.
    """
    merged: dict[Key, Value] = {}
    for source in sources:
        # Compared with what is merged so far: naming the same policy again keeps its arguments.
        changed = {section for owner, section in _OWNERS.items() if _differs(merged, source, owner)}
        sizes = _SIZES if "policy" in changed else ()
        merged = {
            key: value
            for key, value in merged.items()
            if key[0] not in changed and key not in sizes
        }
        merged.update(source.values)
    return merged


def _differs(merged: Mapping[Key, Value], source: ConfigSource, key: Key) -> bool:
    before, now = merged.get(key), source.values.get(key)
    return before is not None and now is not None and before.value != now.value
