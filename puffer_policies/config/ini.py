"""Read .ini files the way PufferLib writes them, keeping the line of every key.

The standard `configparser` forgets lines, so this is a small reader of the same grammar: sections,
``key = value`` or ``key: value``, comments on their own line or after a space, and values that go
on in indented lines. All values stay text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from puffer_policies.errors import ConfigError

_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]$")
_OPTION = re.compile(r"(?P<key>[^=:\s][^=:]*?)\s*[=:]\s*(?P<value>.*)$")
_COMMENT = re.compile(r"(?:^|\s)[#;].*$")
_QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")


@dataclass(frozen=True, slots=True)
class IniFile:
    """The sections of an .ini file, and where each of them and of their keys stands."""

    path: str
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def at(self, *keys: str) -> str:
        """Return ``path:line`` of a section or of a key in a section."""
        return f"{self.path}:{self.lines[keys]}"


def read_ini(path: str | Path) -> IniFile:
    """Read an .ini file.

    Raises:
        ConfigError: the file can't be read; or lines that are no section, key or comment, and keys
            and sections that stand twice, all of them in one error.
    """
    return parse_ini(_text_of(Path(path)), path=str(path))


def parse_ini(text: str, *, path: str) -> IniFile:
    """Read the text of an .ini file; `path` is what errors and origins show."""
    reader = _Reader(IniFile(path))
    for number, line in enumerate(text.splitlines(), start=1):
        reader.take(number, line)
    if reader.offences:
        raise ConfigError(
            "\n".join(reader.offences), fix="Write [section], then key = value lines."
        )
    return reader.file


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}", fix="Check the path.") from error


def _without_comment(line: str) -> str:
    # A '#' inside quotes is text, as in colour = "#fff".
    pieces = _QUOTED.split(line)
    for index in range(0, len(pieces), 2):
        before = pieces[index]
        cut = _COMMENT.search(before)
        if cut and (cut.start() > 0 or index == 0 or before[0].isspace()):
            return "".join(pieces[:index]) + before[: cut.start()]
    return line


class _Reader:
    """Takes one line after another and remembers the section and key it is in."""

    def __init__(self, file: IniFile) -> None:
        self.file = file
        self.offences: list[str] = []
        self.section = ""
        self.key = ""

    def take(self, number: int, line: str) -> None:
        content = _without_comment(line).rstrip()
        if not content.strip():
            return
        if line[0].isspace() and self.key:
            self.file.data[self.section][self.key] += f" {content.strip()}"
        elif found := _SECTION.match(content.strip()):
            self._open(number, found["name"].strip())
        elif self.section and (found := _OPTION.match(content.strip())):
            self._set(number, found["key"], found["value"].strip())
        else:
            self._refuse(number, f"{content.strip()!r} is not a section, a key or a comment.")

    def _open(self, number: int, name: str) -> None:
        self.section, self.key = name, ""
        if name in self.file.data:
            self._refuse(number, f"[{name}] stands on line {self.file.lines[(name,)]} already.")
            return
        self.file.data[name] = {}
        self.file.lines[(name,)] = number

    def _set(self, number: int, key: str, value: str) -> None:
        self.key = key = key.lower()
        place = (self.section, key)
        if place in self.file.lines:
            self._refuse(number, f"{key!r} stands on line {self.file.lines[place]} already.")
            return
        self.file.data[self.section][key] = value
        self.file.lines[place] = number

    def _refuse(self, number: int, problem: str) -> None:
        self.offences.append(f"{self.file.path}:{number}: {problem}")
