"""Flags of a config on a command line: ``--section.key VALUE``, those of [base] without section.

The word after a flag is its value, unless it starts with ``--``: write ``--flag=VALUE`` then. A
flag of a boolean may stand alone, which means True, or say no: ``--train.no-anneal-lr``, also
written ``--no-train.anneal-lr``, means False and takes no value.
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
    """A flag as it was written, and its value: None where there is none."""

    written: str
    value: str | None

    def __str__(self) -> str:
        return self.written if self.value is None else f"{self.written}={self.value}"


def read_flags(
    words: Sequence[str], *, others: Container[str] = ()
) -> tuple[list[Flag], list[str]]:
    """Take the flags of a config out of a command line.

    Args:
        words: what stands on the command line.
        others: flags that belong to somebody else.

    Returns:
        The flags of the config, unknown ones too, and the words that are left.
    """
    flags: list[Flag] = []
    left: list[str] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        written, has_value, value = word.partition("=")
        if not written.startswith("--") or written in others:
            left.append(word)
        elif has_value:
            flags.append(Flag(written, value))
        elif waiting and not waiting[-1].startswith("--") and not _says_no(written):
            flags.append(Flag(written, waiting.pop()))
        else:
            flags.append(Flag(written, None))
    return flags, left


def meaning(flag: Flag) -> tuple[Key, str]:
    """Return the option that a flag sets, and the text of its value.

    Raises:
        ValueError: the flag needs a value, or says no and has one.
    """
    if says_no := _says_no(flag.written):
        if flag.value is not None:
            raise ValueError(f"it means False and takes no value; write {flag_of(*says_no)}.")
        return says_no, "False"
    key = key_of(flag.written)
    if flag.value is not None:
        return key, flag.value
    if _is_boolean(key):
        return key, "True"
    raise ValueError("expected a value after it.")


def key_of(written: str) -> Key:
    """Return section and name of ``--train.learning-rate``; [base] where no section is written."""
    section, dot, key = written.removeprefix("--").replace("-", "_").partition(".")
    return (section, key) if dot else (BaseConfig.section, section)


def near_flags(name: str) -> str:
    """Return a hint at the flags that a key which does not exist may have meant."""
    if name in (*SECTIONS, *FREE_SECTIONS):
        return f"[{name}] is a section: write --{name}.KEY VALUE."
    known = {each: section for section, cls in SECTIONS.items() for each in field_types(cls)}
    close = [repr(flag_of(known[each], each)) for each in nearest(name, known)]
    return f"Did you mean {' or '.join(close)}?" if close else ""


def _says_no(written: str) -> Key | None:
    """Return the boolean option that ``--no-train.x`` or ``--train.no-x`` turns off, or None."""
    section, name = key_of(written)
    key = (section.removeprefix("no_"), name.removeprefix("no_"))
    is_no = (section, name) != key and not _is_known((section, name))
    return key if is_no and _is_boolean(key) else None


def _is_known(key: Key) -> bool:
    return key[0] in SECTIONS and key[1] in field_types(SECTIONS[key[0]])


def _is_boolean(key: Key) -> bool:
    if not _is_known(key):
        return False
    annotation: Any = field_types(SECTIONS[key[0]])[key[1]]
    return annotation is bool or set(get_args(annotation)) == {bool, types.NoneType}
