"""Mutated texts, the same for the same seed: what a slip, a torn file or an attack makes of one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

TOKENS = (
    *("", " ", "\n", "\t", "\r", "\0", "\x1b[31m", "\u2028", "é", "😀", "\ufeff"),
    *("=", ":", ",", ".", "..", "/", "::", "#", ";", "'", '"', '"""', "\\", "\\u0000", "\\d"),
    *("(", ")", "[", "]", "[[", "]]", "{", "}", "((((", "[[[[", "{{"),
    *("true", "None", "null", "nan", "inf", "-inf", "1e999", "0x", "0xFFFFFFFFFFFFFFFFFFFF", "1_0"),
    *("-1", "0", "1e6", "9" * 30, "99999999999", "2j", "...", "lambda: 0", "__import__('os')"),
    *(
        "[base]",
        "[train]",
        "[env]",
        "[policy]",
        "[sweep]",
        "complete = true",
        "env_name",
        "seed = ",
    ),
    *(
        "1979-05-27",
        "07:32:00",
        "b'x'",
        "{1}",
        "{[1]: 2}",
        "[a, b]",
        "0x" + "f" * 5000,
        "[" * 300 + "]" * 300,
        "*a",
        "**a",
        "a=1, a=1",
        "~",
        "\\x",
    ),
)
"""Texts that mean something to one of the readers, or nothing to any."""

_VALUE = re.compile(r"[=:] ?([^,)}\n]+)")


def mutants(texts: Sequence[str], number: int, *, seed: int) -> Iterator[str]:
    """Yield mutants of `texts`, each with one to four changes."""
    generator = random.Random(seed)
    for _ in range(number):
        text = generator.choice(texts)
        for _ in range(generator.choice((1, 1, 2, 4))):
            text = _changed(text, generator, texts)
        yield text


def _changed(text: str, generator: random.Random, texts: Sequence[str]) -> str:
    start = generator.randint(0, len(text))
    stop = min(start + generator.choice((1, 2, 8, 40)), len(text))
    piece, token = text[start:stop], generator.choice(TOKENS)
    match generator.randrange(10):
        case 8 | 9:  # a value for another
            values = list(_VALUE.finditer(text))
            if values:
                start, stop = generator.choice(values).span(1)
            return text[:start] + token + text[stop:]
        case 0:  # torn
            return text[:start]
        case 1:  # cut out
            return text[:start] + text[stop:]
        case 2:  # overwritten
            return text[:start] + token + text[stop:]
        case 3:  # repeated
            return text[:start] + piece * generator.choice((2, 3, 50)) + text[stop:]
        case 4:  # moved
            place = generator.randint(0, len(text))
            return text[:place] + piece + text[place:]
        case 5:  # spliced with another
            other = generator.choice(texts)
            return text[:start] + other[generator.randint(0, len(other)) :]
        case 6:  # flooded
            return text[:start] + token * generator.choice((10, 300)) + text[start:]
        case _:
            return text[:start] + token + text[start:]
