"""Runs the code of other packages: whatever it raises is an error of that package alone.

An import or a hook may raise anything: ``SystemExit``, a skip of pytest, a ``KeyboardInterrupt`` of
its own. Only the Ctrl-C of the user ends the program, which is told apart by the signal.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, ModuleType
from typing import Any

from puffer_policies.errors import MissingDependency, short
from puffer_policies.streams import write_note

IMPATIENCE = 10.0
"""Seconds after which an import is named that has not ended; torch alone can take five."""


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C during the code of a package; the text says what it interrupted."""


@contextmanager
def foreign_code(action: str, failure: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Turn whatever the code inside raises into `failure(error)`.

    A Ctrl-C of the user is raised as `Interrupted` even where the code has caught it.

    Args:
        action: what the code does, such as ``importing acme.nets``.
        failure: makes the error of the package.
    """
    with _watched_signal() as was_interrupted:
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            # Made before the signal is asked for, as the text of an error is foreign code as well.
            result = failure(error)
            if was_interrupted():
                raise Interrupted(action) from error
            if result is error:
                raise
            raise result from error
        if was_interrupted():
            raise Interrupted(action)


@contextmanager
def foreign_import(action: str, failure: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Run the import or a hook of a package as `foreign_code`, in a process that it leaves alone.

    The working folder and what is on Python's path stay, as the paths of the user and the modules
    of others depend on them. One that takes long is named on stderr while it runs.
    """
    timer = threading.Timer(IMPATIENCE, write_note, [f"note: still {action}; Ctrl-C ends it"])
    timer.daemon = True
    with foreign_code(action, failure), _kept_paths():
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _kept_paths() -> Iterator[None]:
    folder, path = None, list(sys.path)
    with suppress(OSError):  # the working folder may have been deleted
        folder = os.getcwd()
    try:
        yield
    finally:
        sys.path.extend(each for each in path if each not in sys.path)
        with suppress(OSError):
            if folder is not None and os.getcwd() != folder:
                os.chdir(folder)


def error_text(error: BaseException) -> str:
    """Return ``TypeError: text`` of an error, also of one that can't print itself."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return "an error that can't be printed"


def value_text(value: object) -> str:
    """Return `short` of a value, also of one whose own representation raises anything."""
    try:
        return short(value)
    except BaseException:
        return f"a value of {object.__repr__(type(value))} that can't be printed"


@contextmanager
def _watched_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT has raised ``KeyboardInterrupt`` inside."""
    interrupts: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    # Signals reach the main thread alone. Where a run or an embedding program has a handler that
    # does not raise, that one decides.
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield lambda: False
        return
    earlier: Callable[[int, FrameType | None], Any] = previous

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            earlier(number, frame)
        except KeyboardInterrupt:
            interrupts.append(number)
            raise

    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(interrupts)
    finally:
        # A package that has installed a handler of its own keeps it.
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, previous)


@contextmanager
def optional_imports(*, extra: str, purpose: str) -> Iterator[None]:
    """Let what is imported in a block be optional.

    Args:
        extra: the extra of this package that installs it.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        MissingDependency: it is not installed; the error names the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        needed = (error.name or "another package").partition(".")[0]
        raise MissingDependency(
            f"{purpose} needs {needed}: {error}.",
            fix=f'pip install "puffer-policies[{extra}]"',
        ) from error


def import_optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return an optional package. Arguments and errors are those of `optional_imports`."""
    with optional_imports(extra=extra, purpose=purpose):
        return importlib.import_module(module)
