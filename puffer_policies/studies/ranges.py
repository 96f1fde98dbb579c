"""Ranges of the options that a sweep searches, from flags or a file.

``log:1e-4:1e-2`` is a range with a logarithmic scale, ``0.9:0.999`` one with a linear scale, and
``16,32,64`` a choice. If both ends of a range are whole numbers, so are the values in between.
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
"""Sections that a sweep can't search, as they decide what is trained and how it is measured."""


@dataclass(frozen=True, slots=True)
class SearchRange:
    """The values that a sweep may try for an option: from `low` to `high`, or one of `choices`."""

    key: str
    """``section.name``, such as ``train.learning_rate``."""
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    """Whether the scale is logarithmic, so that equal factors are equally likely."""
    choices: tuple[Any, ...] = ()

    @property
    def example(self) -> Any:
        """A value from the range."""
        return self.choices[0] if self.choices else self.low

    def suggest(self, trial: Any) -> Any:
        """Return a value that an Optuna trial proposes."""
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
        ConfigError: the key does not exist, the text is not a range, or the option does not accept
            a value of it.
    """
    ranges = {}
    for flag in flags:
        key, has_range, text = flag.partition("=")
        if not has_range:
            raise ConfigError(f"--param {flag}: there is no range after the key.", fix=GRAMMAR)
        each = parse_range(key.removeprefix("--"), text, label=f"--param {flag}")
        ranges[each.key] = each
    return ranges


def ranges_of_file(path: Path | str) -> dict[str, SearchRange]:
    """Read the ranges in the [sweep] section of a TOML file, by key.

    ``[sweep.train]`` may hold ``learning_rate = "log:1e-4:1e-2"``, or a list of choices.

    Raises:
        ConfigError: as for flags, with ``path:line``.
    """
    file = read_toml(path)
    tables = file.data.get(SWEEP, {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{file.at(SWEEP)}: [{SWEEP}] must be a table, found {tables!r}.")
    ranges = (
        _of_toml(file, section, name, value)
        for section, table in tables.items()
        for name, value in _entries(file, section, table)
    )
    return {each.key: each for each in ranges}


def parse_range(key: str, text: str, *, label: str) -> SearchRange:
    """Read the text of a range; `label` names it in errors."""
    log = text.startswith("log:")
    ends = text.removeprefix("log:").split(":")
    if len(ends) == 2:
        return _between(key, ends, log=log, label=label)
    choices = text.split(",")
    if log or len(ends) > 2 or len(choices) < 2:
        raise ConfigError(f"{label}: {text!r} is not a range.", fix=GRAMMAR)
    return _one_of(key, choices, label=label)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with other values, by ``section.name``.

    Raises:
        ConfigError: values that contradict each other.
    """
    # By way of plain data, so that the values are checked like those of a file.
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
    key, label = f"{section}.{name}", f"{file.at(SWEEP, section, name)}: {section}.{name}"
    if isinstance(value, list) and len(value) > 1:
        return _one_of(key, list(map(str, value)), label=label)
    if isinstance(value, str):
        return parse_range(key, value, label=label)
    raise ConfigError(f"{label}: {value!r} is not a range.", fix=f"{GRAMMAR} Or a list.")


def _between(key: str, ends: list[str], *, log: bool, label: str) -> SearchRange:
    option, (low, high) = _values(key, ends, label=label)
    # bool is an int to Python, but false:true is not a range.
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or low >= high or (log and low <= 0):
        above = " above 0" if log else ""
        raise ConfigError(
            f"{label}: expected two numbers{above}, the smaller first, found {low!r} and {high!r}.",
            fix=GRAMMAR,
        )
    return SearchRange(option, low, high, log=log)


def _one_of(key: str, choices: list[str], *, label: str) -> SearchRange:
    option, values = _values(key, choices, label=label)
    return SearchRange(option, choices=tuple(values))


def _values(key: str, texts: Iterable[str], *, label: str) -> tuple[str, list[Any]]:
    """Convert texts to values of an option, as its flag on the command line does."""
    # The same reader as for flags, so that a sweep can't try values that training refuses.
    flags = [f"--{key}={text}" for text in texts]
    try:
        pairs = [next(iter(command_line_source([flag]).values.items())) for flag in flags]
    except ConfigError as error:
        raise ConfigError(f"{label}: {error.problem}", fix=error.fix) from error
    section, name = pairs[0][0]
    if section in _FIXED:
        raise ConfigError(
            f"{label}: a sweep can't search [{section}].",
            fix="To try several policies, use puffer-policies compare.",
        )
    return f"{section}.{name}", [value.value for _, value in pairs]
