"""The entry point, which imports nothing before it can answer a Ctrl-C.

Exit codes: 0 done, 1 a negative answer (``doctor`` found a problem, ``why`` found no name),
2 a mistake in what was asked, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        code: int = importlib.import_module("puffer_policies.cli.door").run(argv)
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
