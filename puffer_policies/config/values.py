"""Conversion of text and data to annotated types: booleans, None, numbers with limits, literals.

Command lines and .ini files hold text only, and TOML has no None, so text is always converted by
the type of its field. A wrong value raises a short `ValueError`; the caller, which knows the file
and line or the flag, adds them.
"""

from __future__ import annotations

import ast
import math
import types
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from puffer_policies.errors import did_you_mean, short

TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})
NONE_WORDS = frozenset({"none", "null", ""})


MAX_DEPTH = 50
"""Lists and tables inside one another in an argument; more come from a mistake or an attack."""

_INTEGERS = range(-(2**63), 2**63)
"""The integers of TOML, which torch, NumPy and most envs can hold, too."""

_OTHER_WORDS = {"true": True, "false": False, "none": None, "null": None}
"""True, False and None in the spellings of Python, JSON and TOML, compared in lower case."""


@dataclass(frozen=True, slots=True)
class Range:
    """Limits of a number, as in ``Annotated[int, Range(1)]``, which the number may equal."""

    low: float
    high: float = math.inf
    open: bool = False
    """Whether `high` itself is excluded."""

    def __str__(self) -> str:
        if self.high == math.inf:
            return f">= {self.low}"
        return f"from {self.low} to {'below ' * self.open}{self.high}"

    def check(self, value: Any) -> None:
        """Raise `ValueError` if the number is out of range."""
        if not self.low <= value <= self.high or (self.open and value == self.high):
            raise _wrong(value, f"a number {self}")


class Refused(ValueError):
    """A wrong value whose error explains more than which types were expected."""


def convert(value: Any, annotation: Any) -> Any:
    """Return `value`, parsed if it is text, as a value of the annotated type.

    Handles bool, int, float, str, ``Literal``, ``X | Y``, None and ``Annotated[X, limit]``, where
    a limit is a `Range` or anything else with a ``check(value)`` that raises `ValueError`.

    Raises:
        ValueError: the value does not fit; the message names it and the type.
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
    """Return the value of an argument of an env, policy or wrapper, whose type is not declared.

    Python literals such as ``3e-4``, ``'text'`` and ``[1, 2]`` are evaluated; anything else stays
    text. ``true``, ``false``, ``none`` and ``null`` work in any case and at any depth, but ``yes``
    and ``no`` stay text, as they may be names. ``(1, 2)`` and ``1,2`` become lists, the only
    sequences of TOML and JSON.

    Raises:
        ValueError: text that opens a bracket and is not a literal, a number that is not finite, or
            a literal that TOML and JSON can't hold, such as a set.
    """
    stripped = text.strip()
    try:
        # float() also reads "inf" and "nan", and a number of too many digits as infinity.
        is_infinite = not math.isfinite(float(stripped))
    except ValueError:
        is_infinite = False
    if is_infinite:
        raise _wrong(text, "a number that is finite, or text in quotes")
    try:
        value = _literal(stripped)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        # A TypeError comes from a list as a key, and the last two from deep nesting.
        if stripped[:1] in tuple("[{("):
            raise _wrong(text, "a list or table of literals, with text in quotes") from None
        return stripped
    return plain(value)


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        # Python's parser warns of odd escapes and the like, which are the user's to choose.
        warnings.simplefilter("ignore")
        tree = ast.parse(text, mode="eval").body
    return ast.literal_eval(_WithOtherWords().visit(tree))


class _WithOtherWords(ast.NodeTransformer):
    """Replaces the words for True, False and None, which to Python are names."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        word = node.id.lower()
        return ast.Constant(_OTHER_WORDS[word]) if word in _OTHER_WORDS else node


def argument(name: str, value: Any) -> Any:
    """Return a keyword argument of an env, policy or wrapper as plain data.

    Raises:
        ValueError: `name` can't be that of a keyword argument, or as `plain`.
    """
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError("expected the name of a keyword argument.")
    return plain(value)


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return an argument of an env, policy or wrapper as TOML and JSON hold it: tuples as lists.

    Raises:
        ValueError: neither can hold it, such as a set, a date or infinity.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"expected at most {MAX_DEPTH} lists and tables inside one another.")
    if isinstance(value, list | tuple):
        return [plain(each, depth=depth + 1) for each in value]
    # Tables of TOML and JSON have keys of text only.
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(each, depth=depth + 1) for key, each in value.items()}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return _require_64_bits(value)
    if isinstance(value, float):
        return _require_finite(value, value, "a number")
    raise _wrong(value, "numbers, text, True, False, None, lists, or tables with keys of text")


def with_none(value: Any) -> Any:
    """Replace the text "None" by None at any depth, because TOML has no None."""
    if isinstance(value, dict):
        return {key: with_none(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_none(each) for each in value]
    return None if isinstance(value, str) and value == "None" else value


def type_text(annotation: Any) -> str:
    """Return a type as messages and ``--options`` print it: ``int >= 1 or 'auto'``."""
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
    return ValueError(f"expected {expected}, found {short(value)}.")


def _require_64_bits(value: int) -> int:
    if value not in _INTEGERS:
        raise _wrong(value, "an integer of at most 64 bits")
    return value


def _require_finite(number: float, value: Any, expected: str) -> float:
    # float() accepts "nan" and "inf", which no option can mean and JSON can't hold.
    if not math.isfinite(number):
        raise _wrong(value, f"{expected} that is finite")
    return number


def _first_fit(value: Any, annotation: Any) -> Any:
    errors = []
    # `str` accepts any text, so it is tried last: "None" for `str | None` means None.
    for choice in sorted(get_args(annotation), key=_is_text):
        try:
            return convert(value, choice)
        except ValueError as error:
            errors.append(error)
    refusals = (error for error in errors if isinstance(error, Refused))
    raise next(refusals, _wrong(value, type_text(annotation)))


def _is_text(annotation: Any) -> bool:
    return annotation is str or get_args(annotation)[:1] == (str,)


def _one_of(value: Any, choices: tuple[Any, ...], annotation: Any) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise ValueError(f"{_wrong(value, type_text(annotation))} {hint}".rstrip())


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)  # the words 1 and 0 as TOML and JSON write them
    word = value.strip().lower() if isinstance(value, str) else None
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise _wrong(value, "True or False")


def _to_int(value: Any) -> int:
    """Accept 1_000_000 and also 1e6, which people write for numbers of steps."""
    number = _to_float(value, "an integer")
    if not number.is_integer():
        raise _wrong(value, "an integer")
    # A float loses digits beyond 2**53, so int() goes first; only text such as "1e6" needs a float.
    try:
        integer = int(value)
    except ValueError:
        integer = int(number)
    return _require_64_bits(integer)


def _to_float(value: Any, expected: str = "a number") -> float:
    # To Python a bool is a number, to a user it is a mistake.
    if isinstance(value, bool):
        raise _wrong(value, expected)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(value, expected) from None
    return _require_finite(number, value, expected)


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    if "\0" in value:
        raise _wrong(value, "text without the character NUL, which no name or path may hold")
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
