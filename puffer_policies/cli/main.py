"""The entry point, which imports nothing of ours before it can answer Ctrl-C.

Exit codes: 0 success, 1 a negative answer (``doctor`` found a problem, ``why`` found no name),
2 a mistake in the command line or a failure, 128 plus the number of the signal that stopped it:
130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

FAILED = 2
"""The command line was wrong, or something failed, be it beside a result."""
INTERRUPTED = 130
"""What shells return for a program that Ctrl-C ended: 128 plus the signal's number."""
PATIENCE = 5.0
"""Seconds that threads of others have to end after a command."""


def enter() -> NoReturn:
    """Run the command line of this process and end the process, even if a thread does not end."""
    code = main()
    threads = [each for each in threading.enumerate() if not each.daemon]
    threads.remove(threading.main_thread())
    if threads:
        # Python waits for them at exit, without an end: some env may have left them.
        names = ", ".join(each.name for each in threads)
        timer = threading.Timer(PATIENCE, _end, (code, names))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        # Imported by name, inside the try: the imports take most of the time of `list`, and Ctrl-C
        # during them should end in a word, not in a traceback.
        code: int = importlib.import_module("puffer_policies.cli.parser").run(argv)
        return code
    except KeyboardInterrupt as interrupt:
        # A run puts the number of the signal into it, and notes about what was saved. A text names
        # the package whose import or hook was under way.
        number = next((each for each in interrupt.args if isinstance(each, int)), None)
        word = "interrupted"
        if number is None and str(interrupt):
            word = f"interrupted while {interrupt}"
        _print_error("\n".join([word, *getattr(interrupt, "__notes__", ())]))
        return INTERRUPTED if number is None else 128 + number


def _end(code: int, names: str) -> None:
    _print_error(f"These threads do not end, and the process ends without them: {names}")
    os._exit(code)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr, flush=True)
