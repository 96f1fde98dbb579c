"""The verbs that ask an environment: list --fits and show --env."""

from __future__ import annotations

import argparse
from typing import Any

from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.fit import fits
from puffer_policies.cards.measurement import count_parameters
from puffer_policies.cli.list import described
from puffer_policies.cli.output import print_fields, print_json, print_table
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.names import matches


def run_fits(options: argparse.Namespace) -> int:
    """Print which policies fit an env, and why each other one does not."""
    judged = [
        fit
        for fit in fits(options.fits, registry=default_registry())
        if matches(fit.name, options.pattern)
    ]
    if options.json:
        print_json([{"name": f.name, "fits": f.fits, "reasons": f.reasons} for f in judged])
        return 0
    if not judged:
        print(f"Nothing matches {options.pattern!r}.")
        return 0
    judged.sort(key=lambda fit: not fit.fits)
    rows = [(fit.name, "yes" if fit.fits else "no", "; ".join(fit.reasons)) for fit in judged]
    print_table(f"Policies for {options.fits}", ("name", "fits", "why not"), rows)
    return 0


def run_show_for(options: argparse.Namespace) -> int:
    """Print a record or a preset, and the number of its parameters for an env."""
    registry = default_registry()
    shown = described(options.name, registry)
    counted = _parameters(shown.expression, options.env, registry)
    if options.json:
        print_json({**shown.data, "parameters": counted})
        return 0
    parts = [(f"  {part}", f"{count:,}") for part, count in counted["parts"].items()]
    total = ("parameters", f"{counted['total']:,} for {options.env}")
    print_fields([*shown.fields, total, *parts])
    return 0


def _parameters(expression: str, env: str, registry: Registry) -> dict[str, Any]:
    policy = get_policy(expression, env, registry=registry)
    parts = {name: count_parameters(module) for name, module in policy.named_children()}
    return {"env": env, "total": count_parameters(policy), "parts": parts}
