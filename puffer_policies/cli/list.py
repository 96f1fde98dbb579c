"""The verbs that only look: list, show, why and doctor."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from puffer_policies.cards.card import Card
from puffer_policies.cli.card_fields import (
    card_data,
    card_fields,
    learning_fields,
    shipped_card,
    shipped_learning,
)
from puffer_policies.cli.output import print_fields, print_json, print_table
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.doctor import Finding, examine
from puffer_policies.registry.explain import package
from puffer_policies.registry.names import matches
from puffer_policies.registry.records import PolicyRecord, Preset, Record, WrapperRecord
from puffer_policies.registry.resolution import USABLE
from puffer_policies.registry.source import constructor_signature

MEASURE = "'puffer-policies show {} --card' measures it, which takes seconds"


def run_list(options: argparse.Namespace) -> int:
    """Print the names that match."""
    registry = default_registry()
    names = [name for name in registry.names() if matches(name, options.pattern)]
    records = {name: registry.get(name) for name in names}
    presets = {n: p for n, p in registry.presets.items() if matches(n, options.pattern)}
    if options.json:
        found = [record.to_dict() for record in records.values()]
        print_json({"names": found, "presets": {n: p.policy for n, p in presets.items()}})
        return 0
    _print_records(records, source=options.source)
    if presets:
        rows = [(name, preset.policy, preset.summary) for name, preset in presets.items()]
        print_table("Presets", ("name", "policy", "summary"), rows)
    if not records and not presets:
        print(f"Nothing matches {options.pattern!r}.")
    _print_failures(registry)
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print a record or a preset, with the card and the results that are shipped of it."""
    shown = described(options.name, default_registry())
    file, card = shipped_card(shown.data["qualified_name"])
    print_described(shown, card, machine=file.machine, as_json=options.json)
    return 0


def run_why(options: argparse.Namespace) -> int:
    """Print how a name is resolved; 1 if it leads nowhere."""
    told = default_registry().explain(options.name)
    if options.json:
        data = {"asked": told.asked, "verdict": told.verdict, "lines": told.lines}
        print_json({**data, "record": told.record.to_dict() if told.record else None})
    else:
        print("\n".join(told.lines))
    return 0 if told.verdict in (*USABLE, "preset") else 1


def run_doctor(options: argparse.Namespace) -> int:
    """Import everything and print what is wrong; 1 if something is."""
    findings = examine(default_registry(), slow_seconds=options.slow)
    bad = [finding for finding in findings if finding.is_problem]
    if options.json:
        print_json([finding.to_dict() for finding in findings])
    else:
        _print_findings(findings)
    return 1 if bad else 0


def _print_records(records: dict[str, Record], *, source: bool) -> None:
    last = "source" if source else "summary"
    policies = {n: r for n, r in records.items() if isinstance(r, PolicyRecord)}
    wrappers = {n: r for n, r in records.items() if isinstance(r, WrapperRecord)}
    if policies:
        rows = [
            (name, *_capabilities(r), package(r.provenance), _last(r, source=source))
            for name, r in policies.items()
        ]
        columns = ("name", "observations", "actions", "recurrent", "package", last)
        print_table("Policies", columns, rows)
    if wrappers:
        named = [(n, package(r.provenance), _last(r, source=source)) for n, r in wrappers.items()]
        print_table("Wrappers", ("name", "package", last), named)


def _last(record: Record, *, source: bool) -> str:
    return f"{record.target}  ({record.provenance.origin})" if source else record.summary


def _capabilities(record: PolicyRecord) -> tuple[str, str, str]:
    can = record.capabilities
    return _kinds(can.observations), _kinds(can.actions), _recurrent(record)


def _kinds(kinds: tuple[str, ...]) -> str:
    return ", ".join(kinds) or "any"


def _recurrent(record: PolicyRecord) -> str:
    return "yes" if record.capabilities.recurrent else ""


def _print_failures(registry: Registry) -> None:
    if registry.errors:
        count = len(registry.errors)
        print(f"{count} plug-in problem{'s' * (count > 1)}: see 'puffer-policies doctor'.")


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a name, as plain data and as names and texts to print."""

    data: dict[str, Any]
    fields: list[tuple[str, str]]
    expression: str
    """What builds it; a wrapper stands around Default."""


def described(name: str, registry: Registry) -> Description:
    """Describe the record or the preset of a name.

    Raises:
        PolicyError: as `Registry.get`.
    """
    if registry.explain(name).verdict == "preset":
        preset = registry.presets[name]
        return Description(_preset_data(preset), _preset_fields(preset), preset.policy)
    record = registry.get(name)
    own = record.qualified_name
    expression = f"{own}(Default)" if record.kind == "wrapper" else own
    data = {**record.to_dict(), "arguments": _arguments(record)}
    return Description(data, _record_fields(record), expression)


def print_described(shown: Description, card: Card | None, *, machine: str, as_json: bool) -> None:
    """Print what is known of a name, a card of it, and what it has learned."""
    name = shown.data["qualified_name"]
    learned = shipped_learning(name)
    if as_json:
        print_json({**shown.data, **card_data(card, machine=machine, learned=learned)})
        return
    known = card_fields(card, machine=machine) if card else [("card", MEASURE.format(name))]
    print_fields([*shown.fields, *known, *learning_fields(learned)])


def _preset_data(preset: Preset) -> dict[str, Any]:
    place = preset.provenance
    return {
        "name": preset.name,
        "qualified_name": preset.qualified_name,
        "kind": "preset",
        "policy": preset.policy,
        "summary": preset.summary,
        "distribution": place.distribution,
        "version": place.version,
        "layer": place.layer.name.lower(),
        "origin": place.origin,
    }


def _preset_fields(preset: Preset) -> list[tuple[str, str]]:
    place = preset.provenance
    return [
        ("name", preset.qualified_name),
        ("kind", "preset"),
        ("summary", preset.summary),
        ("policy", preset.policy),
        ("package", f"{package(place)} ({place.layer.name.lower()})"),
        ("registered", place.origin),
    ]


def _record_fields(record: Record) -> list[tuple[str, str]]:
    place = record.provenance
    fields = [
        ("name", record.qualified_name),
        ("kind", record.kind),
        ("summary", record.summary),
        ("paper", record.paper),
        ("target", record.target),
        ("package", f"{package(place)} ({place.layer.name.lower()})"),
        ("registered", place.origin),
        ("arguments", _arguments(record)),
        ("defaults", ", ".join(f"{key}={value!r}" for key, value in record.defaults.items())),
    ]
    if isinstance(record, PolicyRecord):
        fields.append(("observations", _kinds(record.capabilities.observations)))
        fields.append(("actions", _kinds(record.capabilities.actions)))
        fields.append(("recurrent", _recurrent(record)))
    if isinstance(record, WrapperRecord):
        traits = ("requires", "forbids", "provides")
        fields += [(trait, ", ".join(getattr(record, trait))) for trait in traits]
    return fields


def _arguments(record: Record) -> str:
    return constructor_signature(record.target, search_path=record.search_path)


def _print_findings(findings: list[Finding]) -> None:
    rows = [(f.subject, f.verdict, f.detail) for f in findings]
    print_table("Plug-ins", ("what", "verdict", "detail"), rows)
    bad = sum(finding.is_problem for finding in findings)
    print(f"{bad} problem{'s' * (bad != 1)} in {len(findings)} findings.")
