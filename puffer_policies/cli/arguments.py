"""Every verb and its arguments. Handlers are only named, so that `list` waits for no torch."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from typing import Any, NoReturn

from importlib_metadata import version

from puffer_policies.errors import did_you_mean


class Parser(argparse.ArgumentParser):
    """An argument parser that knows near names."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the message, then exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}{self._hint(message)}\n")

    def _hint(self, message: str) -> str:
        _, found, rest = message.partition("invalid choice: ")
        verbs = [verb for action in self._actions for verb in action.choices or ()]
        hint = did_you_mean(rest.split("(")[0].strip(" '\""), verbs) if found else ""
        _, found, rest = message.partition("unrecognized arguments: ")
        if found:
            hint = did_you_mean(rest.partition(" ")[0].partition("=")[0], flags_of(self))
        return f"\n{hint}" if hint else ""


def _text(value: str) -> str:
    """Refuse an empty value, such as a shell's unset variable gives: not the same as no flag."""
    if not value.strip():
        raise argparse.ArgumentTypeError(f"expected a value, found {value!r}")
    return value


def _seconds(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(value)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, found {value!r}")


def _count(value: str) -> int:
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {value!r}")


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags that a parser knows."""
    return [flag for action in parser._actions for flag in action.option_strings]


class _ShowVersion(argparse.Action):
    """Prints the version; reading it takes longer than most of `list`, so it is read only here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"puffer-policies {version('puffer-policies')}")
        parser.exit()


def make_parser() -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser, and its verbs for plug-ins to add to."""
    parser = Parser(
        prog="puffer-policies",
        description="Find, check, compose, train and share policies by name.",
        epilog="--traceback, with any verb, shows the whole traceback of an error.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_looking(verbs)
    _add_checking(verbs)
    _add_configuring(verbs)
    _add_training(verbs)
    _add_comparing(verbs)
    _add_writing(verbs)
    return parser, verbs


def handler_of(options: argparse.Namespace) -> Any:
    """Return ``module:function`` below `puffer_policies.cli`, or a plug-in's own function."""
    if getattr(options, "fits", None):
        return "fit:run_fits"
    if options.verb == "show" and options.env:
        return "fit:run_show_for"
    if options.verb == "show" and options.card:
        return "card:run_card"
    if options.verb == "train" and options.options:
        return "configs:run_options"
    if options.verb == "train" and options.name is None and options.resume is None:
        return "configs:run_names"
    if options.verb == "show-config" and options.name is None:
        return "configs:run_names"
    return options.run


def _add_looking(verbs: Any) -> None:
    listing = _verb(verbs, "list", "list:run_list", "list policies, wrappers and presets")
    listing.add_argument("pattern", nargs="?", default="*", help="names to show, such as '*Conv*'")
    listing.add_argument(
        "--fits", type=_text, metavar="ENV", help="say which policies fit this env, and why"
    )
    listing.add_argument("--source", action="store_true", help="show where each name comes from")
    show = _verb(verbs, "show", "list:run_show", "show everything about a name")
    show.add_argument("name")
    built = show.add_mutually_exclusive_group()
    built.add_argument(
        "--env", type=_text, metavar="ENV", help="build it for this env, count its parameters"
    )
    built.add_argument(
        "--card", action="store_true", help="build it and measure it, which takes seconds"
    )
    why = _verb(verbs, "why", "list:run_why", "explain where a name leads, or why nowhere")
    why.add_argument("name")
    doctor = _verb(verbs, "doctor", "list:run_doctor", "import everything, report what is wrong")
    doctor.add_argument(
        "--slow", type=_seconds, default=1.0, metavar="SECONDS", help="what is slow"
    )


def _add_checking(verbs: Any) -> None:
    check = _verb(verbs, "check", "check:run_check", "prove that policies keep the contract")
    check.add_argument("names", nargs="*", metavar="NAME", help="names or file.py::X; default all")
    check.add_argument(
        "--env", type=_text, metavar="ENV", help="check for this env, not for tiny spaces"
    )
    check.add_argument("--select", default="", metavar="CODES", help="only these, such as S,R1")
    check.add_argument("--ignore", default="", metavar="CODES", help="all but these")
    tiers = ("static", "dynamic", "trainability")
    check.add_argument("--tier", action="append", choices=tiers, help="default: the first two")
    check.add_argument(
        "--time-limit", type=_seconds, default=30.0, metavar="SECONDS", help="for one check"
    )
    check.add_argument(
        "--no-isolation", action="store_true", help="run in this process, for a debugger"
    )
    check.add_argument("--junit", type=_text, metavar="FILE", help="also write JUnit XML")


_CONFIG = "a config, a .toml or .ini file, the folder of a run, or a gymnasium id"


def _add_configuring(verbs: Any) -> None:
    configs = _verb(verbs, "configs", "configs:run_configs", "list what can be trained by name")
    configs.add_argument("pattern", nargs="?", default="*", help="names to show, such as 'cart*'")
    show = _verb(
        verbs, "show-config", "show_config:run_show_config", "write the filled-in config as TOML"
    )
    show.epilog = "Flags of the config work as with 'train'. To keep it: show-config X > run.toml"
    show.add_argument("name", nargs="?", help=_CONFIG)
    show.add_argument("--origin", action="store_true", help="say where each value comes from")
    _add_allow_unknown(show)
    show.set_defaults(takes_overrides=True)


def _add_allow_unknown(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--allow-unknown",
        action="store_true",
        help="warn of keys of files that do not exist, instead of refusing them",
    )


def _add_training(verbs: Any) -> None:
    train = _verb(verbs, "train", "train:run_train", "train a policy by config name or env id")
    train.epilog = (
        "Every option of the config is a flag, such as --train.learning-rate 3e-4: --options lists "
        "them, with NAME as NAME sets them; 'show-config NAME' writes them as a file; 'configs' "
        "lists the names."
    )
    train.add_argument("--options", action="store_true", help="list every option of a config")
    train.add_argument("name", nargs="?", help=_CONFIG)
    _add_allow_unknown(train)
    train.add_argument(
        "--resume",
        type=_text,
        metavar="RUN_FOLDER",
        help="go on from a run; without NAME by its own config",
    )
    train.add_argument("--quiet", action="store_true", help="print the summary only")
    train.set_defaults(takes_overrides=True)
    evaluate = _verb(verbs, "eval", "eval:run_eval", "replay a checkpoint without training")
    evaluate.add_argument("checkpoint", help="a .safetensors file, or the folder of a run")
    as_trained = "default: as at the end of the training"
    evaluate.add_argument("--episodes", type=int, metavar="N", help=as_trained)
    evaluate.add_argument("--seed", type=int, metavar="N", help=as_trained)
    evaluate.add_argument(
        "--max-steps", type=int, metavar="N", help="of each env, for envs that never end"
    )
    evaluate.add_argument("--stochastic", action="store_true", help="sample the actions")
    evaluate.add_argument("--best", action="store_true", help="the run's best, not its last policy")
    evaluate.add_argument(
        "--video", type=_text, metavar="FILE", help="also record one env, as .mp4 or .gif"
    )
    evaluate.add_argument(
        "--video-episodes", type=_count, default=1, metavar="N", help="in the video; default: 1"
    )


def _add_comparing(verbs: Any) -> None:
    plot = _verb(verbs, "plot", "plot:run_plot", "draw the learning curves of runs")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    plot.add_argument(
        "-o", "--output", type=_text, required=True, metavar="FILE", help=".png, .svg or .pdf"
    )
    plot.add_argument("--x", choices=("steps", "seconds"), default="steps", help="default: steps")
    plot.add_argument(
        "--metric", type=_text, default=_RETURN, help=f"a key of metrics.jsonl; default: {_RETURN}"
    )
    plot.add_argument(
        "--group-by",
        type=_text,
        default="config",
        metavar="WHAT",
        help="config (seeds are averaged), run, or an option such as train.learning-rate",
    )

    compare = _verb(verbs, "compare", "compare:run_compare", "train several policies on one env")
    compare.epilog = "Flags of the config work as with 'train' and hold for all policies."
    compare.add_argument("name", help=_CONFIG)
    compare.add_argument(
        "policies", nargs="+", metavar="POLICY", help="names, or 'LSTMWrapper(Default)'"
    )
    compare.add_argument("--seeds", type=_count, default=3, metavar="N", help="default: 3")
    compare.add_argument(
        "-o",
        "--output",
        type=_text,
        metavar="DIR",
        help="a new folder; default: comparisons/ENV-TIME",
    )
    _add_allow_unknown(compare)
    compare.set_defaults(takes_overrides=True)

    sweep = _verb(verbs, "sweep", "sweep:run_sweep", "search for good options of a config")
    sweep.epilog = (
        "A range is log:1e-4:1e-2, 0.9:0.999 or 16,32,64; a file may hold them in [sweep.train]. "
        "Flags of the config work as with 'train'."
    )
    sweep.add_argument("name", help=_CONFIG)
    sweep.add_argument(
        "--trials", type=_count, required=True, metavar="N", help="in all, earlier ones included"
    )
    sweep.add_argument(
        "--param", action="append", default=[], metavar="KEY=RANGE", help="what is searched"
    )
    sweep.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="default: tpe")
    sweep.add_argument(
        "--objective",
        type=_text,
        default="evaluation",
        help="a key of metrics.jsonl; default: the final evaluation's mean return",
    )
    sweep.add_argument("--minimize", action="store_true", help="less is better")
    sweep.add_argument(
        "-o", "--output", type=_text, metavar="DIR", help="default: sweeps/ENV; goes on there"
    )
    _add_allow_unknown(sweep)
    sweep.set_defaults(takes_overrides=True)


_RETURN = "environment/episode_return"


def _add_writing(verbs: Any) -> None:
    new = _verb(verbs, "new", "new:run_new", "write a package with a policy of your own")
    new.add_argument("name", help="what to call it, such as acme or acme-policies")
    new.add_argument(
        "--into", type=_text, default=".", metavar="DIR", help="the folder to make it in"
    )


def _verb(verbs: Any, name: str, run: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser
