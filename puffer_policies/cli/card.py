"""The verb that measures: show --card."""

from __future__ import annotations

import argparse

from puffer_policies.cards.measurement import measure_card
from puffer_policies.cli.list import described, print_described
from puffer_policies.registry import default_registry


def run_card(options: argparse.Namespace) -> int:
    """Print a record or a preset, what is measured of it here, and what it has learned."""
    registry = default_registry()
    shown = described(options.name, registry)
    card = measure_card(options.name, registry)
    print_described(shown, card, machine="this machine", as_json=options.json)
    return 0
