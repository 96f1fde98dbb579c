"""Tells the flags of a config from those of a verb. Loaded for verbs that take both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from puffer_policies.config.flags import read_flags
from puffer_policies.config.schema import SECTIONS, field_types, flag_of
from puffer_policies.errors import ConfigError, nearest


def split_overrides(arguments: Sequence[str], own: Iterable[str]) -> tuple[list[str], list[str]]:
    """Take the flags of a config, with their values, out of a command line.

    Argparse does not know them, and would take the value of one for the verb's own argument.

    Args:
        arguments: the words of the command line.
        own: the flags of the verb.

    Raises:
        ConfigError: a flag is not the config's, and near to one of the verb's.
    """
    verbs_own = set(own)
    flags, left = read_flags(arguments, others=verbs_own)
    known = {flag_of(section, key) for section, cls in SECTIONS.items() for key in field_types(cls)}
    for flag in flags:
        near = nearest(flag.written, {*verbs_own, *known}, limit=1)
        if flag.written not in known and verbs_own.intersection(near):
            raise ConfigError(f"There is no flag {flag.written}.", fix=f"Did you mean {near[0]!r}?")
    return left, [str(flag) for flag in flags]
