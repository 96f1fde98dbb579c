"""The verb check: the conformance suite on policies."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from puffer_policies.cli.numbers import seconds
from puffer_policies.cli.output import print_json
from puffer_policies.cli.parser import text
from puffer_policies.registry import Registry, default_registry
from puffer_policies.streams import data_stream, is_terminal, write, write_note

if TYPE_CHECKING:
    from puffer_policies.checks.model import Result


FAST = "B,S"
"""The families of checks that ``--fast`` selects."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the policies, the checks, and how they run."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="policies by name, or file.py::Class (default: every policy)",
    )
    parser.add_argument(
        "--env",
        type=text,
        metavar="ENV",
        help="check on this environment instead of small spaces",
    )
    parser.add_argument(
        "--select", default="", metavar="CODES", help="run only these checks, such as S,R1"
    )
    parser.add_argument("--ignore", default="", metavar="CODES", help="run all checks but these")
    parser.add_argument(
        "--tier",
        action="append",
        choices=("static", "dynamic", "trainability"),
        help="run only this tier, may be repeated (default: static and dynamic)",
    )
    parser.add_argument(
        "--level",
        action="append",
        choices=("error", "failure", "advice"),
        help="run only checks of this level, may be repeated (default: all)",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help=f"run only the checks of building and of shapes, {FAST}, in about a second",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="seconds of CPU time each check may take (default: 30)",
    )
    parser.add_argument(
        "--no-isolation",
        action="store_true",
        help="run the checks in this process, where a debugger can follow them",
    )


def run(options: argparse.Namespace) -> int:
    """Run the suite and print its results; 1 if any is worse than advice, or nothing was run."""
    from rich.console import Console

    from puffer_policies.assembly.fit import fits
    from puffer_policies.checks.engine.report import render
    from puffer_policies.checks.engine.suite import (  # torch
        DEFAULT_TIERS,
        LEVELS,
        all_checks,
        run_suite,
        select_checks,
    )
    from puffer_policies.checks.engine.targets import targets_for
    from puffer_policies.checks.model import Report, Scope, by_code
    from puffer_policies.checks.probes.fresh_process import serve_forks

    registry = default_registry()
    checks = select_checks(
        all_checks(registry),
        select=options.select or (FAST if options.fast else ""),
        ignore=options.ignore,
        tiers=options.tier or DEFAULT_TIERS,
        levels=options.level or LEVELS,
    )
    if options.names:
        names = options.names
    elif options.env is None:
        names = _with_consent(registry.names("policy"), registry)
    else:
        names = [fit.name for fit in fits(options.env, registry=registry) if fit.fits]
        names = _with_consent(names, registry)
    targets = [each for name in names for each in targets_for(name, options.env, registry=registry)]
    if any(check.scope is Scope.POLICY for check in checks):
        # Once for all workers, as long as no policy has been imported.
        serve_forks()
        if len(targets) > 1:  # what compiles, exports and optimizes imports it, for two seconds
            importlib.import_module("torch._dynamo")
    results = run_suite(
        targets, checks, isolate=not options.no_isolation, time_limit=options.time_limit
    )
    report = Report(_with_progress(results, len(targets) * len(checks)), by_code(checks))
    if options.json:
        print_json(report.to_dict())
    elif is_terminal(data_stream()):
        write(render(report, width=Console(file=data_stream()).width))
    else:
        write(render(report))
    return 0 if report.ok else 1


def _with_consent(names: list[str], registry: Registry) -> list[str]:
    """Leave out, with a line on stderr, the names whose code the user has not consented to."""
    distrusted = [name for name in names if registry.get(name).provenance.distrust]
    if distrusted:
        write_note(f"left out, as they are not trusted: {', '.join(distrusted)}")
    return [name for name in names if name not in distrusted]


def _with_progress(results: Iterable[Result], number: int) -> list[Result]:
    """Collect results, and show the progress on a terminal."""
    from rich.console import Console

    console, finished = Console(stderr=True), []
    with console.status("starting") as status:
        for result in results:
            finished.append(result)
            status.update(f"{len(finished)} of {number}: {result.policy}, {result.code}")
    return finished
