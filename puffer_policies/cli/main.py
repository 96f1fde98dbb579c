"""The entry point, which imports nothing of ours before it can answer Ctrl-C.

Exit codes: 0 success, 1 a negative answer (``doctor`` found a problem, ``why`` found no name),
2 a mistake in the command line or a failure, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""What shells return for a program that Ctrl-C ended: 128 plus the signal's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        # Imported by name, inside the try: the imports take most of the time of `list`, and Ctrl-C
        # during them should end in a word, not in a traceback.
        code: int = importlib.import_module("puffer_policies.cli.parser").run(argv)
        return code
    except KeyboardInterrupt as error:
        # The text, if there is one, names the package whose import or hook was under way.
        print(f"interrupted while {error}" if str(error) else "interrupted", file=sys.stderr)
        return INTERRUPTED
