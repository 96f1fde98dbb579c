"""What a run measured, as lines of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from puffer_policies.errors import ConfigError, TrainingError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


class MetricsLog:
    """Appends one JSON object a line to a file, and flushes each so that a crash loses nothing.

    Args:
        path: the file; made if it is missing.
        epoch: lines after this update are cut away; those of a run that goes on from there.

    Raises:
        ConfigError: the file can't be opened, or another process is writing it.
    """

    def __init__(self, path: Path, *, epoch: int = 0) -> None:
        self.path = path
        try:
            self._file = path.open("a+", encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigError(
                f"{path} can't be written: {error}.",
                fix="Set train.data_dir to a folder that can be written.",
            ) from error
        try:
            _lock(self._file, path.parent)
        except ConfigError:
            self._file.close()
            raise
        if path.is_file():  # a device has no end to cut at
            self._file.truncate(_length_up_to(path, epoch))

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            TrainingError: the line can't be written: a full disk, say.
        """
        try:
            self._file.write(json_line(metrics))
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path} can't be written: {error}.",
                fix="Make room, then go on from the last checkpoint with --resume.",
            ) from error

    def sync(self) -> None:
        """Bring the lines to the disk, so that none before a checkpoint is lost with the power."""
        with suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what could not be written was told by `write`."""
        with suppress(OSError):
            self._file.close()


def json_line(metrics: Mapping[str, Any]) -> str:
    """Return one line of JSON; numbers that are not finite, which JSON lacks, become null."""
    return json.dumps(_finite(dict(metrics)), allow_nan=False) + "\n"


def _lock(file: TextIO, folder: Path) -> None:
    """Keep the file for this process, as long as it lives."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} belongs to a run that another process is going on with.",
            fix="Wait for its end, or copy the folder and go on from the copy.",
        ) from error
    except OSError:
        return  # some network disks have no locks


def _length_up_to(path: Path, epoch: int) -> int:
    """Return the bytes of the lines up to an update; one torn by a kill is none of them."""
    length = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_update(line, epoch):
            break
        length += len(line)
    return length


def _is_update(line: bytes, epoch: int) -> bool:
    try:
        return bool(json.loads(line)["epoch"] <= epoch)
    except (ValueError, KeyError, TypeError):
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
