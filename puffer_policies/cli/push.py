"""The verb push: a checkpoint and its card as a repo of the Hugging Face Hub."""

from __future__ import annotations

import argparse

from puffer_policies.cli.card import add_evaluate_argument
from puffer_policies.cli.checkpoint_arguments import LOCATIONS, add_best_argument
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.hub.location import checkpoint_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, and the repo."""
    parser.add_argument("checkpoint", type=text, metavar="CHECKPOINT", help=LOCATIONS)
    parser.add_argument(
        "repo", type=text, metavar="ORG/NAME", help="the repo, which is created if it is missing"
    )
    add_best_argument(parser)
    add_evaluate_argument(parser)
    parser.add_argument("--private", action="store_true", help="create the repo as a private one")
    parser.add_argument("--message", type=text, metavar="TEXT", help="text of the commit")


def run(options: argparse.Namespace) -> int:
    """Push, and print where it is and how others play it."""
    from puffer_policies.hub.repository import require_repo
    from puffer_policies.runs.share import push_to_hub

    # Checked first: a wrong name should not be found after minutes of playing.
    require_repo(options.repo)
    path = checkpoint_of(options.checkpoint, best=options.best)
    evaluation = None
    if options.evaluate:
        from puffer_policies.runs.evaluate import evaluate_checkpoint  # torch

        evaluation = evaluate_checkpoint(path)
    place = push_to_hub(
        path,
        options.repo,
        private=options.private or None,
        evaluation=evaluation,
        message=options.message or "",
    )
    if options.json:
        print_json({"location": place})
    else:
        print_fields([("pushed", place), ("play", f"puffer-policies eval {place}")])
    return 0
