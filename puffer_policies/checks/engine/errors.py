"""From an exception, or the last words of a process, to its text, its place and what it is."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import torch

from puffer_policies.errors import PolicyError

_STDLIB = sysconfig.get_paths()["stdlib"]
_PACKAGE = Path(__file__).parents[2]
_FOREIGN = (str(Path(torch.__file__).parent), str(_PACKAGE / "checks"), "<frozen ")
"""Paths of code that is not the policy's: torch's, and the suite's."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<comma>,?) in (?P<function>\S+)')
"""A frame in a dump: faulthandler writes no comma after the line number, a traceback does."""


def error_text(error: BaseException) -> str:
    """Return an exception in a line: its kind, its text, and the line of the policy's own code."""
    problem = error.problem if isinstance(error, PolicyError) else str(error)
    kind = "sys.exit was called" if isinstance(error, SystemExit) else type(error).__name__
    text = f"{kind}: {problem.strip()}" if problem.strip() else kind
    frame = _frame_of(error)
    return f"{text} ({_place(frame)}: {frame.line})" if frame else text


def place_of(error: BaseException | None) -> str:
    """Return ``file:line in function: code`` of the policy's own code, or '' if it has no part."""
    frame = None if error is None else _frame_of(error)
    return f"{_place(frame)}: {frame.line}" if frame and _is_own(frame.filename) else ""


def cause_of(error: BaseException | None) -> str:
    """Return what all errors have in common that have the cause of this one.

    That is the place in the author's file, and the text without numbers and shapes, which differ
    between spaces; '' for an error that was raised elsewhere.
    """
    if error is None:
        return ""
    error = _root(error)
    frame = _frame_of(error)
    if frame is None or not _is_own(frame.filename) or frame.filename.startswith(str(_PACKAGE)):
        return ""
    return f"{type(error).__name__} at {_place(frame)}: {without_numbers(str(error))}"


def without_numbers(text: str) -> str:
    """Return the first line of a text with every number, and every shape, as ``#``."""
    line = next(iter(text.strip().splitlines()), "")
    line = re.sub(r"-?\d+(\.\d+)?", "#", line)
    return re.sub(r"#([,x ]+#)+,?", "#", line)


def place_in_dump(dump: str) -> str:
    """Return ``file:line in function`` from the output of a process that died.

    faulthandler writes the most recent call first; the traceback of an exception has it last.
    """
    frames = [frame for frame in _FRAME.finditer(dump) if _is_own(frame["file"])]
    if not frames:
        return ""
    is_traceback = all(frame["comma"] for frame in frames)
    frames = [frame for frame in frames if _is_near(frame["file"])] or frames
    frame = frames[-1 if is_traceback else 0]
    return f"{frame['file']}:{frame['line']} in {frame['function']}"


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:  # it was raised where the problem is
        error = error.__cause__
    return error


def _frame_of(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost frame in the author's file, or else nearest to it."""
    frames = traceback.extract_tb(_root(error).__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    near = [frame for frame in own if _is_near(frame.filename)]
    return next(reversed(near or own or frames), None)


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def _is_own(file: str) -> bool:
    in_stdlib = file.startswith(_STDLIB) and "site-packages" not in file
    return not in_stdlib and not file.startswith(_FOREIGN)


def _is_near(file: str) -> bool:
    """Whether it is a file that its author works on, rather than one that is installed."""
    return "site-packages" not in file and not file.startswith(str(_PACKAGE))
