"""Checks the tables of a TOML file for their keys and types, and collects every offence by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puffer_policies.errors import did_you_mean
from puffer_policies.tomlfile import TomlFile

_IN_WORDS = {
    str: "a string",
    dict: "a table",
    bool: "true or false",
    list: "a list of strings",
    int: "a whole number",
}


@dataclass(slots=True)
class TableChecker:
    """A file, and what was found wrong with it so far."""

    file: TomlFile
    offences: list[str] = field(default_factory=list)

    def offend(self, offence: str, *keys: str) -> None:
        """Note an offence, with the line of the table or key it is about."""
        self.offences.append(f"{self.file.at(*keys)}: {offence}")

    def unknown(self, key: str, known: tuple[str, ...], *keys: str) -> None:
        """Note a key that does not exist, with its nearest neighbours."""
        hint = did_you_mean(key, known) or f"Known are {', '.join(known)}."
        self.offend(f"unknown key {key!r}. {hint}".rstrip("."), *keys)

    def table(self, name: str) -> dict[str, Any]:
        """Return a top-level table; an empty one if there is none, or something else."""
        table = self.file.data.get(name, {})
        return table if isinstance(table, dict) else {}

    def typed(self, table: Mapping[str, Any], types: Mapping[str, type], *keys: str) -> bool:
        """Compare a table's keys and types with `types`; return whether all are right."""
        before = len(self.offences)
        for key, value in table.items():
            if key not in types:
                self.unknown(key, tuple(types), *keys, key)
            elif not _is(value, types[key]):
                wanted = _IN_WORDS[types[key]]
                self.offend(f"{'.'.join(keys)}.{key} should be {wanted}, got {value!r}", *keys, key)
        return len(self.offences) == before

    def strings(self, table_name: str) -> Iterator[tuple[str, str]]:
        """Yield the entries of a table of texts; note those that are none."""
        for name, text in self.table(table_name).items():
            if isinstance(text, str) and text.strip():
                yield name, text
            else:
                self.offend(
                    f"{table_name}.{name} should be some text, got {text!r}", table_name, name
                )

    def offend_if(self, offence: str, *keys: str) -> None:
        """Note an offence unless it is empty."""
        if offence:
            self.offend(offence, *keys)


def _is(value: object, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    # To Python, True is an int as well.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
