"""The worker process of an env of its own: it leaves signals to the main process, and ends with it.

A terminal, and many a cluster, send a signal to all processes of a run. The main process finishes
the update first, so its envs must go on meanwhile; then it ends them itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from gymnasium.vector import async_vector_env

LEFT_TO_PARENT = ("SIGINT", "SIGHUP", "SIGUSR1")
"""Signals that ask a run to stop, by name, as Windows lacks some. SIGTERM, by which
multiprocessing ends a worker, is not among them."""
INTERVAL = 0.5
"""Seconds between two looks at the parent."""
PATIENCE = 1.0
"""Seconds in which a worker may close its env after the parent has ended."""


def work(*arguments: Any) -> None:
    """Run gymnasium's worker; `arguments` are those that gymnasium passes."""
    for name in LEFT_TO_PARENT:
        if hasattr(signal, name):
            # A function, and not SIG_IGN, which programs that the env starts would inherit.
            signal.signal(getattr(signal, name), _leave_to_parent)
    # The process may have been forked while a run handled it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    async_vector_env._async_worker(*arguments)


def _leave_to_parent(number: int, frame: Any) -> None:
    """Do nothing."""


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even in the midst of a step that hangs."""
    # Not by an end of the pipe: workers that were forked later hold a copy of its other side.
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    time.sleep(PATIENCE)
    os._exit(1)
