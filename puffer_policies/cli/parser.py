"""The parser of the command line: it finds the verb, imports that one, and turns errors into codes.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(options)``. Only the
verb on the command line is imported: `list` would otherwise wait for torch.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from puffer_policies.cli.output import code_announced, print_error
from puffer_policies.errors import PolicyError, did_you_mean
from puffer_policies.registry import default_registry
from puffer_policies.registry.names import BUILTIN
from puffer_policies.registry.packages import installed_version
from puffer_policies.registry.user_modules import use_module
from puffer_policies.streams import (
    OutputError,
    data_stream,
    discard,
    foreign_output_on_stderr,
    open_missing_streams,
    printable,
    write,
    write_note,
)

VERBS = {
    "list": "list policies, wrappers and presets, or pretrained policies",
    "show": "show all that is known about a name",
    "why": "explain what a name refers to, or why it refers to nothing",
    "doctor": "import every plug-in and report problems",
    "check": "check that policies keep the contract",
    "configs": "list the configs that ship with the package",
    "show-config": "print a config with every value filled in, as TOML",
    "train": "train a policy on an environment",
    "eval": "play episodes with a trained policy",
    "import": "make a checkpoint of PufferLib 5's file of weights",
    "inspect": "show what a checkpoint holds, and whether it still answers as it did",
    "export": "write a trained policy as a file of another runtime, such as ONNX",
    "card": "write the model card of a checkpoint",
    "push": "share a checkpoint and its card on the Hugging Face Hub",
    "plot": "plot the learning curves of runs",
    "compare": "train several policies on one environment",
    "sweep": "search for good hyperparameters",
    "trust": "let the names of another's registry.toml run their code",
    "new": "create a package for policies of your own",
}
"""Each verb with its line of help, which stands here so that ``--help`` imports no verb."""

COLOR = re.compile(r"\x1b\[[0-9;]*m")
"""A sequence that colors what follows on a terminal."""


IMPORTING = (
    *("list", "show", "check", "show-config", "train", "eval", "import", "inspect", "card"),
    *("export", "push", "compare", "sweep"),
)
"""The verbs that take ``--import``."""


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest verb or flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _HelpFormatter, **options})

    def print_help(self, file: Any = None) -> None:
        """Print the help as our own output."""
        super().print_help(file or data_stream())

    def error(self, message: str) -> NoReturn:
        """Print usage and the message, then exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {printable(message)}{self._hint(message)}\n")

    def _hint(self, message: str) -> str:
        _, is_choice, rest = message.partition("invalid choice: ")
        # Argparse reports a wrong verb or flag only as text, so the wrong word is taken from there.
        verbs = [verb for action in self._actions for verb in action.choices or ()]
        hint = did_you_mean(rest.split("(")[0].strip(" '\""), verbs) if is_choice else ""
        _, is_flag, rest = message.partition("unrecognized arguments: ")
        if is_flag:
            hint = did_you_mean(rest.partition(" ")[0].partition("=")[0], flags_of(self))
        return f"\n{hint}" if hint else ""


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps help without breaking names at their hyphens, such as show-config."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        # Argparse forgets the indentation of verbs, and gives the longest a line of its own.
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(f"{indent}{line}" for line in self._split_lines(text, width))


class _ShowVersion(argparse.Action):
    """Prints the version; reading it takes longer than most of `list`, so it is read only here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        write(f"puffer-policies {installed_version(BUILTIN)}")
        parser.exit()


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code; `cli.main` lists them."""
    open_missing_streams()
    _replace_unprintable_characters()
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    try:
        with warnings.catch_warnings():
            # The place in somebody's code, which Python shows, helps no user of a command.
            warnings.showwarning = _show_warning
            code = _run([each for each in arguments if each != "--traceback"])
        sys.stdout.flush()
        return code
    except PolicyError as error:
        if traceback:
            raise
        print_error(error)
        return 2
    except OutputError as error:
        discard(sys.stdout)  # Python writes the rest of it at exit, where no error can be caught
        if error.errno == errno.EPIPE:  # the reader (`head`, `less`) left
            return 0
        print_error(PolicyError(f"{error.strerror}."))
        return 2
    except OSError as error:
        if traceback:
            raise
        discard(sys.stdout)
        print_error(PolicyError(f"The operating system reported an error: {error}."))
        return 2


def make_parser(arguments: Sequence[str]) -> tuple[Parser, Any]:
    """Return the parser and its sub-parsers, of which the verb in `arguments` has its arguments."""
    parser = Parser(
        prog="puffer-policies",
        description="Find, check, compose, train and share policies by name.",
        epilog="'puffer-policies VERB --help' shows the arguments of a verb. With any verb, "
        "--traceback shows the whole traceback of an error.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version")
    # Plug-ins add their verbs to these sub-parsers after ours, so that none can replace a verb.
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    # No option before the verb takes a value, so the first word without a dash is the verb.
    verb = next((word for word in arguments if not word.startswith("-")), "")
    for name, text in VERBS.items():
        sub_parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == verb:
            _complete(sub_parser, name)
    return parser, verbs


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags that a parser knows."""
    return [flag for action in parser._actions for flag in action.option_strings]


def text(value: str) -> str:
    """Read an argument that may not be empty.

    An unset variable of the shell gives an empty word, which is not the same as no flag.
    """
    if not value.strip():
        raise argparse.ArgumentTypeError(f"expected a value, found {value!r}")
    return value


def _complete(parser: argparse.ArgumentParser, verb: str) -> None:
    """Import a verb and give the parser its arguments."""
    module = importlib.import_module(f"puffer_policies.cli.{verb.replace('-', '_')}")
    # Before the arguments of the verb, so that --json is in the same place in every help.
    parser.add_argument("--json", action="store_true", help="print JSON")
    if verb in IMPORTING:
        parser.add_argument(
            "--import",
            action="append",
            default=[],
            dest="imports",
            metavar="MODULE",
            help="first import this module, from the path or the working folder, which runs its "
            "code, and take its envs and policies (may be repeated)",
        )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _run(arguments: list[str]) -> int:
    with foreign_output_on_stderr(), code_announced(default_registry()):
        options = _parse(arguments)
        if options.verb in VERBS:
            for name in getattr(options, "imports", ()):
                use_module(name, default_registry())
            return _exit_code(options)
    # The output of a plug-in's verb is its own.
    try:
        return _exit_code(options)
    except BrokenPipeError as error:
        raise OutputError(error.errno, error.strerror) from error


def _exit_code(options: argparse.Namespace) -> int:
    code: int = options.run(options)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line, with the verbs of plug-ins."""
    parser, verbs = make_parser(arguments)
    default_registry().hooks.register_commands(verbs)
    options, rest = parser.parse_known_args(arguments)
    # The flags of a config are taken out first, and argparse parses the rest a second time: it
    # would abbreviate, refuse or misplace flags that it does not know.
    if split := getattr(options, "split_overrides", None):
        own, overrides = split(arguments, flags_of(verbs.choices[options.verb]))
        options, rest = parser.parse_known_args(own)
        options.overrides = [*rest, *overrides]
    elif rest:
        verbs.choices[options.verb].error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    # gymnasium colors its warnings.
    write_note(f"warning: {COLOR.sub('', str(message))}")


def _replace_unprintable_characters() -> None:
    """Print '?' for a character that the output can't encode, as on pipes of Windows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
