"""A config as the text of a TOML file that trains the same again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from puffer_policies.config.load import COMPLETE
from puffer_policies.config.resolved import Config
from puffer_policies.config.schema import FREE_SECTIONS, SECTIONS
from puffer_policies.errors import ConfigError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def sections_of(config: Config) -> dict[str, dict[str, Any]]:
    """Return every section of a config by name, [base] among them."""
    known = {name: asdict(getattr(config, name)) for name in SECTIONS}
    return known | {name: dict(getattr(config, name)) for name in FREE_SECTIONS}


def config_to_toml(config: Config, *, origins: bool = False) -> str:
    """Return every value of `config` as TOML. A file that holds it loads as an equal config.

    None is written as "None", which TOML has no other word for.

    Args:
        config: what to write.
        origins: whether a comment behind each value says where it comes from.

    Raises:
        ConfigError: an argument of the env, the policy or the wrapper is no plain data.
    """
    lines = [f"# No shipped config lies under this file.\n{COMPLETE} = true"]
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
        return f"{value:_}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_text(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    return _quoted("None" if value is None else value)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _require_writable(shown: str, value: Any) -> None:
    if not _is_writable(value):
        raise ConfigError(
            f"{shown} holds {value!r}, which can't be written to TOML.",
            fix="Arguments are numbers, text, True, False, None, lists and tables; the text 'None' "
            "would be read as None.",
        )


def _is_writable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_writable(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_writable, value))
    return value is None or (isinstance(value, bool | int | float | str) and value != "None")
