"""The verb show: all that is known about a name, and what it measures when it is built."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puffer_policies.cards.card import TASK_TEXTS, Card, CardFile, read_cards
from puffer_policies.cards.results import LearningResult, read_results
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.files import shipped_file
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.explain import package
from puffer_policies.registry.records import EnvModule, Preset, Provenance, Record
from puffer_policies.registry.source import constructor_signature

MEASURE = "'puffer-policies show {} --card' measures it, which takes seconds"


@dataclass(frozen=True, slots=True)
class Description:
    """What is known about a name, as plain data and as names and texts to print."""

    data: dict[str, Any]
    fields: list[tuple[str, str]]
    expression: str
    """What builds it; a wrapper stands around Default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name, and whether it is built."""
    parser.add_argument(
        "name", metavar="NAME", help="a policy, a wrapper, a preset or an env of a registry.toml"
    )
    build = parser.add_mutually_exclusive_group()
    build.add_argument(
        "--env",
        type=text,
        metavar="ENV",
        help="build it for this environment and count its parameters",
    )
    build.add_argument(
        "--card", action="store_true", help="build it and measure its speed, which takes seconds"
    )


def run(options: argparse.Namespace) -> int:
    """Print what is known about a name, its card or its parameters for an environment."""
    registry = default_registry()
    if options.env is None and not options.card and registry.explain(options.name).verdict == "env":
        _print_env(registry.envs[options.name], options)
        return 0
    description = describe(options.name, registry)
    if options.env is not None:
        from puffer_policies.assembly.factory import get_policy  # torch
        from puffer_policies.cards.measurement import count_parameters

        policy = get_policy(description.expression, options.env, registry=registry)
        parts = {name: count_parameters(part) for name, part in policy.named_children()}
        total = count_parameters(policy)
        _print_parameters(
            description, {"env": options.env, "total": total, "parts": parts}, options
        )
    elif options.card:
        from puffer_policies.cards.measurement import measure_card  # torch

        _print(description, measure_card(options.name, registry), "this machine", options)
    else:
        # Cards ship with the package: to build a policy here would import torch for seconds.
        file, card = shipped_card(description.data["qualified_name"])
        _print(description, card, file.machine, options)
    return 0


def describe(name: str, registry: Registry) -> Description:
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
    # Read from the source text, because importing the class would import torch.
    arguments = constructor_signature(record.target, search_path=record.search_path)
    data = {**record.to_dict(), "arguments": arguments}
    return Description(data, _record_fields(record, arguments), expression)


def shipped_card(qualified_name: str) -> tuple[CardFile, Card | None]:
    """Return the shipped cards, and that of a name if it has one."""
    file = read_cards(shipped_file("docs/cards.json"))
    return file, file.cards.get(qualified_name)


def shipped_learning(qualified_name: str) -> Sequence[LearningResult]:
    """Return the shipped results of a name."""
    return read_results(shipped_file("docs/results.jsonl")).get(qualified_name, ())


def _print(
    description: Description, card: Card | None, machine: str, options: argparse.Namespace
) -> None:
    """Print what is known about a name, a card of it, and its shipped results."""
    name = description.data["qualified_name"]
    results = shipped_learning(name)
    if options.json:
        card_data = None if card is None else {**card.to_dict(), "machine": machine}
        learning = [each.to_dict() for each in results]
        print_json({**description.data, "card": card_data, "learning": learning})
        return
    fields = _card_fields(card, machine) if card else [("card", MEASURE.format(name))]
    print_fields([*description.fields, *fields, _learning_field(results)])


def _print_env(env: EnvModule, options: argparse.Namespace) -> None:
    place = env.provenance
    data = {
        "name": env.env_id,
        "kind": "env",
        "module": env.module,
        "distribution": place.distribution,
        "layer": place.layer.name.lower(),
        "origin": place.origin,
        "distrust": place.distrust,
    }
    if options.json:
        print_json(data)
        return
    fields = [(key, data[key]) for key in ("name", "kind", "module")]
    fields += [("package", package(place)), ("registered", place.origin), _trust_field(place)]
    print_fields(fields)


def _print_parameters(
    description: Description, counts: dict[str, Any], options: argparse.Namespace
) -> None:
    if options.json:
        print_json({**description.data, "parameters": counts})
        return
    total = ("parameters", f"{counts['total']:,} for {counts['env']}")
    parts = [(f"  {part}", f"{number:,}") for part, number in counts["parts"].items()]
    print_fields([*description.fields, total, *parts])


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


def _record_fields(record: Record, arguments: str) -> list[tuple[str, str]]:
    place = record.provenance
    fields = [
        ("name", record.qualified_name),
        ("kind", record.kind),
        ("summary", record.summary),
        ("paper", record.paper),
        ("target", record.target),
        ("package", f"{package(place)} ({place.layer.name.lower()})"),
        ("registered", place.origin),
        _trust_field(place),
        ("arguments", arguments),
        ("defaults", ", ".join(f"{key}={value!r}" for key, value in record.defaults.items())),
    ]
    empty = "any" if record.kind == "policy" else ""
    features = record.features.items()
    return [*fields, *((name, _feature_text(value, empty)) for name, value in features)]


def _trust_field(place: Provenance) -> tuple[str, str]:
    return "trust", f"its code does not run: {place.distrust}" if place.distrust else ""


def _feature_text(value: Any, empty: str) -> str:
    """Return a capability or trait as text; `empty` stands for a list without entries."""
    if isinstance(value, tuple):
        return ", ".join(value) or empty
    if value is True:
        return "yes"
    return str(value) if value else ""


def _card_fields(card: Card, machine: str) -> list[tuple[str, str]]:
    batch, steps = card.training_rows
    names = {name.split()[0] for name in (card.task, *card.parameters, *card.added)}
    tasks = (f"{name}: {text}" for name, text in TASK_TEXTS.items() if name in names)
    parity = "" if card.parity_error is None else f"{card.parity_error:.1e} at most"
    return [
        ("measured", f"{card.expression} on {card.task}, one thread of {machine}"),
        ("tasks", "; ".join(tasks)),
        ("parameters", _counts_text(card.parameters)),
        ("added", _counts_text(card.added)),
        ("first weights", "\n".join(f"{name}: {way}" for name, way in card.first_weights.items())),
        ("step - sequence", parity),
        ("step", f"{card.step_ms:.3g} ms for {batch} rows"),
        ("training pass", f"{card.training_ms:.3g} ms for {batch} x {steps}"),
    ]


def _learning_field(results: Sequence[LearningResult]) -> tuple[str, str]:
    lines = (
        f"{each.mean:.4g} after {each.steps:,} steps (seeds {', '.join(map(str, each.seeds))}): "
        f"{each.command}"
        for each in results
    )
    return "learning", "\n".join(lines)


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} on {task}" for task, number in counts.items())
