"""Signals: a request to stop after the current update, and at the second one to leave at once.

SIGINT is Ctrl-C, SIGTERM ends a job of a cluster, SIGHUP comes from a closed terminal, and SIGUSR1
is the warning that clusters send before the end of a job's time. All of them save the run.

A run answers SIGINT and SIGTERM even if it was started with SIGINT ignored, as shells do for jobs
in the background: whoever signals a run wants its checkpoint, and a handler of our own is the only
way to write one. Outside of a run, an ignored SIGINT stays ignored. The other two are answered only
where they would end the process: ``nohup`` ignores SIGHUP, and a host may use SIGUSR1 for itself.
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
PATIENCE = 20.0
"""Seconds after which a run that a machine stopped leaves at once: clusters kill after 30 s."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPT = signal.SIGINT.name
"""The signal of Ctrl-C, which stands for an interrupt without a number."""
ONLY_IF_FATAL = ("SIGHUP", "SIGUSR1")
"""By name, as Windows has neither."""


class Stop:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the signal, such as ``SIGTERM``; empty if there was none."""
        self._deadline = float("inf")
        self._timer: threading.Timer | None = None

    def __call__(self) -> bool:
        """Return whether a signal was received."""
        return bool(self.signal)

    @property
    def number(self) -> int:
        """The number of the signal; 0 if there was none."""
        return int(getattr(signal, self.signal, 0))

    def handle(self, number: int, frame: Any) -> None:
        """Remember a signal; a second one, after `GRACE`, raises KeyboardInterrupt.

        The interrupt holds the number of the signal. After any signal but Ctrl-C, whose sender can
        send another one, it is raised after `PATIENCE` in any case: the run may hang.
        """
        now = time.monotonic()
        if now > self._deadline:
            self._deadline = now + GRACE
            raise KeyboardInterrupt(number)
        if self._deadline == float("inf"):
            self._deadline = now + GRACE
            self.signal = self.signal or signal.Signals(number).name
            if number != signal.SIGINT:
                self._repeat_later(number)

    def close(self) -> None:
        """Let no later interrupt come from an earlier signal."""
        if self._timer is not None:
            self._timer.cancel()

    def _repeat_later(self, number: int) -> None:
        # To the thread, and not to the process: only that wakes the main thread where it waits.
        main = threading.main_thread().ident
        self._timer = threading.Timer(PATIENCE, signal.pthread_kill, (main, number))
        self._timer.daemon = True
        self._timer.start()


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
    previous = {number: signal.getsignal(number) for number in _signals()}
    for number in previous:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        stop.close()
        for number, handler in previous.items():
            # None: the handler was not installed from Python, and can't be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def signal_of(interrupt: KeyboardInterrupt) -> str:
    """Return the name of the signal that raised an interrupt, which `Stop` puts into it."""
    number = next((each for each in interrupt.args if isinstance(each, int)), signal.SIGINT)
    return signal.Signals(number).name


def exit_code(name: str) -> int:
    """Return what shells return for a program that this signal ended; as for Ctrl-C for others."""
    return 128 + int(getattr(signal, name, signal.SIGINT))


def _signals() -> list[signal.Signals]:
    others = [getattr(signal, name) for name in ONLY_IF_FATAL if hasattr(signal, name)]
    return [*SIGNALS, *(each for each in others if signal.getsignal(each) is signal.SIG_DFL)]
