"""The structure of plain data: declared once for each kind of file, and checked before any use.

Files come from strangers and from disks that fail. A reader declares what the writer writes, by the
structures below, and checks the whole of it; what comes afterwards can rely on types and sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from puffer_policies.errors import short

MAX_DEPTH = 50
"""Lists and tables inside one another; more come from a mistake or an attack."""


class StructureError(ValueError):
    """Data of another structure than declared: where, what was expected, and what is there."""

    def __init__(self, path: str, expected: str, value: Any) -> None:
        super().__init__(f"{path or 'the data'}: expected {expected}, found {short(value)}")


class Structure(Protocol):
    """A declared structure of data."""

    def check(self, value: Any, path: str) -> None:
        """Raise a `StructureError` unless `value`, which stands at `path`, has this structure."""
        ...


def read_json(text: str, structure: Structure, path: str = "") -> Any:
    """Return the data in a text of JSON, which has the given structure.

    Raises:
        StructureError: the text is not JSON, or of another structure.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        # A ValueError also comes from an integer of thousands of digits.
        raise StructureError(path, f"JSON ({error})", text) from error
    structure.check(data, path)
    return data


@dataclass(frozen=True, slots=True)
class Anything:
    """A part whose reader checks it by itself."""

    def check(self, value: Any, path: str) -> None:
        """Refuse nothing."""


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within limits, which it may equal."""

    low: int = -(2**63)
    high: int = 2**63 - 1

    def check(self, value: Any, path: str) -> None:
        """Refuse all else, and booleans, which Python takes for integers."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise StructureError(path, f"a whole number from {self.low} to {self.high}", value)


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within limits, whole or not."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, value: Any, path: str) -> None:
        """Refuse all else, and booleans, which Python takes for integers."""
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            raise StructureError(path, "a number", value)
        # The bounds may be infinite themselves. An integer may be too large to be a float.
        if isinstance(value, float) and not math.isfinite(value):
            raise StructureError(path, "a finite number", value)


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a greatest length."""

    length: int = 1_000

    def check(self, value: Any, path: str) -> None:
        """Refuse all else."""
        if not isinstance(value, str) or len(value) > self.length:
            raise StructureError(path, f"text of at most {self.length:,} characters", value)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few constants, of the same type."""

    values: tuple[Any, ...]

    def check(self, value: Any, path: str) -> None:
        """Refuse all else: 1 and 1.0 are not True."""
        if isinstance(value, str) and value in self.values:
            return
        if not any(type(value) is type(each) and value == each for each in self.values):
            raise StructureError(path, " or ".join(map(repr, self.values)), value)


BOOLEAN = OneOf((True, False))


@dataclass(frozen=True, slots=True)
class Optional:
    """A structure, or None."""

    structure: Structure

    def check(self, value: Any, path: str) -> None:
        """Refuse what is neither."""
        if value is not None:
            self.structure.check(value, path)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of items of one structure; or a tuple, where the writer's tuples come back as such."""

    item: Structure
    longest: int = 2**31
    kind: type[Any] = list

    def check(self, value: Any, path: str) -> None:
        """Refuse another type, too many items, and wrong ones."""
        if not isinstance(value, self.kind) or len(value) > self.longest:
            expected = f"a {self.kind.__name__} of at most {self.longest:,} items"
            raise StructureError(path, expected, value)
        for i, each in enumerate(value):
            self.item.check(each, f"{path}[{i}]")


@dataclass(frozen=True, slots=True)
class Items:
    """A list or a tuple of a fixed length, whose items have structures of their own."""

    items: tuple[Structure, ...]
    kind: type[Any] = list

    def check(self, value: Any, path: str) -> None:
        """Refuse another type, another length, and wrong items."""
        if not isinstance(value, self.kind) or len(value) != len(self.items):
            raise StructureError(path, f"a {self.kind.__name__} of {len(self.items)} items", value)
        for i, (item, each) in enumerate(zip(self.items, value, strict=True)):
            item.check(each, f"{path}[{i}]")


@dataclass(frozen=True, slots=True)
class MapOf:
    """A table with any keys of one structure, text by default, and values of another."""

    value: Structure
    key: Structure = field(default_factory=Text)

    def check(self, value: Any, path: str) -> None:
        """Refuse all else, wrong keys and wrong values."""
        if not isinstance(value, Mapping):
            raise StructureError(path, "a table", value)
        for key, each in value.items():
            self.key.check(key, f"a key of {path}" if path else "a key")
            self.value.check(each, f"{path}.{key}" if path else str(key))


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose keys are declared, each with a structure of its own."""

    keys: Mapping[str, Structure]
    optional: Mapping[str, Structure] = field(default_factory=dict)
    """Keys that may be missing."""
    others: Structure | None = None
    """The structure of all other keys' values; None if there may be none."""

    def check(self, value: Any, path: str) -> None:
        """Refuse all else: a missing key, another one, and wrong values."""
        if not isinstance(value, Mapping):
            raise StructureError(path, "a table", value)
        missing = [key for key in self.keys if key not in value]
        if missing:
            raise StructureError(path, f"the key {missing[0]!r}", [*value])
        known = {**self.optional, **self.keys}
        for key, each in value.items():
            structure = known.get(key, self.others)
            if structure is None:
                raise StructureError(path, f"no keys but {', '.join(map(repr, known))}", key)
            structure.check(each, f"{path}.{key}" if path else str(key))


@dataclass(frozen=True, slots=True)
class Plain:
    """Whatever JSON holds: None, booleans, numbers, text, and lists and tables of these."""

    depth: int = MAX_DEPTH
    """How deep lists and tables may stand inside one another."""
    length: int = 1_000_000
    """The greatest length of a text."""
    finite: bool = False
    """Whether NaN and infinity are refused, which JSON has only in Python."""

    def check(self, value: Any, path: str) -> None:
        """Refuse other types, and what is too deep or too long."""
        if isinstance(value, list | dict):
            if not self.depth:
                raise StructureError(path, "fewer lists and tables inside one another", value)
            inner = Plain(self.depth - 1, self.length, self.finite)
            (ListOf(inner) if isinstance(value, list) else MapOf(inner)).check(value, path)
        elif isinstance(value, str):
            Text(self.length).check(value, path)
        elif value is not None and not isinstance(value, bool | int | float):
            raise StructureError(path, "plain data", value)
        elif self.finite and isinstance(value, float):
            Number().check(value, path)
