"""Measures policies and wrappers of this repository, and keeps their cards in docs/cards.json.

python tools/measure_cards.py             every card, in minutes
python tools/measure_cards.py GRUWrapper  one again, on the machine of the others
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from write_zoo_page import CARDS, records

from puffer_policies.cards.card import CardFile, read_cards, write_cards
from puffer_policies.cards.measurement import measure_card
from puffer_policies.registry import default_registry


def measure(names: Iterable[str]) -> None:
    """Measure cards beside those that are kept; all of them are of one machine."""
    file, known, names = read_cards(CARDS if CARDS.exists() else None), records(), list(names)
    kept = dict(file.cards)
    if kept and file.machine != machine() and not known.keys() <= set(names):
        raise SystemExit(f"The others were measured on {file.machine}: measure all.")
    for name in names:
        kept[known[name].qualified_name] = measure_card(name, default_registry())
        print(f"measured {name}", flush=True)
    ours = {record.qualified_name for record in known.values()}
    cards = {name: card for name, card in kept.items() if name in ours}
    write_cards(CARDS, CardFile(machine(), cards))


def machine() -> str:
    """Return the processor and torch's version."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.machine()
    return f"a shared {processor}, torch {torch.__version__}"


if __name__ == "__main__":
    measure(sys.argv[1:] or records())
