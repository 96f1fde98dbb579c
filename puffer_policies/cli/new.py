"""The verb new: a plug-in package for policies of one's own."""

from __future__ import annotations

import argparse
import os
import shlex

from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.files import user_path
from puffer_policies.registry.scaffold import Scaffold, write_package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the package, and its place."""
    parser.add_argument(
        "name", metavar="NAME", help="name of the package, such as acme or acme-policies"
    )
    parser.add_argument(
        "--into",
        type=text,
        default=".",
        metavar="DIR",
        help="folder in which the package's folder is created (default: this one)",
    )


def run(options: argparse.Namespace) -> int:
    """Write a package, and print its names and the next commands."""
    scaffold = write_package(options.name, into=user_path(options.into))
    if options.json:
        print_json(_data(scaffold))
    else:
        print_fields(_fields(scaffold))
    return 0


def _data(scaffold: Scaffold) -> dict[str, object]:
    return {
        "distribution": scaffold.names.distribution,
        "package": scaffold.names.package,
        "policy": _policy(scaffold),
        "folder": str(scaffold.folder),
        "files": scaffold.files,
    }


def _fields(scaffold: Scaffold) -> list[tuple[str, str]]:
    names = scaffold.names
    # Quoted for a shell, so that the lines can be pasted even if the path has spaces.
    commands = (
        f"cd {shlex.quote(str(scaffold.folder))}",
        "pip install -e '.[test]'",
        "pytest",
        f"puffer-policies train CartPole-v1 --policy-name {_policy(scaffold)}",
    )
    return [
        ("folder", str(scaffold.folder) + os.sep),
        ("distribution", names.distribution),
        ("package", names.package),
        ("policy", f"{_policy(scaffold)}, a class in src/{names.package}/nets.py"),
        ("next", "\n".join(commands)),
    ]


def _policy(scaffold: Scaffold) -> str:
    return f"{scaffold.names.distribution}/{scaffold.names.policy}"
