"""Runs the command line in this process."""

from __future__ import annotations

from puffer_policies.cli.main import main


def run(capsys, *argv: str) -> tuple[int, str, str]:
    """Return the exit code of a command line, and what it printed to stdout and stderr."""
    try:
        code = main(argv)
    except SystemExit as done:
        code = int(done.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err
