"""What a run measured, as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from puffer_policies.errors import TrainingError


class MetricsLog:
    """Appends one JSON object a line to a file, and flushes each so that a crash loses nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite, which JSON lacks, become null.

        Raises:
            TrainingError: the line can't be written: a full disk, say.
        """
        try:
            self._file.write(json.dumps(_finite(dict(metrics)), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path} can't be written: {error}.",
                fix="Make room, then go on from the last checkpoint with --resume.",
            ) from error

    def close(self) -> None:
        """Close the file; what could not be written was told by `write`."""
        with suppress(OSError):
            self._file.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
