"""Reads TOML files with the line of every key, for errors and origins such as ``path:line``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puffer_policies.errors import ConfigError
from puffer_policies.files import read_text

_TOKEN = re.compile(
    r'(?P<skip>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}'  # multi-line strings
    r'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*)'  # strings and comments
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<newline>\n)",
    re.DOTALL,
)
_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
# tomllib of Python 3.11 to 3.13 has the place of an error in its message only.
_ERROR_PLACE = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")


MAX_DEPTH = 32
"""Tables and arrays inside each other, and parts of a key; no file of ours has a fifth of it."""
_INTEGERS = range(-(2**63), 2**63)
"""The whole numbers of TOML. Python reads longer ones, and fails when it has to print them."""

# A run of dotted parts that no text but a key has. Without backtracking, as lines may be long.
_PART = r"""(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"""(?<![\w"'-])(?:{_PART}[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}""")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A parsed file: its data, and the line of each key."""

    path: Path
    data: dict[str, Any]
    text: str = field(repr=False)
    _lines: dict[tuple[str, ...], int] = field(default_factory=dict, repr=False)

    def at(self, *keys: str) -> str:
        """Return ``path:line`` of a table or key; of its nearest parent where it has no line."""
        # The text is scanned at the first call only: a config without errors never needs a line.
        if not self._lines:
            self._lines.update(_lines_of_keys(self.text))
        for length in range(len(keys), 0, -1):
            if line := self._lines.get(keys[:length]):
                return f"{self.path}:{line}"
        return str(self.path)


def read_toml(path: str | os.PathLike[str]) -> TomlFile:
    """Read a TOML file.

    Raises:
        ConfigError: it can't be read, is not UTF-8, is malformed, has a key twice, a whole number
            of more than 64 bits, or tables and arrays that are nested more than `MAX_DEPTH` deep.
    """
    path = Path(path)
    text = read_text(path)
    _require_short_keys(path, text)
    try:
        file = TomlFile(path, tomllib.loads(text), text)
    except tomllib.TOMLDecodeError as error:
        raise _malformed(path, text, str(error)) from error
    except RecursionError as error:
        raise _too_deep(str(path)) from error
    except ValueError as error:
        # Python reads no more than some thousand decimal digits, of whatever length the text is.
        raise ConfigError(f"{path}: {_TOO_LONG}.") from error
    _require_plain(file)
    return file


_TOO_LONG = "a whole number is longer than the 64 bits that TOML has"


def _require_short_keys(path: Path, text: str) -> None:
    """Refuse keys of thousands of parts, which cost seconds and gigabytes to read."""
    if not _LONG_KEY.search(text):
        return
    for number, line in _statements(text):
        key = _HEADER.match(line) or _ASSIGNMENT.match(line)
        if key and len(re.findall(_KEY, key[1])) > MAX_DEPTH:
            raise _too_deep(f"{path}:{number}")


def _require_plain(file: TomlFile) -> None:
    """Refuse values that can't be printed, or not without a deep recursion."""
    # The keys that lead to a value, and its depth: an array is deeper without having a key.
    values: list[tuple[tuple[str, ...], int, Any]] = [((), 0, file.data)]
    while values:
        keys, depth, value = values.pop()
        if depth > MAX_DEPTH:
            raise _too_deep(file.at(*keys))
        if isinstance(value, dict):
            values += [((*keys, key), depth + 1, each) for key, each in value.items()]
        elif isinstance(value, list):
            values += [(keys, depth + 1, each) for each in value]
        elif isinstance(value, int) and value not in _INTEGERS:
            raise ConfigError(f"{file.at(*keys)}: {_TOO_LONG}.")


def _too_deep(place: str) -> ConfigError:
    return ConfigError(f"{place}: arrays or tables are nested more than {MAX_DEPTH} deep.")


def _malformed(path: Path, text: str, message: str) -> ConfigError:
    place = _ERROR_PLACE.search(message)
    if place:
        where = f"{path}:{place[1]}:{place[2]}"
        lines = [*text.splitlines(), ""]  # the place may be behind the last line
        line = lines[min(int(place[1]), len(lines)) - 1].strip()
    else:
        # tomllib says "(at end of document)" where it found no end.
        where, line = f"{path}:{text.count(chr(10)) + 1}", ""
    reason = _ERROR_PLACE.sub("", message).removesuffix(" (at end of document)")
    quoted = f" in {_shortened(line)!r}" if line else ""
    return ConfigError(f"{where}: this is not TOML: {reason}{quoted}.", fix=_fix(reason))


def _shortened(line: str) -> str:
    return line if len(line) <= 80 else f"{line[:77]}..."


def _fix(reason: str) -> str:
    if "overwrite" in reason or "twice" in reason:
        return "A key or table may appear in a file only once: merge the two."
    if reason.startswith("Invalid value"):
        return "Text needs quotes in TOML; numbers, true and false need none."
    return ""


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in _statements(text):
        if header := _HEADER.match(line):
            table = _split(header[1])
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(table + _split(assignment[1]), number)
    # A table without a header of its own, such as `a` in [a.b], has the line of its first child.
    for keys, number in list(lines.items()):
        for length in range(1, len(keys)):
            lines.setdefault(keys[:length], number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) where a header or assignment may start: not inside a value."""
    depth, number, start = 0, 1, 0
    end_of_line = text.find("\n")
    yield number, text[: end_of_line if end_of_line >= 0 else None]
    for token in _TOKEN.finditer(text):
        number += token[0].count("\n")
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "newline" and depth <= 0:
            start, depth = token.end(), 0
            end_of_line = text.find("\n", start)
            yield number, text[start : end_of_line if end_of_line >= 0 else None]


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(_unquoted(key) for key in re.findall(_KEY, dotted))


def _unquoted(key: str) -> str:
    if key[0] in "\"'":
        value: str = tomllib.loads(f"key = {key}")["key"]
        return value
    return key
