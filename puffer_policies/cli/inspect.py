"""The verb inspect: what a checkpoint holds, and whether it still answers as it did."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from puffer_policies.cli.checkpoint_arguments import add_checkpoint_arguments, location_of
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.hub.location import checkpoint_of
from puffer_policies.registry.explain import source_text

if TYPE_CHECKING:
    from puffer_policies.assembly.header import Header
    from puffer_policies.assembly.tensortable import TensorEntry
    from puffer_policies.runs.model_card import ModelCard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and whether the policy is built."""
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also read the weights, build the policy, and compare its answers with those that it "
        "gave when it was saved",
    )
    parser.add_argument(
        "--env",
        type=text,
        metavar="ENV",
        help="for --verify: also compare the spaces with this environment's",
    )


def run(options: argparse.Namespace) -> int:
    """Print what is in a checkpoint; without --verify neither weights nor torch are read."""
    from puffer_policies.assembly.header import GOLDEN, METADATA_KEY, installed_version
    from puffer_policies.assembly.tensortable import read_table
    from puffer_policies.runs.model_card import read_card

    path = checkpoint_of(location_of(options), best=options.best)
    line, tensors = read_table(path, key=METADATA_KEY)
    card = read_card(path, location=str(path))
    weights = {name: each for name, each in tensors.items() if not name.startswith(GOLDEN)}
    has_sample = len(weights) < len(tensors)
    installed = {name: installed_version(name) for name in card.header.packages}
    if options.verify:
        from puffer_policies.assembly.checkpoint import load_policy  # torch

        load_policy(path, options.env)
    if options.json:
        print_json(
            {
                "path": str(path),
                **json.loads(line),
                "weights": {name: asdict(each) for name, each in weights.items()},
                "golden_sample": has_sample,
                "installed": installed,
                "verified": options.verify,
            }
        )
    else:
        verdict = _verdict(card.header, has_sample) if options.verify else ""
        fields = _fields(card, weights, installed)
        print_fields([("file", str(path)), *fields, ("verified", verdict)])
    return 0


def _fields(
    card: ModelCard, weights: Mapping[str, TensorEntry], installed: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    header = card.header
    yield "policy", str(header.spec or "none: its weights are for a policy that was built by hand")
    dtypes = ", ".join(sorted({each.dtype for each in weights.values()}))
    yield "weights", f"{card.weights:,} numbers in {len(weights):,} tensors, {dtypes}"
    # NumPy pads the bounds of a Box with blanks.
    yield "observation", " ".join(header.observation_space.split())
    yield "action", " ".join(header.action_space.split())
    yield "env", str(header.config.get("env_name", ""))
    yield "return", card.returns
    yield "training", "\n".join(f"{key}: {each}" for key, each in card.training.items())
    yield (
        "packages",
        "\n".join(
            _package(name, version, installed[name]) for name, version in header.packages.items()
        ),
    )
    yield "imports", ", ".join(header.imports)


def _package(name: str, version: str, installed: str) -> str:
    """Return a package of the file, and what is here instead of it."""
    if installed == version or not version:
        return f"{name} {version}".rstrip()
    if installed:
        return f"{name} {version}; {installed} is installed"
    return f"{name} {version}, which is not installed. {source_text(name, version)}"


def _verdict(header: Header, has_sample: bool) -> str:
    if not header.digest:
        return "its weights fit the policy; files of this age hold neither digest nor sample"
    if not has_sample:
        return "its weights are intact and fit the policy; the file holds no sample of its answers"
    return "its weights are intact, and the policy answers as it did when it was saved"
