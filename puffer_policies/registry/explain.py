"""Explains in words where a name leads: the text of ``why`` and of every failed look-up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from puffer_policies.errors import (
    AmbiguousName,
    PluginError,
    PolicyError,
    PolicyNotFound,
    PolicyRemoved,
    did_you_mean,
    nearest,
)
from puffer_policies.files import shipped_file
from puffer_policies.registry.names import (
    BUILTIN,
    LAYER_NAMES,
    distribution_offence,
    split_name,
)
from puffer_policies.registry.records import (
    EnvModule,
    Layer,
    Pointer,
    Preset,
    Pretrained,
    Provenance,
    Record,
)
from puffer_policies.registry.resolution import MAX_ALIASES, Entry, Resolution, Verdict

_EXAMPLES = ("Default", "LSTMWrapper")
"""Names to suggest first in an example, as every user meets them."""
OWN_PRETRAINED = "puffer-policies-pretrained"
"""Our own package of pretrained policies."""
_UNTRUSTED = "Its code does not run before you trust it"


class Explanation(NamedTuple):
    """What is known about a name."""

    name: str
    """The name that was looked up."""
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
    resolution: Resolution,
    *,
    names: Iterable[str],
    distributions: Iterable[str],
    failures: Sequence[PluginError],
) -> Explanation:
    """Return what is known about a name that was looked up; arguments as in `lookup_error`."""
    candidates = [] if resolution.record is not None else list(names)
    related = _related(resolution, failures)
    verdict: Verdict = resolution.verdict
    # A package that failed to load may offer the name: the user's spelling is not to blame.
    if verdict == "not found" and any(_is_from(error, resolution.name) for error in related):
        verdict = "broken"
    error = lookup_error(
        resolution, names=candidates, distributions=distributions, failures=failures
    )
    lines = [*_path_lines(resolution)] if error is None else str(error).splitlines()
    return Explanation(
        name=resolution.name,
        verdict=verdict,
        record=resolution.record,
        records=tuple(entry for entry in resolution.entries if isinstance(entry, Record)),
        lines=tuple(lines),
        suggestions=tuple(nearest(resolution.name, candidates)),
        failures=tuple(related),
    )


def lookup_error(
    resolution: Resolution,
    *,
    names: Iterable[str],
    distributions: Iterable[str],
    failures: Sequence[PluginError],
) -> PolicyError | None:
    """Return the error of a look-up that led to no record, or None if it did.

    Args:
        resolution: what the look-up led to.
        names: the usable names, to suggest near ones.
        distributions: those that offer any name.
        failures: the errors of plug-ins, which may have offered it.
    """
    if resolution.record is not None:
        return None
    if resolution.verdict == "ambiguous":
        return _ambiguous(resolution)
    if resolution.verdict == "removed":
        return _removed(resolution)
    if resolution.verdict == "blocked":
        return _blocked(resolution)
    if resolution.verdict == "broken":
        return _broken(resolution)
    related = _related(resolution, failures)
    return _not_found(resolution.name, list(names), distributions, related)


def wrong_kind(record: Record, name: str, others: Sequence[str]) -> PolicyNotFound:
    """Return the error of a wrapper that is used as a policy, or a policy as a wrapper.

    `others` are the names of the other kind.
    """
    other = next(iter(sorted(others, key=lambda each: (each not in _EXAMPLES, each))), "")
    if record.kind == "wrapper":
        problem = f"{name!r} is a wrapper, not a policy."
        fix = f"Put it around a policy, as in '{name}({other or 'MyPolicy'})'."
    else:
        problem = f"{name!r} is a policy, not a wrapper."
        fix = f"A policy goes inside a wrapper, as in '{other or 'MyWrapper'}({name})'."
    return PolicyNotFound(problem, fix=fix)


def preset_error(preset: Preset) -> PolicyNotFound:
    """Return the error of a preset that is used as a policy."""
    return PolicyNotFound(
        f"{preset.name!r} is a preset, not a policy: it stands for {preset.policy!r} "
        f"({package(preset.provenance)}, {preset.provenance.origin}).",
        fix=f"get_policy({preset.name!r}, env) builds it.",
    )


def preset_explanation(preset: Preset, name: str) -> Explanation:
    """Return what is known about a preset."""
    line = (
        f"{name!r} is a preset of {package(preset.provenance)} ({preset.provenance.origin}): "
        f"{preset.policy}"
    )
    return _explanation_of_other(name, "preset", line)


def pretrained_as_name(record: Pretrained, name: str) -> PolicyNotFound:
    """Return the error of a pretrained policy whose name is used as that of a class."""
    return PolicyNotFound(
        f"{_pretrained_line(record, name)}, and not the name of a policy or wrapper.",
        fix=f"load_policy('pretrained://{name}') builds it; on the command line, --pretrained "
        f"{name} takes it for a checkpoint.",
    )


def pretrained_explanation(record: Pretrained, name: str) -> Explanation:
    """Return what is known about a pretrained policy."""
    return _explanation_of_other(name, "pretrained", f"{_pretrained_line(record, name)}.")


def _pretrained_line(record: Pretrained, name: str) -> str:
    place = record.provenance
    return f"{name!r} is a pretrained policy of {package(place)} ({record.target}, {place.origin})"


def pretrained_error(name: str, records: Sequence[Pretrained]) -> PolicyError:
    """Return the error of a name that leads to none of the pretrained policies, or to several."""
    rivals = sorted(each.qualified_name for each in records if each.name == name)
    if rivals:
        return AmbiguousName(
            f"{name!r} is brought by {len(rivals)} installed packages: {', '.join(rivals)}.",
            fix=f"Use {rivals[0]!r}.",
        )
    names = [*(each.name for each in records), *(each.qualified_name for each in records)]
    owner = split_name(name)[0] or OWN_PRETRAINED
    fix = did_you_mean(name, names)
    if not fix and owner not in {each.provenance.distribution for each in records}:
        fix = source_text(owner)
    return PolicyNotFound(
        f"No installed package brings a pretrained policy {name!r}.",
        fix=fix or "'puffer-policies list --pretrained' lists them.",
    )


def env_explanation(env: EnvModule) -> Explanation:
    """Return what is known about an env that a registry.toml names."""
    place = env.provenance
    lines = [
        f"{env.env_id!r} is an env that the module {env.module!r} registers with gymnasium "
        f"({package(place)}, {place.origin})."
    ]
    if place.distrust:
        lines.append(f"{_UNTRUSTED}: {place.distrust}.")
    return _explanation_of_other(env.env_id, "env", *lines)


def _explanation_of_other(name: str, verdict: Verdict, *lines: str) -> Explanation:
    """Return what is known about a name that is neither a policy's nor a wrapper's."""
    return Explanation(
        name=name,
        verdict=verdict,
        record=None,
        records=(),
        lines=lines,
        suggestions=(),
        failures=(),
    )


def deprecation(resolution: Resolution) -> str:
    """Return the text of the warning for a deprecated name."""
    old = next(pointer for pointer in resolution.trail if pointer.kind == "deprecated")
    return (
        f"{resolution.name!r} is deprecated in favor of {old.text!r} "
        f"({package(old.provenance)}, {old.provenance.origin}). Use {old.text!r} instead."
    )


def label(entry: Entry) -> str:
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
    name = f"{provenance.distribution} {provenance.version}".strip()
    return f"{name}, not trusted" if provenance.distrust else name


def _path_lines(resolution: Resolution) -> Iterable[str]:
    record = resolution.record
    assert record is not None
    for pointer in resolution.trail:
        word = "is deprecated: use" if pointer.kind == "deprecated" else "is an alias of"
        yield f"{pointer.name!r} {word} {pointer.text!r} ({pointer.provenance.origin})."
    yield f"{resolution.name!r} is {label(record)}."
    if record.provenance.distrust:
        yield f"{_UNTRUSTED}: {record.provenance.distrust}."
    if resolution.verdict == "shadowed":
        yield f"The bare name {record.name!r} does not lead to it."
    if resolution.rule:
        yield f"Settled for {resolution.rule.text} by {resolution.rule.origin}."
    others = [entry for entry in resolution.entries if entry is not record and not resolution.trail]
    if others:
        yield "The same name is offered by:"
        yield from (f"  {label(entry)}" for entry in others)


def _ambiguous(resolution: Resolution) -> AmbiguousName:
    # Only entries of the strongest layer compete; the weaker ones would not have the name anyway.
    top = resolution.entries[0].provenance.layer
    rivals = [entry for entry in resolution.entries if entry.provenance.layer == top]
    name = rivals[0].name
    lines = "\n".join(f"  {label(entry)}" for entry in rivals)
    first = rivals[0]
    return AmbiguousName(
        f"{resolution.name!r} is offered by {len(rivals)} installed packages:\n{lines}",
        fix=f"Use {first.qualified_name!r}, or settle it in your registry.toml:\n"
        f'  [resolve]\n  {name} = "{first.provenance.distribution}"',
    )


def _removed(resolution: Resolution) -> PolicyRemoved:
    tombstone = resolution.trail[-1]
    return PolicyRemoved(
        f"{resolution.name!r} was removed from {package(tombstone.provenance)}: {tombstone.text}",
        fix=f"Its tombstone is {tombstone.provenance.origin}.",
    )


def _blocked(resolution: Resolution) -> PolicyNotFound:
    assert resolution.rule is not None
    lines = "\n".join(f"  {label(entry)}" for entry in resolution.entries)
    return PolicyNotFound(
        f"{resolution.name!r} is blocked: {resolution.rule.text} ({resolution.rule.origin}). "
        f"It would be:\n{lines}",
        fix=f"Change {resolution.rule.origin} if you want it.",
    )


def _broken(resolution: Resolution) -> PolicyNotFound:
    if rule := resolution.rule:
        lines = "\n".join(f"  {label(entry)}" for entry in resolution.entries)
        return PolicyNotFound(
            f"{resolution.name!r} is settled for {rule.text!r} by {rule.origin}, "
            f"which does not offer it. These do:\n{lines}",
            fix=f"Correct the line, or install {rule.text!r}.",
        )
    last, trail = resolution.trail[-1], resolution.trail
    is_circle = last in trail[:-1]
    # A circle was followed until it came back to an alias, which ends the way that is shown.
    names = [each.name for each in trail] + [last.text] * (not is_circle)
    way = " -> ".join(map(repr, names))
    if is_circle:
        reason = "which is a circle"
    elif len(trail) > MAX_ALIASES:
        reason = f"which is a chain of more than {MAX_ALIASES} aliases"
    else:
        reason = f"and there is no {last.text!r}"
    return PolicyNotFound(
        f"{resolution.name!r} leads nowhere: {way}, {reason}.",
        fix=f"Correct {last.provenance.origin}.",
    )


def source_text(distribution: str, version: str = "") -> str:
    """Say how to get the names of a distribution, or of what stands in its place."""
    if distribution == LAYER_NAMES[Layer.PROJECT]:
        return (
            "'project' is the registry.toml of a project. Run in its folder, or set "
            "PUFFER_POLICIES_REGISTRY to the file."
        )
    if distribution == LAYER_NAMES[Layer.USER]:
        return "'user' is somebody's own ~/.config/puffer_policies/registry.toml."
    if distribution == LAYER_NAMES[Layer.PROCESS]:
        return (
            "'local' is a class that a program registers or passes. Import its module first, on "
            "the command line by --import MODULE."
        )
    # The name may come from a stranger's checkpoint, and a shell obeys more than names.
    if distribution_offence(distribution):
        return ""
    pinned = f"'{distribution}=={version}'" if _is_version(version) else distribution
    return f"If you trust {distribution!r}, install it: pip install {pinned}"


def _is_version(text: str) -> bool:
    return bool(text) and text.isascii() and text.replace(".", "").replace("+", "").isalnum()


def _not_found(
    name: str,
    names: list[str],
    distributions: Iterable[str],
    failures: Sequence[PluginError],
) -> PolicyNotFound:
    problem = f"No policy or wrapper is called {name!r}."
    fix = _not_found_fix(name, names, distributions)
    if any(_is_from(error, name) for error in failures):
        fix = "'puffer-policies doctor' imports every plug-in and says more."
    if failures:
        lines = "\n".join(f"  {_headline(error)}" for error in failures)
        problem += f"\nThese plug-ins failed to load and may offer it:\n{lines}"
    return PolicyNotFound(problem, fix=fix)


def _not_found_fix(name: str, names: list[str], distributions: Iterable[str]) -> str:
    if ":" in name:
        # No import path is ever taken for a name: configs and checkpoints come from strangers.
        return (
            "A name is not an import path. Register the class in your registry.toml:\n"
            f'  [policies.{name.rpartition(":")[2] or "MyPolicy"}]\n  target = "{name}"'
        )
    if "(" in name:
        return "That is an expression, which get_policy builds; only a name can be looked up."
    distribution, bare = split_name(name)
    if distribution and distribution not in distributions:
        # Of the names of other packages only its namesakes can be meant.
        namesakes = [each for each in names if "/" in each and split_name(each)[1] == bare]
        return f"{did_you_mean(name, namesakes)} {source_text(distribution)}".strip()
    if owner := _known_owner(bare):
        return f"{owner} has it. {source_text(owner)}"
    # The bare name first: qualified names look alike by their long distributions.
    close = nearest(split_name(name)[1], names) or nearest(name, names)
    if close:
        return f"Did you mean {' or '.join(repr(each) for each in close)}?"
    return f"The registered names are {', '.join(names)}." if names else "Nothing is registered."


def _known_owner(name: str) -> str:
    """Return the package of ours that offers a name, and is not installed, or ''."""
    path = shipped_file("docs/cards.json")
    cards = json.loads(path.read_text(encoding="utf-8"))["cards"] if path else {}
    owners = (split_name(each)[0] for each in cards if split_name(each)[1] == name)
    return next((owner for owner in owners if owner != BUILTIN), "")


def _related(resolution: Resolution, failures: Sequence[PluginError]) -> list[PluginError]:
    """Return the failures that may explain a missing name: its package's if it names one."""
    if resolution.record is not None:
        return []
    # A bare name could have come from any package that failed.
    own = [error for error in failures if _is_from(error, resolution.name)]
    return own if "/" in resolution.name else list(failures)


def _is_from(error: PluginError, name: str) -> bool:
    distribution, _ = split_name(name)
    return bool(distribution) and error.distribution == distribution


def _headline(error: PluginError) -> str:
    name = f"{error.distribution} {error.version}".strip()
    first = error.problem.splitlines()[0]
    return f"{name}: {first}" if name else first
