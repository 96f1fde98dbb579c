"""The verb that measures: show --card."""

from __future__ import annotations

import argparse

from puffer_policies.cli.card_fields import (
    card_data,
    card_fields,
    learning_fields,
    shipped_learning,
)
from puffer_policies.cli.listing import described
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.discovery import default_registry
from puffer_policies.measuring import measure_card

HERE = "this machine"


def run_card(options: argparse.Namespace) -> int:
    """Print a record or a preset, what is measured of it here, and what it has learned."""
    registry = default_registry()
    shown = described(options.name, registry)
    card = measure_card(options.name, registry)
    learned = shipped_learning(shown.data["qualified_name"])
    if options.json:
        print_json({**shown.data, **card_data(card, machine=HERE, learned=learned)})
        return 0
    print_fields([*shown.fields, *card_fields(card, machine=HERE), *learning_fields(learned)])
    return 0
