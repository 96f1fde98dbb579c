"""Says in words where a name leads: the text of ``why`` and of every failed look-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from puffer_policies.errors import (
    AmbiguousName,
    PluginError,
    PolicyError,
    PolicyNotFound,
    PolicyRemoved,
    nearest,
)
from puffer_policies.registry.names import split_name
from puffer_policies.registry.records import Pointer, Preset, Provenance, Record
from puffer_policies.registry.resolution import Entry, Resolution, Verdict

_EXAMPLES = ("Default", "LSTMWrapper")


class Explanation(NamedTuple):
    """What is known of a name."""

    asked: str
    verdict: Verdict
    record: Record | None
    """The record that the name leads to, or None."""
    records: tuple[Record, ...]
    """Every record that bears the name, strongest first."""
    lines: tuple[str, ...]
    """The explanation, ready to print."""
    suggestions: tuple[str, ...]
    """Near names, where the name leads nowhere."""
    failures: tuple[PluginError, ...]
    """The failed plug-ins that may have offered it."""


def explanation(
    found: Resolution, *, names: Iterable[str], failures: Sequence[PluginError]
) -> Explanation:
    """Return what is known of a name that was looked up."""
    known = [] if found.record is not None else list(names)
    related = _related(found, failures)
    verdict: Verdict = found.verdict
    if verdict == "not found" and any(_is_from(error, found.asked) for error in related):
        verdict = "broken"
    error = lookup_error(found, names=known, failures=failures)
    lines = [*_story(found)] if error is None else str(error).splitlines()
    return Explanation(
        asked=found.asked,
        verdict=verdict,
        record=found.record,
        records=tuple(entry for entry in found.entries if isinstance(entry, Record)),
        lines=tuple(lines),
        suggestions=tuple(nearest(found.asked, known)),
        failures=tuple(related),
    )


def lookup_error(
    found: Resolution, *, names: Iterable[str], failures: Sequence[PluginError]
) -> PolicyError | None:
    """Return the error of a look-up that led to no record, or None if it did."""
    if found.record is not None:
        return None
    if found.verdict == "ambiguous":
        return _ambiguous(found)
    if found.verdict == "removed":
        return _removed(found)
    if found.verdict == "blocked":
        return _blocked(found)
    if found.verdict == "broken":
        return _broken(found)
    return _not_found(found.asked, list(names), _related(found, failures))


def wrong_kind(record: Record, asked: str, others: Sequence[str]) -> PolicyNotFound:
    """Return the error of a wrapper asked for as a policy, or a policy as a wrapper.

    `others` are the names of the other kind.
    """
    other = next(iter(sorted(others, key=lambda name: (name not in _EXAMPLES, name))), "")
    if record.kind == "wrapper":
        problem = f"{asked!r} is a wrapper, not a policy."
        fix = f"Put it around a policy, as in '{asked}({other or 'MyPolicy'})'."
    else:
        problem = f"{asked!r} is a policy, not a wrapper."
        fix = f"A policy goes inside a wrapper, as in '{other or 'MyWrapper'}({asked})'."
    return PolicyNotFound(problem, fix=fix)


def preset_error(preset: Preset) -> PolicyNotFound:
    """Return the error of a preset asked for as a policy."""
    return PolicyNotFound(
        f"{preset.name!r} is a preset, not a policy: it stands for {preset.policy!r} "
        f"({package(preset.provenance)}, {preset.provenance.origin}).",
        fix=f"get_policy({preset.name!r}, env) builds it.",
    )


def preset_explanation(preset: Preset, asked: str) -> Explanation:
    """Return what is known of a preset."""
    line = (
        f"{asked!r} is a preset of {package(preset.provenance)} ({preset.provenance.origin}): "
        f"{preset.policy}"
    )
    return Explanation(
        asked=asked,
        verdict="preset",
        record=None,
        records=(),
        lines=(line,),
        suggestions=(),
        failures=(),
    )


def deprecation(found: Resolution) -> str:
    """Return the text of the warning for a deprecated name."""
    old = next(pointer for pointer in found.trail if pointer.kind == "deprecated")
    return (
        f"{found.asked!r} is deprecated in favour of {old.text!r} "
        f"({package(old.provenance)}, {old.provenance.origin}). Ask for {old.text!r}."
    )


def described(entry: Entry) -> str:
    """Return one line that identifies an entry: qualified name, package, target and place."""
    if isinstance(entry, Pointer):
        arrow = ": " if entry.kind == "removed" else " -> "
        what = f"{entry.kind}{arrow}{entry.text}"
    else:
        what = f"{entry.kind} {entry.target}"
    return (
        f"{entry.qualified_name} ({what}, {package(entry.provenance)}, {entry.provenance.origin})"
    )


def package(provenance: Provenance) -> str:
    """Return ``acme-nets 1.2``, or where a record without a package came from."""
    return f"{provenance.distribution} {provenance.version}".strip()


def _story(found: Resolution) -> Iterable[str]:
    record = found.record
    assert record is not None
    for pointer in found.trail:
        word = "is deprecated: use" if pointer.kind == "deprecated" else "is an alias of"
        yield f"{pointer.name!r} {word} {pointer.text!r} ({pointer.provenance.origin})."
    yield f"{found.asked!r} is {described(record)}."
    if found.verdict == "shadowed":
        yield f"The bare name {record.name!r} does not lead to it."
    if found.rule:
        yield f"Settled for {found.rule.text} by {found.rule.origin}."
    others = [entry for entry in found.entries if entry is not record and not found.trail]
    if others:
        yield "The same name is offered by:"
        yield from (f"  {described(entry)}" for entry in others)


def _ambiguous(found: Resolution) -> AmbiguousName:
    top = found.entries[0].provenance.layer
    rivals = [entry for entry in found.entries if entry.provenance.layer == top]
    name = rivals[0].name
    listed = "\n".join(f"  {described(entry)}" for entry in rivals)
    first = rivals[0]
    return AmbiguousName(
        f"{found.asked!r} is offered by {len(rivals)} installed packages:\n{listed}",
        fix=f"Ask for {first.qualified_name!r}, or settle it in your registry.toml:\n"
        f'  [resolve]\n  {name} = "{first.provenance.distribution}"',
    )


def _removed(found: Resolution) -> PolicyRemoved:
    tombstone = found.trail[-1]
    return PolicyRemoved(
        f"{found.asked!r} was removed from {package(tombstone.provenance)}: {tombstone.text}",
        fix=f"Its tombstone is {tombstone.provenance.origin}.",
    )


def _blocked(found: Resolution) -> PolicyNotFound:
    assert found.rule is not None
    listed = "\n".join(f"  {described(entry)}" for entry in found.entries)
    return PolicyNotFound(
        f"{found.asked!r} is blocked: {found.rule.text} ({found.rule.origin}). "
        f"It would be:\n{listed}",
        fix=f"Change {found.rule.origin} if you want it.",
    )


def _broken(found: Resolution) -> PolicyNotFound:
    if found.rule:
        listed = "\n".join(f"  {described(entry)}" for entry in found.entries)
        return PolicyNotFound(
            f"{found.asked!r} is settled for {found.rule.text!r} by {found.rule.origin}, "
            f"which does not offer it. These do:\n{listed}",
            fix=f"Correct the line, or install {found.rule.text!r}.",
        )
    last = found.trail[-1]
    way = " -> ".join(repr(pointer.name) for pointer in found.trail) + f" -> {last.text!r}"
    circle = any(pointer.name == last.text for pointer in found.trail)
    reason = "which is a circle" if circle else f"and there is no {last.text!r}"
    return PolicyNotFound(
        f"{found.asked!r} leads nowhere: {way}, {reason}.",
        fix=f"Correct {last.provenance.origin}.",
    )


def _not_found(asked: str, names: Iterable[str], failures: Sequence[PluginError]) -> PolicyNotFound:
    names = list(names)
    problem = f"No policy or wrapper is called {asked!r}."
    if failures:
        listed = "\n".join(f"  {_headline(error)}" for error in failures)
        problem += f"\nThese plug-ins failed to load and may offer it:\n{listed}"
    return PolicyNotFound(problem, fix=_cure(asked, names))


def _cure(asked: str, names: list[str]) -> str:
    if ":" in asked:
        return (
            "A name is not an import path. Register the class in your registry.toml:\n"
            f'  [policies.{asked.rpartition(":")[2] or "MyPolicy"}]\n  target = "{asked}"'
        )
    if "(" in asked:
        return "That is an expression: get_policy builds it; a look-up takes a name."
    close = nearest(split_name(asked)[1], names) or nearest(asked, names)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)}?"
    return f"Registered are {', '.join(names)}." if names else "Nothing is registered."


def _related(found: Resolution, failures: Sequence[PluginError]) -> list[PluginError]:
    """Return the failures that bear on a name: its own package's if it names one, else all."""
    if found.record is not None:
        return []
    own = [error for error in failures if _is_from(error, found.asked)]
    return own if "/" in found.asked else list(failures)


def _is_from(error: PluginError, asked: str) -> bool:
    distribution, _ = split_name(asked)
    return bool(distribution) and error.distribution == distribution


def _headline(error: PluginError) -> str:
    name = f"{error.distribution} {error.version}".strip()
    first = error.problem.splitlines()[0]
    return f"{name}: {first}" if name else first
