"""`Config`: everything a run uses, checked, and each value with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puffer_policies.config.flags import Key
from puffer_policies.config.layers import Unread, Value
from puffer_policies.config.schema import (
    FREE_SECTIONS,
    SECTIONS,
    BaseConfig,
    EvalConfig,
    LogConfig,
    TrainConfig,
    VecConfig,
)
from puffer_policies.errors import ConfigError, did_you_mean

_BASE_KEYS = ("package", "env_name", "policy_name", "rnn_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The sections of a run's config, and where each value comes from."""

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
    unread: tuple[Unread, ...] = field(default=(), compare=False)
    """Entries of files that have no effect here."""

    def __post_init__(self) -> None:
        if self.base.rnn_name is not None and self.train.use_rnn is False:
            raise ConfigError(
                f"train.use_rnn is False, but base.rnn_name is {self.base.rnn_name!r}.",
                fix="Leave train.use_rnn out, or set --rnn-name None.",
            )

    @classmethod
    def from_values(cls, values: Mapping[Key, Value], unread: tuple[Unread, ...] = ()) -> Config:
        """Build from merged layers.

        Raises:
            ConfigError: a value is missing or wrong, or values contradict each other.
        """
        tables: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *FREE_SECTIONS)}
        for (section, key), each in values.items():
            tables[section][key] = each.value
        origins = {f"{section}.{key}": each.origin for (section, key), each in values.items()}
        return cls(**_sections(tables), origins=origins, unread=unread)

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Config:
        """Build from PufferLib's nested dict, as `to_args` makes it and callers change it.

        Raises:
            ConfigError: unknown keys and wrong values.
        """
        known = (*_BASE_KEYS, *SECTIONS, *FREE_SECTIONS)
        for key in args:
            if key not in known or key == "base":
                raise ConfigError(
                    f"args[{key!r}]: no such key. {did_you_mean(key, known)}".rstrip(),
                    fix=f"Keys are {', '.join(each for each in known if each != 'base')}.",
                )
        tables = {name: args[name] for name in (*SECTIONS, *FREE_SECTIONS) if name in args}
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


def _sections(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    base = tables.get("base", {})
    if base.get("env_name") is None:
        raise ConfigError("base.env_name is missing.", fix="Name a gymnasium id there.")
    made: dict[str, Any] = {
        name: cls.from_dict(tables[name]) for name, cls in SECTIONS.items() if name in tables
    }
    made.update({name: dict(tables[name]) for name in FREE_SECTIONS if name in tables})
    return made
