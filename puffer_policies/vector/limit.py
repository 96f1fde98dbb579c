"""A limit on the time of a call, which raises `TimedOut` in the midst of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

from puffer_policies.errors import ConfigError


class TimedOut(BaseException):
    """A call took too long. It is not an `Exception`, which the code that hangs might catch."""


class Limit:
    """A context manager in which code may stay for some seconds; then `TimedOut` is raised in it.

    It uses SIGALRM, which interrupts waiting and sleeping, too, but no loop inside of C code.
    Outside of the main thread, the only one that receives signals, nothing is limited.
    """

    def __init__(self, seconds: float, *, reason: str) -> None:
        self.seconds = seconds
        self._text = f"no answer within {seconds:g} s ({reason})"
        self._before: tuple[Any, tuple[float, float]] | None = None

    def __enter__(self) -> None:
        """Start the clock."""
        if is_available():
            handler = signal.signal(signal.SIGALRM, self._raise)
            # Raised again and again, in case that code swallows it.
            self._before = handler, signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)

    def __exit__(self, *error: object) -> None:
        """Stop the clock, and put an alarm of somebody else's back."""
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            (handler, timer), self._before = self._before, None
            signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
            signal.setitimer(signal.ITIMER_REAL, *timer)

    def _raise(self, number: int, frame: Any) -> None:
        raise TimedOut(self._text)


def is_available() -> bool:
    """Whether calls can be limited here: in the main thread, and not on Windows."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and hasattr(signal, "setitimer")


def limit_of(timeout: float) -> contextlib.AbstractContextManager[None]:
    """Return the limit that ``vec.timeout`` asks for; 0 is none.

    Raises:
        ConfigError: calls can't be limited here.
    """
    if not timeout:
        return contextlib.nullcontext()
    if not is_available():
        raise ConfigError(
            f"vec.timeout is {timeout:g}, which needs signals: they reach the main thread only, "
            "and Windows has none.",
            fix="Start the run in the main thread, or leave vec.timeout at 0.",
        )
    return Limit(timeout, reason="vec.timeout")
