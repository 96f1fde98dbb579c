"""Version limits on distributions, such as ``>=1.2,<2``.

`packaging` is imported inside the functions: few files have limits, and importing it takes as long
as reading all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def specifier_offence(specifier: str) -> str:
    """Say what is wrong with a version limit such as ``>=1.2,<2``, or return ''."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(specifier)
    except InvalidSpecifier:
        return f"{specifier!r} is not a version limit such as '>=1.2,<2'"
    return ""
