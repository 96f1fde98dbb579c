"""Mutated texts, the same for the same seed: what a slip, a torn file or an attack makes of one."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**30, 0.5, -2.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "inf",
        "-1",
        "\0",
        "x" * 5_000,
        "cpu",
        "float64",
        "object",
    ),
    *([], {}, [1, 2], {"x": 1}, [[]], [None] * 300, {"tensor": "policy"}, {"dict": [["x", 1]]}),
)
"""Values of other types, sizes and meanings."""


DEEP = "deep inside"
"""A value in whose place lists stand inside one another."""


def mutated_json(text: str, generator: random.Random) -> str:
    """Return a text of JSON with one to three changes anywhere in its data."""
    root = [json.loads(text)]
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        holder, key = _place(root, generator)
        value = holder[key]
        match generator.randrange(8):
            case 0 if holder is not root:
                del holder[key]
            case 1:
                holder[key] = generator.choice(([value], {"x": value}, DEEP, {"x": DEEP}))
            case 2 if type(value) in (int, float):
                holder[key] = generator.choice((-value, value + 1, value * 10**9, float(value)))
            case 3 if isinstance(holder, dict):
                name = generator.choice(("x", "", "name", f"{key}x", "x" * 3_000))
                holder[name] = holder.pop(key)
            case 4 if isinstance(value, list | dict):
                holder[key] = value * 2 if isinstance(value, list) else {**value, "more": 1}
            case 5:
                other, place = _place(root, generator)
                holder[key] = json.loads(json.dumps(other[place]))
            case _:
                holder[key] = copy.deepcopy(generator.choice(VALUES))
    depth = generator.choice((60, 300, 100_000))
    return json.dumps(root[0]).replace(f'"{DEEP}"', "[" * depth + "]" * depth)


def _place(root: list[Any], generator: random.Random) -> tuple[Any, Any]:
    """Return a list or dict in the data and one of its keys, as deep as chance has it."""
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], list | dict) and holder[key] and generator.random() < 0.85:
        holder = holder[key]
        key = (
            generator.choice([*holder])
            if isinstance(holder, dict)
            else generator.randrange(len(holder))
        )
    return holder, key


def mutated_bytes(data: bytes, generator: random.Random) -> bytes:
    """Return bytes with some flipped, cut out, repeated or missing at the end."""
    content = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(len(content) + 1)
        size = generator.choice((1, 4, 64))
        match generator.randrange(6):
            case 0:
                del content[place:]
            case 1:
                del content[place : place + size]
            case 2:
                content[place:place] = generator.randbytes(size)
            case _ if place < len(content):
                content[place] ^= 1 << generator.randrange(8)
    return bytes(content)


def overwrite(path: Path, data: bytes) -> None:
    """Write over a file that is there, which takes a hundredth of the time of ``write_bytes``.

    Many file systems write a file that was truncated to the disk at once, lest a crash lose both.
    """
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
