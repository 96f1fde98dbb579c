"""The verb that measures: show --card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from puffer_policies.cards import Card, measure_card
from puffer_policies.cli.listing import described
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.discovery import default_registry
from puffer_policies.registry import Registry
from puffer_policies.results import LearningResult, read_results, shipped_results

ZOO_PAGE = "docs/zoo.md of the repository"
"""Where results are read by those who have the package alone."""


def run_card(options: argparse.Namespace) -> int:
    """Print a record or a preset, what is measured of it, and what it has learned."""
    registry = default_registry()
    shown = described(options.name, registry)
    card = measure_card(options.name, registry)
    path = shipped_results()
    learned = _learned(shown.data, read_results(path), registry)
    if options.json:
        told = [result.to_dict() for result in learned] if path else None
        print_json({**shown.data, "card": card.to_dict(), "learning": told})
        return 0
    learning = _learning(learned) if path else f"see {ZOO_PAGE}"
    print_fields([*shown.fields, *_measured(card), ("learning", learning)])
    return 0


def _learned(
    data: Mapping[str, Any], results: Mapping[str, list[LearningResult]], registry: Registry
) -> list[LearningResult]:
    """Return the results of a record, and none of another package's record of that bare name."""
    meant = registry.explain(data["name"]).record
    same = meant is not None and meant.qualified_name == data["qualified_name"]
    return results.get(data["name"], []) if same else []


def _measured(card: Card) -> list[tuple[str, str]]:
    batch, steps = card.training_rows
    parity = "" if card.parity_error is None else f"{card.parity_error:.1e} at most"
    return [
        ("measured", f"{card.expression} on {card.task}, one thread"),
        ("parameters", _counts(card.parameters)),
        ("added", _counts(card.added)),
        ("first weights", "\n".join(f"{name}: {w.init}" for name, w in card.weights.items())),
        ("step - sequence", parity),
        ("step", f"{card.step_ms:.3g} ms for {batch} rows"),
        ("training pass", f"{card.training_ms:.3g} ms for {batch} x {steps}"),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} on {task}" for task, number in counts.items())


def _learning(learned: list[LearningResult]) -> str:
    """Return a line a result."""
    lines = (
        f"{each.mean:.4g} after {each.steps:,} steps (seeds {', '.join(map(str, each.seeds))}): "
        f"{each.command}"
        for each in learned
    )
    return "\n".join(lines) or "none measured"
