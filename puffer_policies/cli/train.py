"""The verb train: a run by a config, new or resumed, and a list of a config's options."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from puffer_policies.cli.config_arguments import (
    add_config_arguments,
    config_of,
    require_name,
    require_registered,
)
from puffer_policies.cli.main import FAILED
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.config.config import Config
from puffer_policies.config.schema import FREE_SECTIONS, Option
from puffer_policies.config.schema import options as config_options
from puffer_policies.streams import json_text, write

if TYPE_CHECKING:
    from puffer_policies.runs.display import DisplayKind
    from puffer_policies.runs.run import RunResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, and what is done with it."""
    add_config_arguments(parser, optional=True)
    parser.add_argument(
        "--options",
        action="store_true",
        help="list every option of the config with its value, and exit",
    )
    parser.add_argument(
        "--resume",
        type=text,
        metavar="RUN_FOLDER",
        help="continue this run, by its own config unless NAME is given",
    )
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.epilog = (
        "Every option of the config is also a flag, such as --train.learning-rate 3e-4; "
        "'train --options' lists them. 'configs' lists the names of configs, and 'show-config "
        "NAME' prints one as a file."
    )


def run(options: argparse.Namespace) -> int:
    """Train by config; 130 if Ctrl-C stopped the run, whose checkpoint is then written.

    Other signals have codes of their own; 2 says that something failed beside the result.
    """
    if options.options:
        _list_options(options, None if options.name is None else config_of(options))
        return 0
    # Without a name, a run that is resumed has its own config.
    if options.resume is None:
        require_name(options)
    config = config_of(options)
    # Of a run that is resumed, the checkpoint says which package a missing name came from.
    if options.resume is None:
        require_registered(config)

    from puffer_policies.envs.factory import lacks_single_env  # gymnasium
    from puffer_policies.runs.interrupts import exit_code
    from puffer_policies.runs.run import train_from_config  # torch

    result = train_from_config(config, display=_display_kind(options), resume=options.resume)
    # Under torchrun the first process alone prints.
    if result.is_main:
        _print(result, options, has_frames=not lacks_single_env(config.base.env_name))
    if result.interrupted:
        return exit_code(result.signal)
    return FAILED if result.failures else 0


def _list_options(options: argparse.Namespace, config: Config | None) -> None:
    """Print every option of a config: its type, its default or value, and its meaning."""
    if options.json:
        data = [{**asdict(option), **_setting(option, config)} for option in config_options()]
        print_json(data)
        return
    for option in config_options():
        (word, value), *_ = _setting(option, config).items() or [("default", option.default)]
        write(f"{option.flag} {option.type}  ({word}: {value})\n    {option.doc}")
    flags = ", ".join(f"--{section}.KEY" for section in FREE_SECTIONS)
    write(f"{flags}\n    Arguments of the env, the policy and the wrapper.")


def _setting(option: Option, config: Config | None) -> dict[str, Any]:
    """Return the value of an option as ``{"value": ...}``, or nothing without a config."""
    if config is None:
        return {}
    return {"value": getattr(getattr(config, option.section), option.key)}


def _display_kind(options: argparse.Namespace) -> DisplayKind:
    """Return how the run is shown: with --json, each update is a line of JSON."""
    if options.quiet:
        return "quiet"
    return "json" if options.json else "auto"


def _print(result: RunResult, options: argparse.Namespace, *, has_frames: bool) -> None:
    if options.json:
        # One line, as each update before it.
        write(json_text(_result_data(result)))
    elif not options.quiet:
        _print_next_steps(result, has_frames=has_frames)
    else:
        if result.evaluation is not None:
            print_fields(result.evaluation.fields().items())
        write(str(result.checkpoint))


def _print_next_steps(result: RunResult, *, has_frames: bool) -> None:
    """Print what can be done with the run, as commands to copy; some envs can't be filmed."""
    folder = shlex.quote(str(result.folder))
    if result.interrupted:
        steps = {"go on": f"train --resume {folder}"}
    else:
        steps = {"train on": f"train --resume {folder} --train.total-timesteps {2 * result.steps}"}
    steps["play"] = f"eval {folder}"
    if has_frames:
        steps["film"] = f"eval {folder} --video policy.mp4"
    steps["plot"] = f"plot {folder} -o curve.png"
    write()
    print_fields((name, f"puffer-policies {step}") for name, step in steps.items())


def _result_data(result: RunResult) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "seconds": result.seconds,
        "interrupted": result.interrupted,
        "evaluation": result.evaluation.to_dict() if result.evaluation else None,
        "failures": list(result.failures),
    }
