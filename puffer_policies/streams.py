"""The streams of a command: our own output on stdout, everybody else's on stderr, and safe text.

A plug-in, a policy or an env may print whatever it likes. On stdout its text would stand in the
middle of a table, a JSON document or a config that is redirected into a file.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TextIO

STDOUT = 1
"""The descriptor to which processes print."""


class OutputError(OSError):
    """Our own output can't be written: the reader of a pipe left, say, or the disk is full."""


class _Own(io.TextIOWrapper):
    """The stream of our own output, whose errors can't be taken for those of other files."""

    def write(self, text: str) -> int:
        with _as_output_error():
            return super().write(text)

    def flush(self) -> None:
        with _as_output_error():
            super().flush()


class _Diverted(io.TextIOBase):
    """Stands for ``sys.stdout``, writes to `foreign`, and knows the stream of our own output."""

    current: _Diverted | None = None
    """The one in use: a package may put a stream of its own around ``sys.stdout``, or None."""

    def __init__(self, data: TextIO, foreign: TextIO) -> None:
        self.data, self.foreign = data, foreign

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.foreign.encoding

    @property
    def buffer(self) -> BinaryIO:
        return self.foreign.buffer

    def write(self, text: str) -> int:
        # What an env prints is not worth its failure: the terminal may be closed.
        with suppress(OSError):
            self.foreign.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return is_terminal(self.foreign)

    def fileno(self) -> int:
        return self.foreign.fileno()

    def flush(self) -> None:
        # Both: multiprocessing flushes ``sys.stdout`` before it forks, so that no child inherits
        # our output in its buffer and prints it again.
        with suppress(OSError):
            self.foreign.flush()
        if not self.data.closed:
            self.data.flush()


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Return JSON, with null for numbers that are not finite, which JSON lacks.

    Paths and the like, which have no form of their own in JSON, become text.
    """
    return json.dumps(_finite(data), indent=indent, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_stream() -> TextIO:
    """Return the stream for our own output: stdout, also where foreign output is diverted."""
    return sys.stdout if _Diverted.current is None else _Diverted.current.data


def write(text: str = "") -> None:
    """Print a line of our own output, with the control characters in it made visible."""
    print(printable(text), file=data_stream())


def write_note(text: str) -> None:
    """Print a line to stderr, with the control characters in it made visible, if that works."""
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def silence() -> None:
    """Send the rest of our own output nowhere, what waits in its buffer included.

    It does nothing where foreign output is not diverted: stdout is a host's then.
    """
    if _Diverted.current is not None:
        discard(_Diverted.current.data)


def discard(stream: TextIO) -> None:
    """Send what a stream holds in its buffer nowhere, and whatever is written to it later."""
    descriptor = _descriptor(stream)
    if descriptor is not None:
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)


def printable(text: str) -> str:
    r"""Return `text` with its control characters escaped, such as ``\x1b`` for the escape key.

    A name, a summary or a message may come from a stranger's file, and a terminal obeys control
    characters: they move its cursor, rename its window, and hide what was printed. Line breaks and
    tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; an object in place of stdout may lack ``isatty``."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # ValueError: the stream is closed
        return False


def open_missing_streams() -> None:
    """Open the null device for stdout and stderr where the shell closed them, as by ``>&-``."""
    # Python leaves None there, and the next file that a program opens would get their descriptor.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # It stays open as long as the process.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


@contextmanager
def foreign_output_on_stderr() -> Iterator[None]:
    """Send to stderr whatever does not go through `data_stream`, from child processes as well."""
    own, foreign, previous = sys.stdout, sys.stderr, _Diverted.current
    if _descriptor(own) != STDOUT or _descriptor(foreign) is None:
        sys.stdout = _Diverted.current = _Diverted(own, foreign)
        try:
            yield
        finally:
            sys.stdout, _Diverted.current = own, previous
        return
    # Code in C and child processes write to the descriptor, not to ``sys.stdout``.
    own.flush()
    copy = os.dup(STDOUT)
    binary = os.fdopen(copy, "wb", closefd=False)
    data = _Own(binary, own.encoding, own.errors, line_buffering=is_terminal(own))
    os.dup2(foreign.fileno(), STDOUT)
    sys.stdout = _Diverted.current = _Diverted(data, foreign)
    try:
        yield
        # A full disk or a closed pipe shows only when the buffer is written: here, not at exit.
        data.flush()
    finally:
        sys.stdout, _Diverted.current = own, previous
        # Written now, while the descriptor is still the foreign one.
        with suppress(OSError):
            own.flush()
        # Closed, so that nothing is written when it is collected, after the descriptor's end.
        with suppress(OSError):
            data.close()
        os.dup2(copy, STDOUT)
        os.close(copy)


@contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            error.errno, f"Standard output can't be written: {error.strerror}"
        ) from error


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
