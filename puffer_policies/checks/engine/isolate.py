"""Runs checks in a worker process that may hang, crash, exit or eat memory without harm.

The worker announces each step over a pipe; the parent reads, keeps the time, and knows from the
last announcement what was going on when the worker died. The run goes on in a new worker.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from puffer_policies.checks.engine.expected import EXPECTED
from puffer_policies.checks.engine.places import dumped_line
from puffer_policies.checks.engine.plans import Plan
from puffer_policies.checks.engine.running import error_result, never_run
from puffer_policies.checks.engine.worker import OUTPUT, Job, Step, work
from puffer_policies.checks.model import BAD, Check, ExpectedFailures, Result

TIME_LIMIT = 30.0
"""Seconds that one check may take, and that building may take."""

START_LIMIT = 120.0
"""Seconds until a worker must have announced itself; a spawned one imports torch first."""

MAX_HANGS = 3
"""Checks of one plan that may run out of time; after that the rest are not run."""

_POLL = 0.2
_DUMP_WAIT = 0.5


def run_isolated(
    plan: Plan,
    checks: Sequence[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Result]:
    """Run `checks` on a plan in worker processes and yield each result as it comes.

    A check that takes the worker down, or runs longer than `time_limit` seconds, has an error as
    its result, and the next one runs in a new worker.
    """
    yield from _Run(plan, checks, expected, time_limit).results()


@dataclass(frozen=True, slots=True)
class _Death:
    """How a worker ended before its job was done."""

    reason: str
    hung: bool = False


@dataclass(slots=True)
class _Run:
    """One plan on its way through its checks."""

    plan: Plan
    checks: Sequence[Check]
    expected: ExpectedFailures
    time_limit: float
    done: int = 0
    hangs: int = 0
    told: bool = False

    def results(self) -> Iterator[Result]:
        while self.done < len(self.checks):
            if self.hangs >= MAX_HANGS:
                yield from self._give_up(f"{MAX_HANGS} checks before it ran out of time")
                return
            job = Job(self.plan, self._left, self.expected, told=self.told)
            with _worker(job) as worker:
                yield from self._follow(worker)

    @property
    def _left(self) -> Sequence[Check]:
        return self.checks[self.done :]

    def _follow(self, worker: _Worker) -> Iterator[Result]:
        """Yield what a worker reports, and at its untimely end what became of its step."""
        limit, step = START_LIMIT, Step.STARTING
        while step is not Step.DONE:
            message = worker.message(limit)
            if isinstance(message, Result):
                yield self._counted(message)
            elif isinstance(message, Step):
                limit, step = self.time_limit, message
            else:
                yield from self._lost(step, message)
                return

    def _lost(self, step: Step, death: _Death) -> Iterator[Result]:
        self.hangs += death.hung
        message = f"the process {death.reason}"
        if step is not Step.CHECKING:
            yield from self._give_up(f"it can't be built: {message}")
        elif self._left:
            yield self._counted(self._error(message))

    def _give_up(self, reason: str) -> Iterator[Result]:
        left = never_run(self._left, self.plan.name, self.plan.spaces, reason, told=self.told)
        for result in list(left):
            yield self._counted(result)

    def _counted(self, result: Result) -> Result:
        self.done += 1
        self.told = self.told or result.status in BAD
        return result

    def _error(self, message: str) -> Result:
        return error_result(self._left[0], self.plan.name, self.plan.spaces, message)


@dataclass
class _Worker:
    """A process and the pipe that it reports through."""

    process: Any
    pipe: Connection
    folder: Path

    def message(self, limit: float) -> Result | Step | _Death:
        """Return what the worker says next, or in words how it ended."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            # A child of the worker may hold the pipe open, so its end alone proves nothing.
            alive = self.process.is_alive()
            try:
                if self.pipe.poll(_POLL if alive else 0):
                    said: Result | Step = self.pipe.recv()
                    return said
            except (EOFError, OSError):
                self.process.join(_POLL)
                if self.process.is_alive():
                    return _Death("closed the pipe to the checker")
                alive = False
            if not alive:
                return self._death()
        return _Death(f"took longer than {limit:g} s{self._interrupted()}", hung=True)

    def close(self) -> None:
        """End the process with everything that it started."""
        _kill_group(self.process.pid)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _death(self) -> _Death:
        code = self.process.exitcode
        if code is not None and code < 0:
            return _Death(f"died of {signal.Signals(-code).name}{self._place()}")
        return _Death(f"ended itself with exit code {code}{self._place()}")

    def _interrupted(self) -> str:
        """Return where a worker that hangs is: faulthandler writes it down at a signal."""
        if hasattr(signal, "SIGUSR1"):
            os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(_DUMP_WAIT)
        return self._place()

    def _place(self) -> str:
        path = self.folder / OUTPUT
        dump = path.read_text(errors="replace") if path.is_file() else ""
        place = dumped_line(dump)
        return f" at {place}" if place else ""


def _kill_group(pid: int | None) -> None:
    if pid is None or not hasattr(os, "killpg"):
        return
    # It may be gone, or not have become a group of its own yet.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextmanager
def _worker(job: Job) -> Iterator[_Worker]:
    """Start a worker in a temporary folder; afterwards nothing is left of either."""
    context: Any = multiprocessing.get_context(_start_method())
    parent, child = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="puffer-policies-check-"))
    process = context.Process(target=work, args=(job, child, str(folder)))
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; torch always has some. The worker uses
        # none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    child.close()
    worker = _Worker(process, parent, folder)
    try:
        yield worker
    finally:
        worker.close()
        shutil.rmtree(folder, ignore_errors=True)


def _start_method() -> str:
    """Fork where it can be: it hands on classes that only this process has."""
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    has_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return "fork" if can_fork and not has_cuda else "spawn"
