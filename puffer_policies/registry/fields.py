"""The one door to a record's fields: manifests, decorators and plug-ins all come through it.

The keywords are the fields of the dataclasses in `puffer_policies.registry.records`, and the type
of each is that of its default. So whoever adds a field there has added a key of registry.toml and
a keyword of every function that registers, checked alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from puffer_policies.errors import PolicyError, did_you_mean
from puffer_policies.registry.records import (
    Capabilities,
    Description,
    Kind,
    PolicyRecord,
    Record,
    Traits,
    WrapperRecord,
)

_LABELS = {
    str: "a string",
    dict: "a table",
    bool: "true or false",
    tuple: "a list of strings",
    int: "a whole number",
}


@functools.cache
def keyword_types(kind: Kind) -> Mapping[str, type]:
    """Return the keywords that describe a policy or wrapper, with the type of each."""
    features = Capabilities if kind == "policy" else Traits
    return {each.name: _type_of(each) for each in (*fields(Description), *fields(features))}


def value_offence(value: object, expected: type) -> str:
    """Say what is wrong with the type of a value, such as ``should be a string, got 3``, or ''.

    A list of strings stands for a tuple, as TOML knows no other.
    """
    if expected is tuple:
        good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    else:
        # To Python, True is an int as well.
        good = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    return "" if good else f"should be {_LABELS[expected]}, got {value!r}"


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """Return the end of an error about an unknown key: the nearest known ones, or all of them."""
    return did_you_mean(key, keys) or f"Known are {', '.join(keys)}."


def make_record(kind: Kind, keywords: Mapping[str, Any], **identity: Any) -> Record:
    """Build a record from keywords whose types are right.

    Args:
        kind: what the name is registered as.
        keywords: some of `keyword_types`.
        identity: the other fields of `Record`: name, target, provenance and where to import from.
    """
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in keywords.items()
    }
    if kind == "wrapper":
        return WrapperRecord(**identity, **values)
    features = {f.name: values.pop(f.name) for f in fields(Capabilities) if f.name in values}
    return PolicyRecord(**identity, **values, capabilities=Capabilities(**features))


def checked_keywords(function: str, kind: Kind, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a call in Python, checked: any iterable serves as a list.

    Raises:
        PolicyError: `function` does not take one of them, or its value has the wrong type.
    """
    types = keyword_types(kind)
    # Unlike TOML, Python has many kinds of lists. Only a string, an iterable of letters, is a slip.
    checked = {}
    for name, value in keywords.items():
        if name not in types:
            raise PolicyError(
                f"{function}() got an unexpected keyword argument {name!r}.",
                fix=unknown_key(name, types),
            )
        if types[name] is tuple and isinstance(value, Iterable) and not isinstance(value, str):
            value = tuple(value)
        if types[name] is dict and isinstance(value, Mapping):
            value = dict(value)
        if offence := value_offence(value, types[name]):
            raise PolicyError(f"{function}(): {name} {offence}.")
        checked[name] = value
    return checked


def _type_of(field: Field[Any]) -> type:
    # Only `defaults` has a factory, as a dict can't be a field's default.
    return type(field.default) if isinstance(field.default, (str, bool, int, tuple)) else dict
