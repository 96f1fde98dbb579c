"""The verb list: installed names, those that fit an environment, and pretrained policies."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from puffer_policies.cli.output import print_json, print_table, terminal_width
from puffer_policies.cli.parser import text
from puffer_policies.errors import PolicyError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.explain import OWN_PRETRAINED, package, source_text
from puffer_policies.registry.names import BUILTIN, matches
from puffer_policies.registry.records import EnvModule, PolicyRecord, Record, WrapperRecord
from puffer_policies.streams import write

if TYPE_CHECKING:
    from puffer_policies.assembly.fit import Fit
    from puffer_policies.runs.model_card import ModelCard

WIDE = 160
"""Columns of a terminal from which on every column of the table has room."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to list, and what of it."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="names to list, such as '*Conv*' (default: all)",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--fits",
        type=text,
        metavar="ENV",
        help="list which policies fit this environment, and why the others do not",
    )
    kind.add_argument(
        "--pretrained",
        action="store_true",
        help="list the trained policies that installed packages bring",
    )
    parser.add_argument(
        "--source",
        action="store_true",
        help="show each name's class and where it is registered, instead of the summary",
    )


def run(options: argparse.Namespace) -> int:
    """Print the names that match."""
    if options.pretrained:
        from puffer_policies.runs.model_card import pretrained_cards  # needs gymnasium

        _list_pretrained(options, pretrained_cards(default_registry(), options.pattern))
    elif options.fits is None:
        _list_names(options, default_registry())
    else:
        from puffer_policies.assembly.fit import fits  # needs gymnasium

        # All policies are tried before the pattern applies, as fits() makes the env only once.
        every = fits(options.fits, registry=default_registry())
        _list_fits(options, [fit for fit in every if matches(fit.name, options.pattern)])
    return 0


def _list_names(options: argparse.Namespace, registry: Registry) -> None:
    names = [name for name in registry.names() if matches(name, options.pattern)]
    records = {name: registry.get(name) for name in names}
    presets = {n: p for n, p in registry.presets.items() if matches(n, options.pattern)}
    envs = {n: e for n, e in registry.envs.items() if matches(n, options.pattern)}
    if options.json:
        print_json(
            {
                "names": [record.to_dict() for record in records.values()],
                "presets": {name: preset.policy for name, preset in presets.items()},
                "envs": {name: entry.module for name, entry in envs.items()},
            }
        )
        return
    _print_records(records, source=options.source)
    if presets:
        rows = [(name, preset.policy, preset.summary) for name, preset in presets.items()]
        print_table("Presets", ("name", "policy", "summary"), rows)
    if envs:
        columns = ("id", "module", "package", "registered")
        print_table("Envs", columns, [(name, *_env_cells(entry)) for name, entry in envs.items()])
    if not records and not presets and not envs:
        write(f"Nothing matches {options.pattern!r}.")
    if registry.errors:
        # Broken plug-ins must not hide the names of the others, so they are only counted here.
        number = len(registry.errors)
        write(f"{number} plug-in problem{'s' * (number > 1)}: see 'puffer-policies doctor'.")


def _list_fits(options: argparse.Namespace, fits: list[Fit]) -> None:
    if options.json:
        print_json([{"name": f.name, "fits": f.fits, "reasons": f.reasons} for f in fits])
        return
    if not fits:
        write(f"Nothing matches {options.pattern!r}.")
        return
    # The sort is stable: within each half, names stay in alphabetical order.
    fits.sort(key=lambda fit: not fit.fits)
    rows = [(fit.name, "yes" if fit.fits else "no", "; ".join(fit.reasons)) for fit in fits]
    print_table(f"Policies for {options.fits}", ("name", "fits", "why not"), rows)


def _list_pretrained(
    options: argparse.Namespace, cards: Mapping[str, ModelCard | PolicyError]
) -> None:
    if options.json:
        print_json([{"name": name, **_pretrained_data(card)} for name, card in cards.items()])
    elif cards:
        columns = ("name", "env", "policy", "return", "weights", "package")
        rows = [(name, *_pretrained_cells(card)) for name, card in cards.items()]
        print_table("Pretrained policies", columns, rows)
    else:
        write(f"Nothing matches {options.pattern!r}.")
        write(source_text(OWN_PRETRAINED))


def _pretrained_data(card: ModelCard | PolicyError) -> dict[str, Any]:
    if isinstance(card, PolicyError):
        return {"error": str(card)}
    return {
        "env": card.env,
        "policy": str(card.header.spec),
        "evaluation": card.evaluation,
        "training": dict(card.header.training),
        "weights": card.weights,
        "package": card.packages[0],
    }


def _pretrained_cells(card: ModelCard | PolicyError) -> tuple[str, ...]:
    if isinstance(card, PolicyError):
        return "", card.problem, "", "", ""
    return card.env, card.policy, card.returns, f"{card.weights:,}", card.packages[0]


def _print_records(records: dict[str, Record], *, source: bool) -> None:
    last = "source" if source else "summary"
    policies = {n: r for n, r in records.items() if isinstance(r, PolicyRecord)}
    wrappers = {n: r for n, r in records.items() if isinstance(r, WrapperRecord)}
    width = terminal_width()
    if width is not None and width < WIDE and not source:
        _print_by_package("Policies", policies)
        _print_by_package("Wrappers", wrappers)
        write("'puffer-policies show NAME' prints all about one, '| cat' every column here.")
        return
    if policies:
        columns = ("name", "observations", "actions", "recurrent", "package", last)
        rows = [(name, *_policy_cells(r), *_cells(r, source)) for name, r in policies.items()]
        print_table("Policies", columns, rows)
    if wrappers:
        print_table(
            "Wrappers",
            ("name", "package", last),
            [(name, *_cells(r, source)) for name, r in wrappers.items()],
        )


def _print_by_package(title: str, records: Mapping[str, Record]) -> None:
    """Print names and summaries alone, under their packages, for a narrow terminal."""
    packages: dict[str, list[tuple[str, str]]] = {}
    for name, record in records.items():
        packages.setdefault(package(record.provenance), []).append((name, record.summary))
    # The policies that ship here come first, and the packages in the order of their names.
    for label in sorted(packages, key=lambda label: (label.split()[0] != BUILTIN, label)):
        print_table(f"{title} of {label}", ("name", "summary"), packages[label])


def _env_cells(entry: EnvModule) -> tuple[str, str, str]:
    return entry.module, package(entry.provenance), entry.provenance.origin


def _policy_cells(record: PolicyRecord) -> tuple[str, str, str]:
    can = record.capabilities
    recurrent = "yes" if can.recurrent else ""
    return ", ".join(can.observations) or "any", ", ".join(can.actions) or "any", recurrent


def _cells(record: Record, source: bool) -> tuple[str, str]:
    place = f"{record.target}  ({record.provenance.origin})"
    return package(record.provenance), place if source else record.summary
