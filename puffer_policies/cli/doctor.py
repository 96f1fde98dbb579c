"""The verb doctor: what is wrong with the plug-ins that are installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator

from puffer_policies.cli.numbers import seconds
from puffer_policies.cli.output import print_json, print_table
from puffer_policies.errors import MissingDependency, PolicyError, TrustError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.doctor import Finding, examine, examine_installation
from puffer_policies.registry.records import PolicyRecord, Preset
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.streams import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the time above which an import is slow."""
    parser.add_argument(
        "--slow",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="report imports that take longer than this (default: 1)",
    )


def run(options: argparse.Namespace) -> int:
    """Import everything and print the findings; 1 if one is a problem."""
    # This is the one verb that imports every plug-in and class, which is why it may be slow.
    from puffer_policies.assembly.factory import get_policy  # torch
    from puffer_policies.checks.engine.matrix import spaces_for

    registry = default_registry()
    findings = examine(registry, slow_seconds=options.slow)

    def build(preset: Preset, record: PolicyRecord) -> None:
        get_policy(preset.policy, spaces_for(record.capabilities)[0], registry=registry)

    reported = {each.subject for each in findings if each.is_problem}
    findings += _of_built_presets(registry, reported, build)
    findings.sort(key=lambda finding: not finding.is_problem)
    findings += examine_installation()
    problems = sum(finding.is_problem for finding in findings)
    if options.json:
        print_json([finding.to_dict() for finding in findings])
    else:
        rows = [(f.subject, f.verdict, f.detail) for f in findings]
        print_table("Plug-ins", ("what", "verdict", "detail"), rows)
        write(f"{problems} problem{'s' * (problems != 1)} in {len(findings)} findings.")
    return 1 if problems else 0


def _of_built_presets(
    registry: Registry,
    reported: Collection[str],
    build: Callable[[Preset, PolicyRecord], None],
) -> Iterator[Finding]:
    """Build each preset for spaces that its policy declares, but those in `reported`."""
    # The mapping has each preset twice, under its bare and its qualified name.
    for preset in {id(each): each for each in registry.presets.values()}.values():
        name = preset.qualified_name
        if name in reported:
            continue
        try:
            record = registry.get(PolicySpec.parse(preset.policy).name, kind="policy")
            assert isinstance(record, PolicyRecord)
            build(preset, record)
        except (MissingDependency, TrustError):
            continue  # reported with the class
        except PolicyError as error:
            detail = f"{preset.policy!r} ({preset.provenance.origin}): {error}"
            yield Finding(name, "broken", detail)
        else:
            yield Finding(name, "ok", preset.policy)
