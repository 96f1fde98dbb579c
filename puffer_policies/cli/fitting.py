"""The verbs that ask an environment: list --fits and show --env."""

from __future__ import annotations

import argparse
from typing import Any

from puffer_policies.cli.listing import matches, record_data, record_fields
from puffer_policies.cli.output import print_fields, print_json, print_table
from puffer_policies.discovery import default_registry
from puffer_policies.factory import get_policy
from puffer_policies.fit import fits
from puffer_policies.records import Record
from puffer_policies.registry import Registry


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
    """Print a record and the number of its parameters for an env."""
    registry = default_registry()
    record = registry.get(options.name)
    counted = _parameters(record, options.env, registry)
    if options.json:
        print_json({**record_data(record), "parameters": counted})
        return 0
    parts = [(f"  {part}", f"{count:,}") for part, count in counted["parts"].items()]
    total = ("parameters", f"{counted['total']:,} for {options.env}")
    print_fields([*record_fields(record), total, *parts])
    return 0


def _parameters(record: Record, env: str, registry: Registry) -> dict[str, Any]:
    wrapped = f"{record.qualified_name}(Default)"
    expression = wrapped if record.kind == "wrapper" else record.qualified_name
    policy = get_policy(expression, env, registry=registry)
    parts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in policy.named_children()
    }
    return {"env": env, "total": sum(p.numel() for p in policy.parameters()), "parts": parts}
