"""The door of the command line: reads the arguments, runs a verb, turns errors into exit codes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from puffer_policies.cli.arguments import flags_of, handler_of, make_parser
from puffer_policies.cli.output import print_error
from puffer_policies.errors import PolicyError
from puffer_policies.registry import default_registry


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code; `cli.main` lists them."""
    _accept_every_letter()
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    try:
        code = _run([each for each in arguments if each != "--traceback"])
        sys.stdout.flush()
        return code
    except PolicyError as error:
        if traceback:
            raise
        print_error(error)
        return 2
    except BrokenPipeError:
        # The reader (`head`, `less`) left.
        _drop_output()
        return 0
    except OSError as error:
        if traceback:
            raise
        _drop_output()
        print_error(PolicyError(f"The system refused something: {error}."))
        return 2


def _accept_every_letter() -> None:
    """Let an output that lacks a letter, as Windows' pipes lack lines of tables, print '?'."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Point stdout at nothing, so that Python's exit, which writes the rest, is quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    parser, verbs = make_parser()
    default_registry().hooks.register_commands(verbs)
    options, rest = parser.parse_known_args(arguments)
    if getattr(options, "takes_overrides", False):
        split = _named("overrides:split_overrides")
        own, overrides = split(arguments, flags_of(verbs.choices[options.verb]))
        options, rest = parser.parse_known_args(own)
        options.overrides = [*rest, *overrides]
    elif rest:
        verbs.choices[options.verb].error(f"unrecognized arguments: {' '.join(rest)}")
    code: int = _handler(options)(options)
    return code


def _handler(options: argparse.Namespace) -> Any:
    named = handler_of(options)
    return named if callable(named) else _named(named)


def _named(name: str) -> Any:
    """Return ``module:function`` of this package, imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"puffer_policies.cli.{module}"), function)
