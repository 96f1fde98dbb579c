"""Measures policies and wrappers of this repository, and writes their cards to docs/cards.json.

python tools/measure_cards.py             every card; takes minutes
python tools/measure_cards.py GRUWrapper  one card again, on the machine of the others
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
    """Measure cards, and keep the others of the file, which must be of the same machine."""
    file = read_cards(CARDS if CARDS.exists() else None)
    all_records, names = records(), list(names)
    cards = dict(file.cards)
    # Times of two machines can't be compared, and the page names one.
    if cards and file.machine != machine() and not all_records.keys() <= set(names):
        raise SystemExit(f"The other cards were measured on {file.machine}. Measure all again.")
    for name in names:
        cards[all_records[name].qualified_name] = measure_card(name, default_registry())
        print(f"measured {name}", flush=True)
    current = {record.qualified_name for record in all_records.values()}
    write_cards(CARDS, CardFile(machine(), {k: v for k, v in cards.items() if k in current}))


def machine() -> str:
    """Return the name of the processor and the version of torch."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.machine()
    return f"a shared {processor}, torch {torch.__version__}"


if __name__ == "__main__":
    measure(sys.argv[1:] or records())
