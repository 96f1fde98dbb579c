"""The verb check: the conformance suite on policies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from puffer_policies.assembly.fit import fits
from puffer_policies.checks.api import run_plans
from puffer_policies.checks.engine.plans import Plan, plans_for
from puffer_policies.checks.engine.report import render, to_junit
from puffer_policies.checks.engine.suite import DEFAULT_TIERS, all_checks, select_checks
from puffer_policies.checks.model import Report, Result, by_code
from puffer_policies.cli.output import print_json
from puffer_policies.errors import ConfigError
from puffer_policies.registry import Registry, default_registry


def run_check(options: argparse.Namespace) -> int:
    """Run the suite and print what came of it; 1 if anything failed or nothing was run."""
    _require_writable(options.junit)
    registry = default_registry()
    checks = select_checks(
        all_checks(registry),
        select=options.select,
        ignore=options.ignore,
        tiers=options.tier or DEFAULT_TIERS,
    )
    names = options.names or _every_policy(options.env, registry)
    plans = [plan for name in names for plan in _plans(name, options.env, registry)]
    results = run_plans(
        plans, checks, isolate=not options.no_isolation, time_limit=options.time_limit
    )
    report = Report(_followed(results, len(plans) * len(checks)), by_code(checks))
    _write(report, options)
    return 0 if report.ok else 1


def _require_writable(path: str | None) -> None:
    """Refuse a report that can't be written now, not after the minutes that the checks take."""
    if path is not None and (Path(path).is_dir() or not Path(path).parent.is_dir()):
        raise ConfigError(f"Can't write --junit {path!r}: it should be a file in a folder that is.")


def _every_policy(env: str | None, registry: Registry) -> list[str]:
    if env is None:
        return registry.names("policy")
    return [fit.name for fit in fits(env, registry=registry) if fit.fits]


def _plans(name: str, env: str | None, registry: Registry) -> list[Plan]:
    return plans_for(name, env, registry=registry)


def _followed(results: Iterable[Result], number: int) -> list[Result]:
    """Collect results, and show on a terminal how far they have come."""
    console, found = Console(stderr=True), []
    with console.status("starting") as status:
        for result in results:
            found.append(result)
            status.update(f"{len(found)} of {number}: {result.policy}, {result.code}")
    return found


def _write(report: Report, options: argparse.Namespace) -> None:
    if options.junit:
        try:
            Path(options.junit).write_text(to_junit(report), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"Can't write --junit {options.junit!r}: {error}.") from error
    if options.json:
        print_json(report.to_dict())
    elif sys.stdout.isatty():
        print(render(report, width=Console().width))
    else:
        print(render(report))
