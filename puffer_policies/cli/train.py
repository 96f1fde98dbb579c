"""The verb train."""

from __future__ import annotations

import argparse
import json
from typing import Any

from puffer_policies.cli.configs import config_of, require_registered
from puffer_policies.cli.output import print_fields
from puffer_policies.runs.display import DisplayKind
from puffer_policies.runs.evaluation import Evaluation
from puffer_policies.runs.result import RunResult
from puffer_policies.runs.run import train_from_config

INTERRUPTED = 130


def run_train(options: argparse.Namespace) -> int:
    """Train by config; 130 if Ctrl-C cut the run short, its checkpoint written."""
    config = config_of(options)
    require_registered(config)
    result = train_from_config(config, display=_display(options), resume=options.resume)
    if not result.is_main:
        pass  # the first process tells
    elif options.json:
        print(json.dumps(_result_data(result)))
    elif options.quiet:
        print_fields(_evaluation_fields(result.evaluation))
        print(result.checkpoint)
    return INTERRUPTED if result.interrupted else 0


def _display(options: argparse.Namespace) -> DisplayKind:
    """Return what to show: with --json a line of JSON for each update, before that of the end."""
    if options.quiet:
        return "quiet"
    return "json" if options.json else "auto"


def _result_data(result: RunResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "seconds": result.seconds,
        "interrupted": result.interrupted,
        "evaluation": result.evaluation.to_dict() if result.evaluation else None,
    }


def _evaluation_fields(evaluation: Evaluation | None) -> list[tuple[str, str]]:
    return [] if evaluation is None else list(evaluation.described().items())
