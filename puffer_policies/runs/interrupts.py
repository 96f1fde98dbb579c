"""Ctrl-C and SIGTERM, which clusters send, as a wish to stop after the update under way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE = 1.0
"""Seconds in which a repeated signal is the same wish: launchers pass one Ctrl-C on twice."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody wished the run to stop."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the signal, such as ``SIGTERM``; empty if there was none."""
        self._deadline = float("inf")

    def __call__(self) -> bool:
        """Return whether there was a signal."""
        return bool(self.signal)

    def wish(self, number: int, frame: Any) -> None:
        """Take in a signal; a second one, after `GRACE`, raises KeyboardInterrupt."""
        if time.monotonic() > self._deadline:
            raise KeyboardInterrupt
        if not self.signal:
            self._deadline = time.monotonic() + GRACE
            self.signal = signal.Signals(number).name


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn signals into a wish, so that no update is cut in two. Handlers are put back at the end.

    Outside of the main thread, which alone may handle signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, stop.wish)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
