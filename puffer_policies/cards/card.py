"""Cards of policies and wrappers: what was measured of each, as data, and those that are shipped.

`puffer_policies.cards.measurement` measures them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of a fresh policy."""

    shape: tuple[int, ...]
    """Its axes."""
    init: str
    """How it is drawn, as `puffer_policies.nn.init.drawn_as` reads it off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What was measured of one stack; what is known without building it is in its record."""

    name: str
    """What was asked for."""
    expression: str
    """What was built: a wrapper stands around Default."""
    task: str
    """The key in `cards.measurement.TASKS` of the spaces that the figures below are of."""
    parameters: Mapping[str, int]
    """Numbers that are trained, by task: the reference tasks that fit, and `task`."""
    added: Mapping[str, int]
    """How many more these are than without the wrappers; empty without wrappers."""
    weights: Mapping[str, Weight]
    """The parameters on `task`; with wrappers, those outside the innermost policy."""
    parity_error: float | None
    """Largest difference between steps and sequence over random episode starts, in logits and
    values, with stirred weights; None without memory."""
    step_ms: float
    """CPU milliseconds of ``forward_eval`` for 64 rows, without gradient."""
    training_ms: float
    """CPU milliseconds of ``forward`` and backward for `training_rows`."""
    training_rows: tuple[int, int]
    """B and T of that pass."""

    @property
    def first_weights(self) -> dict[str, str]:
        """How each parameter is drawn; layers of a stack that are drawn alike are one, ``.*.``."""
        shorts = {name: _NUMBER.sub(".*.", name) for name in self.weights}
        ways: dict[str, set[str]] = {}
        for name, short in shorts.items():
            ways.setdefault(short, set()).add(self.weights[name].init)
        return {
            short if len(ways[short]) == 1 else name: self.weights[name].init
            for name, short in shorts.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Card:
        """Rebuild a card from `to_dict`, read from JSON or not."""
        weights = {
            name: Weight(tuple(each["shape"]), each["init"])
            for name, each in data["weights"].items()
        }
        rows = tuple(data["training_rows"])
        return cls(**{**data, "weights": weights, "training_rows": rows})


@dataclass(frozen=True, slots=True)
class CardFile:
    """The cards of one machine."""

    machine: str
    """Where their figures were taken."""
    cards: Mapping[str, Card]
    """By qualified name."""


def read_cards(path: Path | None) -> CardFile:
    """Return the cards in a file; none for None."""
    if path is None:
        return CardFile("", {})
    data = json.loads(path.read_text(encoding="utf-8"))
    cards = {name: Card.from_dict(each) for name, each in data["cards"].items()}
    return CardFile(data["machine"], cards)


def write_cards(path: Path, file: CardFile) -> None:
    """Write cards, sorted by name."""
    cards = {name: file.cards[name].to_dict() for name in sorted(file.cards)}
    text = json.dumps({"machine": file.machine, "cards": cards}, indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")
