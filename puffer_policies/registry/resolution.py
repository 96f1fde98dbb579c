"""Which record a name leads to: the book of everything registered, and the rule of looking it up.

A bare name belongs to the strongest layer that offers it; several packages in the plug-in layer
make it ambiguous. ``distribution/Name`` always leads to its own entry. The order in which entries
were registered plays no part, as that is an accident of what was installed or imported first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from puffer_policies.registry.names import split_name
from puffer_policies.registry.records import Pointer, Record

Entry = Record | Pointer

Verdict = Literal[
    "found",
    "alias",
    "deprecated",
    "removed",
    "ambiguous",
    "shadowed",
    "blocked",
    "broken",
    "preset",
    "pretrained",
    "env",
    "not found",
]


class Rule(NamedTuple):
    """A line of a registry.toml about names: its meaning in words, and where it is."""

    text: str
    origin: str


@dataclass(slots=True)
class Book:
    """Everything registered, and the user's rules about it; distribution names are normalized."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """Bare name -> distribution -> entry."""
    settled: dict[str, Rule] = field(default_factory=dict)
    """Bare name -> the distribution that has it."""
    blocked_names: dict[str, Rule] = field(default_factory=dict)
    """Bare or qualified name -> why it is not to be used."""
    blocked_distributions: dict[str, Rule] = field(default_factory=dict)
    """Distribution -> why nothing of it is to be used."""
    refused: dict[str, Rule] = field(default_factory=dict)
    """Distribution -> the version limit that its installed version misses."""

    def all(self) -> Iterator[Entry]:
        """Yield every entry, sorted by name and then by distribution."""
        for name in sorted(self.entries):
            for distribution in sorted(self.entries[name]):
                yield self.entries[name][distribution]

    def named(self, name: str, distribution: str = "") -> list[Entry]:
        """Return the entries with this bare name, strongest first."""
        rivals = self.entries.get(name, {})
        if distribution:
            return [rivals[distribution]] if distribution in rivals else []
        return sorted(
            rivals.values(), key=lambda e: (-e.provenance.layer, e.provenance.distribution)
        )

    def block(self, entry: Entry) -> Rule | None:
        """Return the rule that blocks an entry, if one does."""
        return (
            self.blocked_names.get(entry.name)
            or self.blocked_names.get(entry.qualified_name)
            or self.blocked_distributions.get(entry.provenance.distribution)
        )


class Resolution(NamedTuple):
    """Where a name leads, and by which way."""

    name: str
    """The name that was looked up."""
    verdict: Verdict
    record: Record | None = None
    """The record, if the verdict is one of `USABLE`."""
    entries: tuple[Entry, ...] = ()
    """Everything that bears the name, strongest first."""
    trail: tuple[Pointer, ...] = ()
    """The aliases that were followed."""
    rule: Rule | None = None
    """The line that decided, if one did."""


MAX_ALIASES = 32
"""Aliases of aliases that are followed; a chain of thousands would end in a deep recursion."""

USABLE: tuple[Verdict, ...] = ("found", "alias", "deprecated", "shadowed")
"""The verdicts of a name that leads to a record."""


def resolve(book: Book, name: str) -> Resolution:
    """Return where `name`, a ``Name`` or ``distribution/Name``, leads."""
    return _follow(book, name, name, ())


def _follow(book: Book, query: str, name: str, trail: tuple[Pointer, ...]) -> Resolution:
    distribution, bare = split_name(name)
    entries = tuple(book.named(bare, distribution))
    allowed = [entry for entry in entries if not book.block(entry)]
    if not entries:
        return Resolution(name=query, verdict="broken" if trail else "not found", trail=trail)
    # A blocked entry makes room for a weaker layer's; only if none is left does the block decide.
    if not allowed:
        rule = book.block(entries[0])
        return Resolution(name=query, verdict="blocked", entries=entries, trail=trail, rule=rule)
    rule = None if distribution else book.settled.get(bare)
    if rule:
        winners = [entry for entry in allowed if entry.provenance.distribution == rule.text]
    else:  # those of the strongest layer, which come first
        top = allowed[0].provenance.layer
        winners = [entry for entry in allowed if entry.provenance.layer == top]
    if len(winners) != 1:
        verdict: Verdict = "ambiguous" if winners else "broken"
        return Resolution(name=query, verdict=verdict, entries=entries, trail=trail, rule=rule)
    arrived = _arrive(book, query, winners[0], entries, trail)
    return arrived._replace(rule=arrived.rule or rule)


def _arrive(
    book: Book, query: str, entry: Entry, entries: tuple[Entry, ...], trail: tuple[Pointer, ...]
) -> Resolution:
    # A version limit does not make room, unlike a block: the user wants this entry, only newer, and
    # would not notice that another package answers for it.
    if refusal := book.refused.get(entry.provenance.distribution):
        return Resolution(name=query, verdict="blocked", entries=entries, trail=trail, rule=refusal)
    if isinstance(entry, Record):
        verdict = _verdict(book, query, entry, trail)
        return Resolution(name=query, verdict=verdict, record=entry, entries=entries, trail=trail)
    walked = (*trail, entry)
    if entry.kind == "removed":
        return Resolution(name=query, verdict="removed", entries=entries, trail=walked)
    # A name that comes back to itself, or goes on and on.
    if entry in trail or len(trail) == MAX_ALIASES:
        return Resolution(name=query, verdict="broken", entries=entries, trail=walked)
    return _follow(book, query, _successor(book, entry), walked)


def _successor(book: Book, pointer: Pointer) -> str:
    """Return the name a pointer leads to: one of its own distribution first."""
    own = f"{pointer.provenance.distribution}/{pointer.text}"
    distribution, name = split_name(own)
    # An alias may have the name it leads to: `Conv -> Conv` means somebody else's Conv.
    is_itself = name == pointer.name
    return own if book.named(name, distribution) and not is_itself else pointer.text


def _verdict(book: Book, query: str, record: Record, trail: tuple[Pointer, ...]) -> Verdict:
    if any(pointer.kind == "deprecated" for pointer in trail):
        return "deprecated"
    if trail:
        return "alias"
    if "/" in query and resolve(book, record.name).record is not record:
        return "shadowed"
    return "found"
