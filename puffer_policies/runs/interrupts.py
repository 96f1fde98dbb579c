"""Ctrl-C, and SIGTERM, which clusters send: a request to stop after the current update.

A run answers both even if it was started with SIGINT ignored, as shells do for jobs in the
background: whoever signals a run wants its checkpoint, and a handler of our own is the only way to
write one. Outside of a run, an ignored SIGINT stays ignored.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE = 1.0
"""Seconds in which a repeated signal counts as the same one: launchers pass on each Ctrl-C."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the signal, such as ``SIGTERM``; empty if there was none."""
        self._deadline = float("inf")

    def __call__(self) -> bool:
        """Return whether a signal was received."""
        return bool(self.signal)

    def handle(self, number: int, frame: Any) -> None:
        """Remember a signal; a second one, after `GRACE`, raises KeyboardInterrupt."""
        if time.monotonic() > self._deadline:
            raise KeyboardInterrupt
        if not self.signal:
            self._deadline = time.monotonic() + GRACE
            self.signal = signal.Signals(number).name


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn signals into a request to stop, so that no update is cut in two.

    The earlier handlers return at the end. Outside of the main thread, which alone may handle
    signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            # None: the handler was not installed from Python, and can't be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
