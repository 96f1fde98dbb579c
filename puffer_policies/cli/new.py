"""The verb that writes a new plug-in package."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.registry.scaffold import Scaffold, write_package


def run_new(options: argparse.Namespace) -> int:
    """Write a package, and print its names and what to do next."""
    written = write_package(options.name, into=Path(options.into))
    if options.json:
        print_json(_data(written))
    else:
        print_fields(_fields(written))
    return 0


def _data(written: Scaffold) -> dict[str, object]:
    return {
        "distribution": written.names.distribution,
        "package": written.names.package,
        "policy": _qualified(written),
        "folder": str(written.folder),
        "files": written.files,
    }


def _fields(written: Scaffold) -> list[tuple[str, str]]:
    names = written.names
    commands = (
        f"cd {shlex.quote(str(written.folder))}",
        "pip install -e '.[test]'",
        "pytest",
        f"puffer-policies train CartPole-v1 --policy-name {_qualified(written)}",
    )
    return [
        ("folder", str(written.folder) + os.sep),
        ("distribution", names.distribution),
        ("package", names.package),
        ("policy", f"{_qualified(written)}, a class in src/{names.package}/nets.py"),
        ("next", "\n".join(commands)),
    ]


def _qualified(written: Scaffold) -> str:
    return f"{written.names.distribution}/{written.names.policy}"
