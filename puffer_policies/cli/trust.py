"""The verb trust: which registry files of others may run their code."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from puffer_policies.cli.output import print_fields, print_json, print_table
from puffer_policies.errors import ConfigError
from puffer_policies.registry.trust import forget, owner_text, read_trusted, trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and what is done with it."""
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="a registry.toml, or the folder that holds one"
    )
    parser.add_argument(
        "--list", action="store_true", dest="lists", help="list the files that you have trusted"
    )
    parser.add_argument("--remove", action="store_true", help="trust PATH no longer")
    parser.epilog = (
        "Your own files need no trust. Names of a file that is not trusted are listed, but their "
        "code does not run. PUFFER_POLICIES_TRUST=PATH:PATH does the same for one command."
    )


def run(options: argparse.Namespace) -> int:
    """Remember or forget a file, or list all."""
    if options.lists:
        _list(options)
        return 0
    if options.path is None:
        raise ConfigError("Say which file to trust.", fix="puffer-policies trust registry.toml")
    path = (forget if options.remove else trust)(options.path, os.environ)
    if options.json:
        print_json({"path": str(path), "trusted": not options.remove})
    elif options.remove:
        print_fields([("not trusted", str(path))])
    else:
        effect = f"names that it registers may run code of {path.parent}{os.sep}"
        print_fields([("trusted", str(path)), ("from now on", effect)])
    return 0


def _list(options: argparse.Namespace) -> None:
    trusted = read_trusted(os.environ)
    if options.json:
        files = [{"path": path, "owner": owner} for path, owner in trusted.owners.items()]
        print_json({"files": files, "problem": trusted.problem or None})
        return
    rows = [(path, _state(Path(path), owner)) for path, owner in trusted.owners.items()]
    print_table("Trusted registry files", ("file", "state"), rows)
    print_fields([("problem", trusted.problem)])


def _state(path: Path, owner: int) -> str:
    try:
        now = path.stat().st_uid
    except OSError:
        return "it is not there"
    return "" if now == owner else f"not trusted: it belongs to {owner_text(now)} now"
