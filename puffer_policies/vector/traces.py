"""Reading a traceback for whose error it is: the env's own, or gymnasium's at what it returned."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

_GYMNASIUM = Path(gymnasium.__file__).parent
_READERS = (_GYMNASIUM / "vector", _GYMNASIUM / "wrappers", _GYMNASIUM / "core.py")
_NUMPY, _STANDARD = Path(np.__file__).parent, Path(re.__file__).parents[1]
_OURS = Path(__file__).parent
_FRAME = re.compile(
    r'^  File "(?P<file>.+)", line (?P<line>\d+), in .+\n(?:    (?P<code>.*))?', re.M
)


@dataclass(frozen=True, slots=True)
class Trace:
    """The frames of an error, outermost first."""

    frames: tuple[tuple[Path, int, str], ...]
    """File, line and source text of each."""

    @property
    def own(self) -> str | None:
        """``file:line`` in the env's own code; None: gymnasium failed at what the env returned."""
        for file, line, _ in reversed(self.frames):
            if _is_library(file):
                continue  # the caller is of interest
            return None if _within(file, (*_READERS, _OURS)) else f"{file}:{line}"
        return None

    @property
    def resets(self) -> bool:
        """Whether a vector env was restarting an episode."""
        return any(
            ".reset(" in code for file, _, code in self.frames if _within(file, _READERS[:1])
        )


def trace_of(error: BaseException) -> Trace:
    """Return the frames of an error of this process."""
    summary = traceback.extract_tb(error.__traceback__)
    return Trace(tuple((Path(f.filename), f.lineno or 0, f.line or "") for f in summary))


def trace_of_text(text: str) -> Trace:
    """Return the frames of an error that another process sent as text."""
    return Trace(
        tuple(
            (Path(found["file"]), int(found["line"]), found["code"] or "")
            for found in _FRAME.finditer(text)
        )
    )


def _is_library(file: Path) -> bool:
    return _within(file, (_NUMPY,)) or (
        _within(file, (_STANDARD,)) and "site-packages" not in file.parts
    )


def _within(file: Path, places: tuple[Path, ...]) -> bool:
    return any(place == file or place in file.parents for place in places)
