"""Cards: the measurements of a policy or wrapper as data, and the files that hold them.

`puffer_policies.cards.measurement` takes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The number of a layer in a stack, such as ``core.layers.0.weight``.
_NUMBER = re.compile(r"\.\d+\.")

TASK_TEXTS = {
    "V": "a vector of 8 numbers, 4 actions",
    "P84": "4 x 84 x 84 pixels, 4 actions",
    "codes": "4 choices of 8, 4 actions",
    "set": "8 entities of 5 numbers with a mask, 4 actions",
}
"""What the short names of tasks stand for; the spaces are in `cards.measurement`."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of a policy as it is before training."""

    shape: tuple[int, ...]
    """The sizes of its axes."""
    init: str
    """How it is initialized, as `puffer_policies.nn.init.drawn_as` recognizes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The measurements of one stack. Facts that need no built policy are in its record."""

    name: str
    """The name of the policy or wrapper."""
    expression: str
    """The stack that was measured. A wrapper is measured around Default."""
    task: str
    """The key in `cards.measurement.TASKS` of the spaces that it was built for."""
    parameters: Mapping[str, int]
    """The number of trained values, by task: on the reference tasks that fit, and on `task`."""
    added: Mapping[str, int]
    """The part of `parameters` that the wrappers add; empty without wrappers."""
    weights: Mapping[str, Weight]
    """The parameters on `task`; with wrappers, those outside the innermost policy."""
    parity_error: float | None
    """The largest difference of logits and values between steps and a sequence with random episode
    starts, after noise was added to the weights; None without memory."""
    step_ms: float
    """CPU milliseconds of ``forward_eval`` for 64 rows, without gradient."""
    training_ms: float
    """CPU milliseconds of ``forward`` and backward for `training_rows`."""
    training_rows: tuple[int, int]
    """B and T of that pass."""

    @property
    def first_weights(self) -> dict[str, str]:
        """How each parameter is initialized. Equal layers of a stack are one entry, ``.*.``."""
        patterns = {name: _NUMBER.sub(".*.", name) for name in self.weights}
        inits: dict[str, set[str]] = {}
        for name, pattern in patterns.items():
            inits.setdefault(pattern, set()).add(self.weights[name].init)
        return {
            # Where layers differ, as a first layer of another gain, each is listed by itself.
            pattern if len(inits[pattern]) == 1 else name: self.weights[name].init
            for name, pattern in patterns.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Card:
        """Return the card of `to_dict`; JSON on the way has made lists of its tuples."""
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
    """The machine and the versions that the measurements were taken with."""
    cards: Mapping[str, Card]
    """By qualified name."""


def read_cards(path: Path | None) -> CardFile:
    """Return the cards in a file. None, a package without the file, has no cards."""
    if path is None:
        return CardFile("", {})
    data = json.loads(path.read_text(encoding="utf-8"))
    cards = {name: Card.from_dict(each) for name, each in data["cards"].items()}
    return CardFile(data["machine"], cards)


def write_cards(path: Path, file: CardFile) -> None:
    """Write a file of cards, sorted by name."""
    cards = {name: file.cards[name].to_dict() for name in sorted(file.cards)}
    text = json.dumps({"machine": file.machine, "cards": cards}, indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")
