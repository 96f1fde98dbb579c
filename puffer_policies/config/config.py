"""A run's `Config`, whose values are checked and have an origin, and its text as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puffer_policies.config.flags import Key
from puffer_policies.config.schema import (
    FREE_SECTIONS,
    SECTIONS,
    BaseConfig,
    EvalConfig,
    LogConfig,
    TrainConfig,
    VecConfig,
)
from puffer_policies.config.sources import IgnoredEntry, Value
from puffer_policies.config.values import argument
from puffer_policies.errors import ConfigError, did_you_mean, joined, short

COMPLETE = "complete"
"""Key of a TOML file that holds every value, so that no shipped config is merged with it."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASE_KEYS = ("package", "env_name", "policy_name", "rnn_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The sections of a run's config, and the origin of each value."""

    base: BaseConfig
    vec: VecConfig = field(default_factory=VecConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)
    env: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the env."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the policy."""
    rnn: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the wrapper."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """``section.key`` -> ``default``, ``path:line`` or ``command line``."""
    ignored: tuple[IgnoredEntry, ...] = field(default=(), compare=False)
    """Entries of files that have no effect here, with the reason."""

    def __post_init__(self) -> None:
        offences = []
        for name in FREE_SECTIONS:
            arguments, problems = _plain_arguments(name, getattr(self, name))
            object.__setattr__(self, name, arguments)  # the dataclass is frozen
            offences += problems
        if offences:
            raise ConfigError(joined(offences))
        # Checked here and not in a section, because it concerns two of them.
        if self.base.rnn_name is not None and self.train.use_rnn is False:
            raise ConfigError(
                f"train.use_rnn is False, but base.rnn_name is {self.base.rnn_name!r}.",
                fix="Leave train.use_rnn out, or set --rnn-name None.",
            )

    @classmethod
    def from_values(
        cls, values: Mapping[Key, Value], ignored: tuple[IgnoredEntry, ...] = ()
    ) -> Config:
        """Build from the values of merged sources.

        Raises:
            ConfigError: a value is missing or wrong, or values contradict each other.
        """
        tables: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *FREE_SECTIONS)}
        for (section, key), each in values.items():
            tables[section][key] = each.value
        origins = {f"{section}.{key}": each.origin for (section, key), each in values.items()}
        return cls(**_sections(tables), origins=origins, ignored=ignored)

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Config:
        """Build from PufferLib's nested dict, as `to_args` makes it and callers change it.

        Raises:
            ConfigError: unknown keys and wrong values.
        """
        if not isinstance(args, Mapping):
            raise ConfigError(f"args: expected a table, found {short(args)}.")
        # PufferLib keeps the values of [base] at the top, beside the sections.
        keys = [key for key in (*_BASE_KEYS, *SECTIONS, *FREE_SECTIONS) if key != "base"]
        for key in args:
            if key not in keys:
                raise ConfigError(
                    f"args[{key!r}]: no such key. {did_you_mean(key, keys)}".rstrip(),
                    fix=f"Keys are {', '.join(keys)}.",
                )
        tables = {name: args[name] for name in (*SECTIONS, *FREE_SECTIONS) if name in args}
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                raise ConfigError(f"args[{name!r}]: expected a table, found {short(table)}.")
        base = {key: args[key] for key in _BASE_KEYS if key in args}
        return cls(**_sections({**tables, "base": base}))

    def to_args(self) -> dict[str, Any]:
        """Return PufferLib's nested dict: ``args["train"]["gamma"]``, ``args["policy_name"]``."""
        args: dict[str, Any] = {key: getattr(self.base, key) for key in _BASE_KEYS}
        for name in ("vec", "train", "eval", "log"):
            args[name] = asdict(getattr(self, name))
        for name in FREE_SECTIONS:
            args[name] = dict(getattr(self, name))
        return args

    def origin(self, section: str, key: str) -> str:
        """Return where a value comes from."""
        return self.origins.get(f"{section}.{key}", "default")


def _plain_arguments(section: str, table: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the keyword arguments of a free section as plain data, and what is wrong with them."""
    if not isinstance(table, Mapping):
        return {}, [f"{section}: expected a table of keyword arguments, found {short(table)}."]
    arguments: dict[str, Any] = {}
    problems = []
    for key, value in table.items():
        try:
            arguments[key] = argument(key, value)
        except ValueError as error:
            problems.append(f"{section}.{key}: {error}")
    return arguments, problems


def _sections(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    base = tables.get("base", {})
    if base.get("env_name") is None:
        # The only option without a default.
        raise ConfigError("base.env_name is missing.", fix="Name a gymnasium id there.")
    sections: dict[str, Any] = {
        name: cls.from_dict(tables[name]) for name, cls in SECTIONS.items() if name in tables
    }
    sections.update({name: tables[name] for name in FREE_SECTIONS if name in tables})
    return sections


def sections_of(config: Config) -> dict[str, dict[str, Any]]:
    """Return every section of a config by name, including [base]."""
    typed = {name: asdict(getattr(config, name)) for name in SECTIONS}
    return typed | {name: dict(getattr(config, name)) for name in FREE_SECTIONS}


def config_to_toml(config: Config, *, origins: bool = False) -> str:
    """Return every value of `config` as TOML, which loads as an equal config.

    None is written as the text "None", because TOML has no None.

    Args:
        config: what to write.
        origins: whether a comment after each value names its origin.

    Raises:
        ConfigError: an argument of the env, the policy or the wrapper holds the text "None".
    """
    lines = [f"# This file is complete: no shipped config is merged with it.\n{COMPLETE} = true"]
    for section, table in sections_of(config).items():
        if table:
            lines.append(f"\n[{section}]")
        lines += _lines(config, section, table, origins=origins)
    return "\n".join(lines) + "\n"


def _lines(
    config: Config, section: str, table: Mapping[str, Any], *, origins: bool
) -> Iterator[str]:
    for key, value in table.items():
        if section in FREE_SECTIONS:
            _require_writable(f"{section}.{key}", value)
        comment = f"  # {config.origin(section, key)}" if origins else ""
        yield f"{_key(key)} = {_text(value)}{comment}"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        # 1_000_000 is easier to read, and TOML allows it.
        return f"{value:_}"
    if isinstance(value, float):
        # repr() is the shortest text that reads back as the same float.
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_text(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    return _quoted("None" if value is None else value)


def _quoted(text: str) -> str:
    # TOML has the escapes of JSON, and also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _require_writable(label: str, value: Any) -> None:
    if _holds_none_text(value):
        raise ConfigError(
            f"{label} holds {short(value)}, which can't be written to TOML.",
            fix="The text 'None' would be read as None.",
        )


def _holds_none_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_none_text, value.values()))
    if isinstance(value, list):
        return any(map(_holds_none_text, value))
    return isinstance(value, str) and value == "None"
