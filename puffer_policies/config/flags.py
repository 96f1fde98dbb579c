"""Flags of a config on a command line: ``--section.key VALUE``, for [base] without the section.

The word after a flag is its value, unless it starts with ``--``: such a value is written
``--flag=VALUE``. The flag of a boolean may stand alone, which means True, or be negated:
``--train.no-anneal-lr`` and ``--no-train.anneal-lr`` mean False and take no value.
"""

from __future__ import annotations

import types
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from puffer_policies.config.schema import FREE_SECTIONS, SECTIONS, BaseConfig, field_types, flag_of
from puffer_policies.errors import nearest

Key = tuple[str, str]
"""Section and name of an option."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of a command line, and its value if there is one."""

    name: str
    """As on the command line: ``--train.learning-rate``."""
    value: str | None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def read_flags(
    words: Sequence[str], *, others: Container[str] = ()
) -> tuple[list[Flag], list[str]]:
    """Separate the flags of a config from the other words of a command line.

    Args:
        words: the command line.
        others: flags that are not the config's.

    Returns:
        The flags of the config, including unknown ones, and the other words.
    """
    flags: list[Flag] = []
    rest: list[str] = []
    # A stack in reverse order, so that a flag can take the next word as its value.
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        name, has_value, value = word.partition("=")
        if not name.startswith("--") or name in others:
            rest.append(word)
        elif has_value:
            flags.append(Flag(name, value))
        elif queue and not queue[-1].startswith("--") and not _negated(name):
            flags.append(Flag(name, queue.pop()))
        else:
            flags.append(Flag(name, None))
    return flags, rest


def meaning(flag: Flag) -> tuple[Key, str]:
    """Return the option that a flag sets, and the text of its value.

    Raises:
        ValueError: the flag needs a value, or is negated and has one.
    """
    if negated := _negated(flag.name):
        if flag.value is not None:
            raise ValueError(f"it means False and takes no value; write {flag_of(*negated)}.")
        return negated, "False"
    key = key_of(flag.name)
    if flag.value is not None:
        return key, flag.value
    if _is_boolean(key):
        return key, "True"
    if key[0] in FREE_SECTIONS or _is_known(key):
        raise ValueError("expected a value after it.")
    # Whoever reads the value finds that there is no such option, which says more.
    return key, ""


def key_of(flag: str) -> Key:
    """Return section and name of ``--train.learning-rate``; without a section, it is [base]."""
    section, dot, key = flag.removeprefix("--").replace("-", "_").partition(".")
    return (section, key) if dot else (BaseConfig.section, section)


def near_flags(name: str) -> str:
    """Return a hint at the flags that are closest to an unknown key."""
    # "--train 5" is more likely a forgotten key than a misspelled flag.
    if name in (*SECTIONS, *FREE_SECTIONS):
        return f"[{name}] is a section: write --{name}.KEY VALUE."
    homes = {key: section for section, cls in SECTIONS.items() for key in field_types(cls)}
    close = [repr(flag_of(homes[key], key)) for key in nearest(name, homes)]
    return f"Did you mean {' or '.join(close)}?" if close else ""


def _negated(flag: str) -> Key | None:
    """Return the boolean option that ``--no-train.x`` or ``--train.no-x`` turns off, or None."""
    section, name = key_of(flag)
    key = (section.removeprefix("no_"), name.removeprefix("no_"))
    # An option whose own name starts with "no_" is not negated.
    is_negated = (section, name) != key and not _is_known((section, name))
    return key if is_negated and _is_boolean(key) else None


def _is_known(key: Key) -> bool:
    return key[0] in SECTIONS and key[1] in field_types(SECTIONS[key[0]])


def _is_boolean(key: Key) -> bool:
    if not _is_known(key):
        return False
    annotation: Any = field_types(SECTIONS[key[0]])[key[1]]
    return annotation is bool or set(get_args(annotation)) == {bool, types.NoneType}
