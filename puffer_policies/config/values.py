"""Turn text and data into values of a declared type: booleans, None, numbers with limits, literals.

Command lines and .ini files hold text only, and a TOML file has no None, so text is read by the
type of its field wherever it stands. A wrong value raises a short `ValueError`; the door that knows
the file and line, or the flag, adds them.
"""

from __future__ import annotations

import ast
import contextlib
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


def convert(value: Any, annotation: Any) -> Any:
    """Return `value`, parsed if it is text, as a value of the annotated type.

    Handles bool, int, float, str, ``Literal``, ``X | Y``, None and ``Annotated[number, Range]``.

    Raises:
        ValueError: the value does not fit; the text says what was found and what was expected.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, limits = get_args(annotation)
        return _limited(convert(value, inner), limits)
    if origin in (Union, types.UnionType):
        return _first_fit(value, annotation)
    if origin is Literal:
        return _one_of(value, get_args(annotation), annotation)
    return _PARSERS[annotation](value)


def parse_literal(text: str) -> Any:
    """Return text of a free section as a Python literal (True, None, 3e-4, [1, 2]) or as it is.

    Words such as ``true`` and ``none`` count in any case; ``yes`` and ``no`` stay text, for without
    a declared type they may be names.
    """
    stripped = text.strip()
    word = stripped.lower()
    if word in ("true", "false"):
        return word == "true"
    if word in ("none", "null"):
        return None
    try:
        return ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return stripped


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
    # `str` takes any text, so it comes last: "None" for `str | None` means None.
    for choice in sorted(get_args(annotation), key=lambda each: each is str):
        with contextlib.suppress(ValueError):
            return convert(value, choice)
    raise _wrong(value, type_text(annotation))


def _limited(value: float, limits: Range) -> float:
    if not limits.low <= value <= limits.high:
        raise _wrong(value, f"a number {limits}")
    return value


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
