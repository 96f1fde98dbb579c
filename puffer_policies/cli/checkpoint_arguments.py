"""The arguments of the verbs that take a checkpoint: what it is, and where it comes from."""

from __future__ import annotations

import argparse

from puffer_policies.cli.parser import text
from puffer_policies.errors import ConfigError
from puffer_policies.hub.location import PRETRAINED

LOCATIONS = "a .safetensors file, the folder of a run, or hf://org/name@revision"


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, or the name of a pretrained one, and whether it is the best one."""
    parser.add_argument("checkpoint", nargs="?", type=text, metavar="CHECKPOINT", help=LOCATIONS)
    parser.add_argument(
        "--pretrained",
        type=text,
        metavar="NAME",
        help="instead, the policy of this name that an installed package brings; "
        "'list --pretrained' lists them",
    )
    add_best_argument(parser)


def add_best_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the best checkpoint."""
    parser.add_argument(
        "--best", action="store_true", help="the run's best checkpoint instead of its last one"
    )


def location_of(options: argparse.Namespace) -> str:
    """Return the one checkpoint that a command line names.

    Raises:
        ConfigError: it names none, or two.
    """
    names = [options.checkpoint, options.pretrained]
    if names.count(None) != 1:
        raise ConfigError(
            f"Name one checkpoint: {LOCATIONS}, or --pretrained NAME.",
            fix="'puffer-policies list --pretrained' lists the names." * (not any(names)),
        )
    location: str = options.checkpoint or f"{PRETRAINED}{options.pretrained}"
    return location
