"""The rules for names, distributions, targets and whole records; every offence in words."""

from __future__ import annotations

import fnmatch
import itertools
import json
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any

from puffer_policies.errors import did_you_mean, short
from puffer_policies.registry.records import (
    ACTION_KINDS,
    OBSERVATION_KINDS,
    Layer,
    PolicyRecord,
    Record,
    WrapperRecord,
)

BUILTIN = "puffer-policies"
"""The distribution of the built-in names."""

LAYER_NAMES = {Layer.USER: "user", Layer.PROJECT: "project", Layer.PROCESS: "local"}
"""What stands for the distribution where no package is behind a record."""

# ASCII, as names are typed in shells and used in expressions, file names and URLs.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PRESET = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
# PEP 508; `normalize` returns the form in which installers compare names.
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def normalize(distribution: str) -> str:
    """Return a distribution name as PEP 503 compares it: ``Acme_Nets`` -> ``acme-nets``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def target_of(cls: type) -> str:
    """Return ``module:Class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def split_name(name: str) -> tuple[str, str]:
    """Split ``distribution/Name`` into normalized distribution and name; bare: ('', name)."""
    distribution, slash, bare = name.strip().rpartition("/")
    return (normalize(distribution), bare) if slash else ("", bare)


def matches(name: str, pattern: str) -> bool:
    """Return whether a shell pattern matches a name or its part behind ``dist/``, in any case."""
    folded = pattern.lower()
    names = (name.lower(), name.rpartition("/")[2].lower())
    return any(fnmatch.fnmatchcase(each, folded) for each in names)


def name_offence(name: object) -> str:
    """Say what is wrong with the name of a policy or wrapper, or return ''."""
    if isinstance(name, str) and _NAME.fullmatch(name) and not keyword.iskeyword(name):
        return ""
    return f"name: {name!r} should be a class name of ASCII letters, digits and '_', a letter first"


def preset_name_offence(name: str) -> str:
    """Say what is wrong with the name of a preset, or return ''."""
    if _PRESET.fullmatch(name):
        return ""
    return f"name: {name!r} should be of ASCII letters, digits, '_', '-' and '.', a letter first"


def reference_offence(name: object) -> str:
    """Say what is wrong with a ``Name`` or ``distribution/Name``, or return ''."""
    if not isinstance(name, str):
        return f"a name should be a string, got {name!r}"
    distribution, slash, bare = name.rpartition("/")
    if slash and not _DISTRIBUTION.fullmatch(distribution):
        return f"{distribution!r} in {name!r} is not a distribution name"
    return name_offence(bare)


def distribution_offence(name: object) -> str:
    """Say what is wrong with a distribution name, or return ''."""
    if isinstance(name, str) and _DISTRIBUTION.fullmatch(name):
        return ""
    return f"{name!r} is not a distribution name"


def target_offence(target: object) -> str:
    """Say what is wrong with a ``module:attribute``, or return ''."""
    if isinstance(target, str) and _TARGET.fullmatch(target):
        return ""
    hint = ""
    if isinstance(target, str) and ":" not in target:
        # The commonest slip is an import path with a dot before the class.
        module, _, attribute = target.rpartition(".")
        if _TARGET.fullmatch(f"{module}:{attribute}"):
            hint = f"; did you mean '{module}:{attribute}'?"
    return f"target: {target!r} should be 'module:Class'{hint}"


def record_offences(record: Record) -> list[str]:
    """Return everything that is wrong with a record by itself; each starts with its field."""
    offences = [name_offence(record.name), *_place_offences(record)]
    if record.loaded is None:
        offences.append(target_offence(record.target))
    offences += defaults_offences(record.defaults)
    if isinstance(record, PolicyRecord):
        offences += kind_offences("observations", record.capabilities.observations)
        offences += kind_offences("actions", record.capabilities.actions)
        offences.append(_size_offence(record.capabilities.min_image_size))
    elif isinstance(record, WrapperRecord):
        clash = sorted(set(record.requires) & set(record.forbids))
        offences += [f"forbids: {trait!r} is required as well" for trait in clash]
    return [offence for offence in offences if offence]


def kind_offences(field: str, kinds: Iterable[str]) -> list[str]:
    """Return what is wrong with ``observations`` or ``actions``: kinds that do not exist."""
    existing = OBSERVATION_KINDS if field == "observations" else ACTION_KINDS
    unknown = (kind for kind in kinds if kind not in existing)
    # One is enough to see the mistake, and the near names of thousands would take minutes.
    return [
        f"{field}: {kind!r} is not a kind; known are {', '.join(existing)}. "
        f"{did_you_mean(str(kind), existing)}".strip(" .")
        for kind in itertools.islice(unknown, len(existing))
    ]


def defaults_offences(defaults: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with default arguments: bad keywords, values that JSON can't hold."""
    offences = [
        f"defaults: {key!r} is not an argument name"
        for key in defaults
        if not (isinstance(key, str) and key.isidentifier())
    ]
    # Defaults become part of a spec, which checkpoints hold as JSON.
    for key, value in defaults.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            offences.append(f"defaults: {key} should be plain data, got {short(value)}")
    return offences


def _size_offence(size: object) -> str:
    good = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return "" if good else f"min_image_size: {size!r} should be a whole number, 0 or more"


def _place_offences(record: Record) -> list[str]:
    provenance = record.provenance
    offences = []
    if provenance.distribution != normalize(provenance.distribution):
        offences.append(f"distribution: {provenance.distribution!r} is not normalized")
    if provenance.layer is Layer.PLUGIN:
        # ``user/Net`` must never mean a package that happens to be called so.
        if provenance.distribution in (*LAYER_NAMES.values(), BUILTIN):
            offences.append(f"distribution: the name {provenance.distribution!r} is reserved")
        if record.override:
            offences.append("override: a package can't replace a name; only its user can")
    return offences
