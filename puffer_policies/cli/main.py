"""The door of the command line: reads the arguments, runs a verb, turns errors into exit codes.

Exit codes: 0 done, 1 a negative answer (``doctor`` found a problem, ``why`` found no name),
2 a mistake in what was asked, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from puffer_policies.cli.arguments import handler_of, make_parser
from puffer_policies.cli.output import print_error
from puffer_policies.discovery import default_registry
from puffer_policies.errors import PolicyError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    try:
        return _run([each for each in arguments if each != "--traceback"])
    except PolicyError as error:
        if traceback:
            raise
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, `less`) left: point stdout at nothing, so that Python's exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    parser, verbs = make_parser()
    default_registry().hooks.register_commands(verbs)
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest
    code: int = _handler(options)(options)
    return code


def _handler(options: argparse.Namespace) -> Any:
    named = handler_of(options)
    if callable(named):
        return named
    module, _, function = named.partition(":")
    return getattr(importlib.import_module(f"puffer_policies.cli.{module}"), function)
