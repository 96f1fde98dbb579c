"""Runs checks in a worker process that may hang, crash, exit or eat memory without harm.

The worker announces each stage over a pipe. The parent keeps the time, and knows from the last
announcement what was going on when a worker died. The remaining checks run in a new worker.
"""

from __future__ import annotations

import enum
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
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

from puffer_policies.checks.engine.runner import (
    EXPECTED,
    error_result,
    error_text,
    gate_of,
    never_run,
    place_in_dump,
    run,
)
from puffer_policies.checks.engine.targets import Target
from puffer_policies.checks.model import BAD, Check, ExpectedFailures, Result

TIME_LIMIT = 30.0
"""Seconds that one check may take, and that building may take."""

START_LIMIT = 120.0
"""Seconds until a worker must have announced itself; a spawned one imports torch first."""

MAX_HANGS = 3
"""Checks of one target that may run out of time; after that the rest are not run."""

MEMORY_HEADROOM = 6 * 2**30
"""Bytes that a policy may ask for, above what the process has at its start."""

_POLL = 0.2
_DUMP_WAIT = 0.5
_OUTPUT = "output.txt"
"""The file, in the worker's folder, of what it or the policy writes to stdout and stderr."""


class Stage(enum.Enum):
    """What a worker does next."""

    START = enum.auto()
    BUILD = enum.auto()
    CHECK = enum.auto()
    END = enum.auto()


@dataclass(frozen=True, slots=True)
class Job:
    """The task of one worker."""

    target: Target
    checks: Sequence[Check]
    expected: ExpectedFailures
    already_reported: bool = False
    """Whether an earlier result of the target was bad."""


def run_isolated(
    target: Target,
    checks: Sequence[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Result]:
    """Run `checks` on a target in worker processes and yield each result as it comes.

    A check that takes the worker down, or runs longer than `time_limit` seconds, has an error as
    its result, and the next one runs in a new worker.
    """
    yield from _Supervisor(target, checks, expected, time_limit).results()


def run_here(
    target: Target,
    checks: Sequence[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    already_reported: bool = False,
) -> Iterator[Result]:
    """Run `checks` on a target in this process: without a time limit, and open to a debugger.

    The policy is imported and built at the call. One that can't be has results too.
    """
    try:
        subject = target.subject
    except (Exception, SystemExit) as error:
        reason = error_text(error)
        return never_run(
            checks, target.name, target.spaces, reason, already_reported=already_reported
        )
    gate = gate_of(subject)
    return run(subject, checks, expected=expected, gate=gate, already_reported=already_reported)


# -- the parent ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Death:
    """How a worker ended before its job was done."""

    reason: str
    hung: bool = False


@dataclass(slots=True)
class _Supervisor:
    """Takes one target through its checks, with as many workers as it needs."""

    target: Target
    checks: Sequence[Check]
    expected: ExpectedFailures
    time_limit: float
    position: int = 0
    """The index of the next check without a result."""
    hangs: int = 0
    already_reported: bool = False

    def results(self) -> Iterator[Result]:
        while self.position < len(self.checks):
            if self.hangs >= MAX_HANGS:
                yield from self._give_up(f"{MAX_HANGS} checks before it ran out of time")
                return
            job = Job(self.target, self._remaining, self.expected, self.already_reported)
            with _worker(job) as worker:
                yield from self._follow(worker)

    @property
    def _remaining(self) -> Sequence[Check]:
        return self.checks[self.position :]

    def _follow(self, worker: _Worker) -> Iterator[Result]:
        """Yield the results of a worker, and if it dies, those of its stage."""
        limit, stage = START_LIMIT, Stage.START
        while stage is not Stage.END:
            message = worker.message(limit)
            if isinstance(message, Result):
                yield self._count(message)
            elif isinstance(message, Stage):
                limit, stage = self.time_limit, message
            else:
                yield from self._bury(stage, message)
                return

    def _bury(self, stage: Stage, death: _Death) -> Iterator[Result]:
        self.hangs += death.hung
        message = f"the process {death.reason}"
        if stage is not Stage.CHECK:
            yield from self._give_up(f"it can't be built: {message}")
        elif self._remaining:
            check = self._remaining[0]
            yield self._count(error_result(check, self.target.name, self.target.spaces, message))

    def _give_up(self, reason: str) -> Iterator[Result]:
        results = never_run(
            self._remaining,
            self.target.name,
            self.target.spaces,
            reason,
            already_reported=self.already_reported,
        )
        for result in list(results):
            yield self._count(result)

    def _count(self, result: Result) -> Result:
        self.position += 1
        self.already_reported = self.already_reported or result.status in BAD
        return result


@dataclass
class _Worker:
    """A process and the pipe that it reports through."""

    process: Any
    pipe: Connection
    folder: Path

    def message(self, limit: float) -> Result | Stage | _Death:
        """Return the next message of the worker, or how it ended."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            # A child of the worker may hold the pipe open, so its end alone proves nothing.
            is_alive = self.process.is_alive()
            try:
                if self.pipe.poll(_POLL if is_alive else 0):
                    message: Result | Stage = self.pipe.recv()
                    return message
            except (EOFError, OSError):
                self.process.join(_POLL)
                if self.process.is_alive():
                    return _Death("closed the pipe to the checker")
                is_alive = False
            if not is_alive:
                return self._death()
        return _Death(f"took longer than {limit:g} s{self._place_of_hang()}", hung=True)

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

    def _place_of_hang(self) -> str:
        """Have faulthandler write where the worker is, at a signal, and read it."""
        if hasattr(signal, "SIGUSR1"):
            os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(_DUMP_WAIT)
        return self._place()

    def _place(self) -> str:
        path = self.folder / _OUTPUT
        place = place_in_dump(path.read_text(errors="replace") if path.is_file() else "")
        return f" at {place}" if place else ""


def _kill_group(pid: int | None) -> None:
    if pid is None or not hasattr(os, "killpg"):
        return
    # It may be gone, or not have become a group of its own yet.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextmanager
def _worker(job: Job) -> Iterator[_Worker]:
    """Start a worker in a temporary folder; afterwards nothing remains of either."""
    context: Any = multiprocessing.get_context(_start_method())
    parent, child = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="puffer-policies-check-"))
    process = context.Process(target=_work, args=(job, child, str(folder)))
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


# -- the worker ------------------------------------------------------------------------------------


def _work(job: Job, pipe: Connection, folder: str) -> None:
    """Announce each stage and send each result, until the job is done."""
    _detach(folder)
    pipe.send(Stage.BUILD)
    results = run_here(
        job.target, job.checks, expected=job.expected, already_reported=job.already_reported
    )
    pipe.send(Stage.CHECK)
    for result in results:
        pipe.send(result)
    pipe.send(Stage.END)


def _detach(folder: str) -> None:
    """Keep the output, files, memory and children of this process from everybody else."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that the parent can end it with all that it started
    os.chdir(folder)
    _redirect_output(Path(folder, _OUTPUT))
    # After a fork, threads of the parent's pools are gone, and waiting for them would hang.
    torch.set_num_threads(1)
    if sys.platform == "linux":
        _limit_memory()


def _redirect_output(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    faulthandler.enable(sys.stderr)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, sys.stderr)


def _limit_memory() -> None:
    import resource  # Windows does not have it

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
