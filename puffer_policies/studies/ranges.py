"""The values that a sweep may give to an option: a range or a choice, from a flag or a file.

In text, ``log:1e-4:1e-2`` is a range that is searched by factors, ``0.9:0.999`` one that is
searched evenly, and ``16,32,64`` a choice. Whole numbers at both ends stay whole in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puffer_policies.config.config import Config
from puffer_policies.config.load import SWEEP
from puffer_policies.config.schema import BaseConfig, EvalConfig
from puffer_policies.config.sources import command_line_source
from puffer_policies.errors import ConfigError
from puffer_policies.tomlfile import TomlFile, read_toml

GRAMMAR = "A range is log:LOW:HIGH or LOW:HIGH, a choice is A,B,C."
_FIXED = (BaseConfig.section, EvalConfig.section)
"""Sections whose options a sweep leaves alone: env, policy, and how results are measured."""


@dataclass(frozen=True, slots=True)
class SearchRange:
    """What may be tried for one option: between `low` and `high`, or one of `choices`."""

    key: str
    """``section.name``, such as ``train.learning_rate``."""
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    """Whether equal factors are equally likely, not equal distances."""
    choices: tuple[Any, ...] = ()

    @property
    def example(self) -> Any:
        """A value of the range."""
        return self.choices[0] if self.choices else self.low

    def suggest(self, trial: Any) -> Any:
        """Let an Optuna trial choose a value."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        if self.choices:
            return ",".join(map(str, self.choices))
        return f"{'log:' if self.log else ''}{self.low}:{self.high}"


def ranges_of_flags(flags: Iterable[str]) -> dict[str, SearchRange]:
    """Read flags such as ``train.learning-rate=log:1e-4:1e-2``, by key.

    Raises:
        ConfigError: a key that does not exist, with near ones; a range that is none; a value that
            the option does not take.
    """
    found = {}
    for flag in flags:
        written, has_range, text = flag.partition("=")
        if not has_range:
            raise ConfigError(f"--param {flag}: there is no range behind the key.", fix=GRAMMAR)
        each = parse_range(written.removeprefix("--"), text, shown=f"--param {flag}")
        found[each.key] = each
    return found


def ranges_of_file(path: Path | str) -> dict[str, SearchRange]:
    """Read the [sweep] section of a TOML file, by key; nothing if it has none.

    Under ``[sweep.train]`` stands ``learning_rate = "log:1e-4:1e-2"``, or a list of choices.

    Raises:
        ConfigError: as for flags, with ``path:line``.
    """
    file = read_toml(path)
    tables = file.data.get(SWEEP, {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{file.at(SWEEP)}: [{SWEEP}] should be a table, found {tables!r}.")
    ranges = (
        _of_toml(file, section, name, value)
        for section, table in tables.items()
        for name, value in _entries(file, section, table)
    )
    return {each.key: each for each in ranges}


def parse_range(key: str, text: str, *, shown: str) -> SearchRange:
    """Read the text of one range; `shown` is what errors call it."""
    log = text.startswith("log:")
    ends = text.removeprefix("log:").split(":")
    if len(ends) == 2:
        return _between(key, ends, log=log, shown=shown)
    choices = text.split(",")
    if log or len(ends) > 2 or len(choices) < 2:
        raise ConfigError(f"{shown}: {text!r} is no range.", fix=GRAMMAR)
    return _one_of(key, choices, shown=shown)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with other values, by ``section.name``.

    Raises:
        ConfigError: values that contradict each other.
    """
    args = config.to_args()
    for key, value in values.items():
        section, _, name = key.partition(".")
        args[section][name] = value
    return Config.from_args(args)


def _entries(file: TomlFile, section: str, table: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(table, Mapping):
        return table.items()
    raise ConfigError(
        f"{file.at(SWEEP, section)}: expected a table [{SWEEP}.{section}], found {table!r}.",
        fix=f'Write [{SWEEP}.train], and below it learning_rate = "log:1e-4:1e-2".',
    )


def _of_toml(file: TomlFile, section: str, name: str, value: Any) -> SearchRange:
    key, shown = f"{section}.{name}", f"{file.at(SWEEP, section, name)}: {section}.{name}"
    if isinstance(value, list) and len(value) > 1:
        return _one_of(key, list(map(str, value)), shown=shown)
    if isinstance(value, str):
        return parse_range(key, value, shown=shown)
    raise ConfigError(f"{shown}: {value!r} is no range.", fix=f"{GRAMMAR} Or a list.")


def _between(key: str, ends: list[str], *, log: bool, shown: str) -> SearchRange:
    option, (low, high) = _values(key, ends, shown=shown)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or low >= high or (log and low <= 0):
        above = " above 0" if log else ""
        raise ConfigError(
            f"{shown}: expected two numbers{above}, the smaller first, found {low!r} and {high!r}.",
            fix=GRAMMAR,
        )
    return SearchRange(option, low, high, log=log)


def _one_of(key: str, choices: list[str], *, shown: str) -> SearchRange:
    option, values = _values(key, choices, shown=shown)
    return SearchRange(option, choices=tuple(values))


def _values(key: str, texts: Iterable[str], *, shown: str) -> tuple[str, list[Any]]:
    """Read texts as values of an option, just as its flag on a command line is read."""
    flags = [f"--{key}={text}" for text in texts]
    try:
        read = [next(iter(command_line_source([flag]).values.items())) for flag in flags]
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error.problem}", fix=error.fix) from error
    section, name = read[0][0]
    if section in _FIXED:
        raise ConfigError(
            f"{shown}: a sweep leaves [{section}] alone.",
            fix="To try several policies, use puffer-policies compare.",
        )
    return f"{section}.{name}", [value.value for _, value in read]
