"""Finds the line of the policy's own code in a traceback, or in a dump of a process that died."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

import torch

_STDLIB = sysconfig.get_paths()["stdlib"]
_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<frozen ")
_DUMPED = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<comma>,?) in (?P<function>\S+)'
)


def own_line(error: BaseException) -> str:
    """Return ``file:line in function: code`` of the innermost frame that is the policy's.

    Where every frame is torch's or the suite's, it is the innermost of all. Of an error that was
    raised from another one, it is the other's.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    for frame in reversed(own or frames):
        return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return ""


def dumped_line(dump: str) -> str:
    """Return ``file:line in function`` of what a dying process wrote.

    faulthandler writes the most recent call first; an uncaught exception has it last.
    """
    places = [
        (f"{found['file']}:{found['line']} in {found['function']}", bool(found["comma"]))
        for found in _DUMPED.finditer(dump)
        if _is_own(found["file"])
    ]
    if not places:
        return ""
    is_exception = all(with_comma for _, with_comma in places)
    return places[-1 if is_exception else 0][0]


def _is_own(file: str) -> bool:
    in_stdlib = file.startswith(_STDLIB) and "site-packages" not in file
    return not in_stdlib and not file.startswith(_OTHERS)
