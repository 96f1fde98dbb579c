"""Turn text and data into values of a declared type: booleans, None, numbers with limits, literals.

Command lines and .ini files hold text only, and a TOML file has no None, so text is read by the
type of its field wherever it stands. A wrong value raises a short `ValueError`; the door that knows
the file and line, or the flag, adds them.
"""

from __future__ import annotations

import ast
import math
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from puffer_policies.errors import did_you_mean

TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})
NONE_WORDS = frozenset({"none", "null", ""})


@dataclass(frozen=True, slots=True)
class Range:
    """Limits of a number, both included. Stands in ``Annotated[int, Range(1)]``."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f">= {self.low}" if self.high == math.inf else f"from {self.low} to {self.high}"

    def check(self, value: Any) -> None:
        """Raise `ValueError` if the number lies outside."""
        if not self.low <= value <= self.high:
            raise _wrong(value, f"a number {self}")


class Refused(ValueError):
    """A value whose error says more than which types were expected."""


def convert(value: Any, annotation: Any) -> Any:
    """Return `value`, parsed if it is text, as a value of the annotated type.

    Handles bool, int, float, str, ``Literal``, ``X | Y``, None and ``Annotated[X, limit]``, where
    a limit is a `Range` or anything else with a ``check(value)`` that raises `ValueError`.

    Raises:
        ValueError: the value does not fit; the text says what was found and what was expected.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, limit = get_args(annotation)
        converted = convert(value, inner)
        limit.check(converted)
        return converted
    if origin in (Union, types.UnionType):
        return _first_fit(value, annotation)
    if origin is Literal:
        return _one_of(value, get_args(annotation), annotation)
    return _PARSERS[annotation](value)


def parse_literal(text: str) -> Any:
    """Return text of a free section as a Python literal (True, None, 3e-4, [1, 2]) or as it is.

    Words such as ``true`` and ``none`` count in any case; ``yes`` and ``no`` stay text, for without
    a declared type they may be names. ``(1, 2)`` and ``1,2`` are lists like ``[1, 2]``: the files
    that keep a config, TOML and JSON, know no other sequence.

    Raises:
        ValueError: a literal that those files can't hold, such as a set.
    """
    stripped = text.strip()
    word = stripped.lower()
    if word in ("true", "false"):
        return word == "true"
    if word in ("none", "null"):
        return None
    try:
        found = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return stripped
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _wrong(value, "numbers, text, True, False, None, lists, or tables with keys of text")


def with_none(value: Any) -> Any:
    """Return `value` with None for the text "None", wherever it stands: TOML has no None."""
    if isinstance(value, dict):
        return {key: with_none(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_none(each) for each in value]
    return None if isinstance(value, str) and value == "None" else value


def type_text(annotation: Any) -> str:
    """Return the words for a type in a message or in ``--help``: ``int >= 1 or 'auto'``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, limits = get_args(annotation)
        return f"{type_text(inner)} {limits}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(each) for each in get_args(annotation))
    if origin is Literal:
        return " or ".join(repr(each) for each in get_args(annotation))
    return "None" if annotation is types.NoneType else str(annotation.__name__)


def _wrong(value: Any, expected: str) -> ValueError:
    return ValueError(f"expected {expected}, found {value!r}.")


def _first_fit(value: Any, annotation: Any) -> Any:
    errors = []
    # Text takes any text, so it comes last: "None" for `str | None` means None.
    for choice in sorted(get_args(annotation), key=_is_text):
        try:
            return convert(value, choice)
        except ValueError as error:
            errors.append(error)
    told = (error for error in errors if isinstance(error, Refused))
    raise next(told, _wrong(value, type_text(annotation)))


def _is_text(annotation: Any) -> bool:
    return annotation is str or get_args(annotation)[:1] == (str,)


def _one_of(value: Any, choices: tuple[Any, ...], annotation: Any) -> Any:
    if value in choices:
        return value
    hint = did_you_mean(str(value), (str(each) for each in choices))
    raise ValueError(f"{_wrong(value, type_text(annotation))} {hint}".rstrip())


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise _wrong(value, "True or False")


def _to_int(value: Any) -> int:
    """Read 1_000_000 and also 1e6, the way people write numbers of steps."""
    number = _to_float(value, "an integer")
    if not number.is_integer():
        raise _wrong(value, "an integer")
    # Through float only where there is no other way: a float forgets digits beyond 2**53.
    try:
        return int(value)
    except ValueError:
        return int(number)


def _to_float(value: Any, expected: str = "a number") -> float:
    if isinstance(value, bool):
        raise _wrong(value, expected)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(value, expected) from None
    if not math.isfinite(number):
        raise _wrong(value, f"{expected} that is finite")
    return number


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    return value


def _to_none(value: Any) -> None:
    is_none_word = isinstance(value, str) and value.strip().lower() in NONE_WORDS
    if value is not None and not is_none_word:
        raise _wrong(value, "None")


_PARSERS: dict[Any, Any] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    types.NoneType: _to_none,
}
