"""Numbers on the command line, in the same spellings as in a config.

Apart from the parser, because `list` needs no numbers and does not wait for the config's schema.
"""

from __future__ import annotations

import argparse
import contextlib

from puffer_policies.config.schema import Count, Seed
from puffer_policies.config.values import convert


def seconds(value: str) -> float:
    """Read a time above zero."""
    with contextlib.suppress(ValueError):
        number: float = convert(value, float)
        if number > 0:
            return number
    raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, found {value!r}")


def count(value: str) -> int:
    """Read a whole number above zero, in the spellings of a config's: ``1e3`` is 1000."""
    with contextlib.suppress(ValueError):
        number: int = convert(value, Count)
        return number
    raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {value!r}")


def seed(value: str) -> int:
    """Read a seed, in the spellings of a config's."""
    try:
        number: int = convert(value, Seed)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return number
