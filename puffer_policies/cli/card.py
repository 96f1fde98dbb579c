"""The verb card: the model card of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from puffer_policies.cli.checkpoint_arguments import add_checkpoint_arguments, location_of
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.errors import ConfigError
from puffer_policies.hub.location import checkpoint_of
from puffer_policies.streams import write

STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, and where its card is written."""
    add_checkpoint_arguments(parser)
    add_evaluate_argument(parser)
    parser.add_argument(
        "--repo", type=text, metavar="ORG/NAME", help="the repo of the Hub that the card is for"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=text,
        metavar="FILE",
        help="the file to write, or - to print it (default: README.md in the folder of a run)",
    )


def add_evaluate_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that plays, for the results on a card."""
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="play the run's final evaluation with this checkpoint, for the results on its card "
        "(default: the results that are recorded for it)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the card, and print where it is."""
    from puffer_policies.hub.repository import HubLocation, require_repo
    from puffer_policies.runs.share import CARD, card_of, write_card

    location = location_of(options)
    if options.repo is not None:
        require_repo(options.repo)
    path = checkpoint_of(location, best=options.best)
    output = options.output
    if output is None:
        if not Path(location).expanduser().is_dir():
            raise ConfigError(
                f"{location} is not the folder of a run, in which the card would be written.",
                fix="Say where: -o FILE, or -o - to print it.",
            )
        output = str(path.parent / CARD)
    evaluation = None
    if options.evaluate:
        from puffer_policies.runs.evaluate import evaluate_checkpoint  # torch

        evaluation = evaluate_checkpoint(path)
    place = location if options.repo is None else str(HubLocation(options.repo))
    card = card_of(path, location=place, evaluation=evaluation)
    if output == STDOUT:
        write(card.text().rstrip("\n"))
        return 0
    written = str(write_card(output, card))
    if options.json:
        print_json({"card": written, "evaluation": card.evaluation})
    else:
        results = "" if card.evaluation else "none is recorded: --evaluate plays"
        print_fields([("card", written), ("evaluation", results)])
    return 0
