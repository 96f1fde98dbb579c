"""What one registry.toml says: names, the user's choices among them, limits on versions.

`packaging` is imported inside the functions: few files have limits, and importing it takes as long
as reading all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from puffer_policies.registry.records import Pointer, Preset, Record
from puffer_policies.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Requirement:
    """A version limit on a distribution."""

    distribution: str
    specifier: str
    origin: str

    def allows(self, version: str) -> bool:
        """Return whether an installed version is within the limit; pre-releases count."""
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion

        try:
            return SpecifierSet(self.specifier).contains(version, prereleases=True)
        except InvalidVersion:
            return False


@dataclass(frozen=True, slots=True)
class Choice:
    """A line of ``[resolve]`` or ``[block]``: what it names, and where it stands."""

    table: Literal["resolve", "names", "distributions"]
    name: str
    distribution: str
    origin: str


@dataclass(slots=True)
class Catalog:
    """What one registry.toml says, checked as far as the file alone allows."""

    records: list[Record] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)
    presets: list[Preset] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)

    def enter(self, registry: Registry) -> None:
        """Register everything but the version limits, which need to know what is installed."""
        for choice in self.choices:
            if choice.table == "resolve":
                registry.settle(choice.name, choice.distribution, origin=choice.origin)
            else:
                registry.block(**{choice.table: [choice.name]}, origin=choice.origin)
        for record in self.records:
            registry.add(record)
        for pointer in self.pointers:
            registry.alias(pointer)
        for preset in self.presets:
            registry.add_preset(preset)


def specifier_offence(specifier: str) -> str:
    """Say what is wrong with a version limit such as ``>=1.2,<2``, or return ''."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(specifier)
    except InvalidSpecifier:
        return f"{specifier!r} is not a version limit such as '>=1.2,<2'"
    return ""
