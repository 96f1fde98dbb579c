"""What show prints of a card and of what a name has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puffer_policies.cards.card import Card, CardFile, read_cards
from puffer_policies.cards.results import LearningResult, read_results
from puffer_policies.shipped import shipped_file


def shipped_card(qualified_name: str) -> tuple[CardFile, Card | None]:
    """Return the shipped cards, and that of a name if it has one."""
    file = read_cards(shipped_file("docs/cards.json"))
    return file, file.cards.get(qualified_name)


def shipped_learning(qualified_name: str) -> Sequence[LearningResult]:
    """Return the shipped results of a name."""
    return read_results(shipped_file("docs/results.jsonl")).get(qualified_name, ())


def card_fields(card: Card, *, machine: str) -> list[tuple[str, str]]:
    """Return a card as names and texts to print."""
    batch, steps = card.training_rows
    parity = "" if card.parity_error is None else f"{card.parity_error:.1e} at most"
    return [
        ("measured", f"{card.expression} on {card.task}, one thread of {machine}"),
        ("parameters", _counts(card.parameters)),
        ("added", _counts(card.added)),
        ("first weights", "\n".join(f"{name}: {way}" for name, way in card.first_weights.items())),
        ("step - sequence", parity),
        ("step", f"{card.step_ms:.3g} ms for {batch} rows"),
        ("training pass", f"{card.training_ms:.3g} ms for {batch} x {steps}"),
    ]


def learning_fields(learned: Sequence[LearningResult]) -> list[tuple[str, str]]:
    """Return results as a name and a text to print, a line for each."""
    lines = (
        f"{each.mean:.4g} after {each.steps:,} steps (seeds {', '.join(map(str, each.seeds))}): "
        f"{each.command}"
        for each in learned
    )
    return [("learning", "\n".join(lines))]


def card_data(
    card: Card | None, *, machine: str, learned: Sequence[LearningResult]
) -> dict[str, Any]:
    """Return the same as plain data."""
    told = None if card is None else {**card.to_dict(), "machine": machine}
    return {"card": told, "learning": [each.to_dict() for each in learned]}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} on {task}" for task, number in counts.items())
