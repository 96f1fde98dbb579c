"""Runs checks in a worker process that may hang, crash, exit or eat memory without harm.

The worker announces each stage over a socket. The parent keeps the time, and knows from the last
announcement what was going on when a worker died. The remaining checks run in a new worker.

A policy may write to the socket, too, and print without end. So a message is a line of JSON with a
token, of which nothing is ever unpickled, and of the output the first and the last part are kept.
"""

from __future__ import annotations

import enum
import faulthandler
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from puffer_policies.checks.engine.errors import (
    cause_of,
    error_text,
    place_in_dump,
    place_of,
    without_numbers,
)
from puffer_policies.checks.engine.runner import (
    EXPECTED,
    error_result,
    gate_of,
    never_run,
    not_judged,
    run,
)
from puffer_policies.checks.engine.targets import Target
from puffer_policies.checks.model import BAD, Check, ExpectedFailures, Level, Result, Status
from puffer_policies.checks.probes.cures import cure_of
from puffer_policies.checks.promises.passes import runs

TIME_LIMIT = 30.0
"""Seconds of CPU time that one check may take, and that building may take."""

PATIENCE = 4
"""How many times longer either may take by the clock, as on a loaded machine, or asleep."""

START_LIMIT = 120.0
"""Seconds until a worker must have announced itself; a spawned one imports torch first."""

MAX_HANGS = 3
"""Checks of one target that may run out of time; after that the rest are not run."""

MEMORY_HEADROOM = 6 * 2**30
"""Bytes that a policy may ask for, above what the process has at its start."""

_POLL = 0.2
_DUMP_WAIT = 0.5
_CHUNK = 2**16
"""Bytes that are read at once."""
_OUTPUT_KEPT = 2**16
"""Bytes of the output that are kept from its start, and as many from its end."""
_LONGEST_TEXT = 20_000
"""Characters of each text of a result; a policy may raise an error of any length."""
_LONGEST_MESSAGE = 2**20
_FOLDER_VARIABLE = "PUFFER_POLICIES_CHECK_FOLDER"
"""The variable by which processes that a worker started are known, wherever they have gone."""


class Stage(enum.StrEnum):
    """What a worker does next."""

    START = "start"
    BUILD = "build"
    CHECK = "check"
    END = "end"


@dataclass(frozen=True, slots=True)
class Job:
    """The task of one worker."""

    target: Target
    checks: Sequence[Check]
    expected: ExpectedFailures
    already_reported: bool = False
    """Whether an earlier result of the target was bad."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """A part of each message of the worker; what a policy writes to the socket lacks it."""


def run_isolated(
    target: Target,
    checks: Sequence[Check],
    *,
    expected: ExpectedFailures = EXPECTED,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Result]:
    """Run `checks` on a target in worker processes and yield each result as it comes.

    A check that takes the worker down, or uses more than `time_limit` seconds of CPU time, has an
    error as its result, and the next one runs in a new worker. If that is the check whether the
    policy runs, no other is run.
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
        return never_run(
            checks,
            target.name,
            target.spaces,
            error_text(error),
            already_reported=already_reported,
            where=place_of(error),
            fix=cure_of(error),
            cause=cause_of(error),
        )
    gate = gate_of(subject)
    return run(subject, checks, expected=expected, gate=gate, already_reported=already_reported)


# -- the parent ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Death:
    """How a worker ended before its job was done."""

    reason: str
    place: str = ""
    """The line of the policy's own code, as far as it is known."""
    fix: str = ""
    hung: bool = False

    @property
    def message(self) -> str:
        """How it ended, in words."""
        place = f" at {self.place}" if self.place else ""
        return f"the process {self.reason}{place}"

    @property
    def cause(self) -> str:
        """What all deaths of this cause have in common; '' without a place."""
        return without_numbers(self.reason) + f" at {self.place}" if self.place else ""


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
    obstacle: Result | None = None
    """The result of the check whether the policy runs, if it died or hung there."""

    def results(self) -> Iterator[Result]:
        while self.position < len(self.checks):
            if self.obstacle is not None:
                yield self._count(not_judged(self._remaining[0], self.obstacle))
                continue
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
            if isinstance(message, Result) and self._is_next(message):
                yield self._count(message)
            elif isinstance(message, Stage) and not (message is Stage.END and self._remaining):
                limit, stage = self.time_limit, message
            else:
                death = message if isinstance(message, _Death) else _Death(_FORGED)
                yield from self._bury(stage, death)
                return

    def _is_next(self, result: Result) -> bool:
        """Return whether a result is that of the check whose turn it is."""
        return bool(self._remaining) and self._remaining[0].code == result.code

    def _bury(self, stage: Stage, death: _Death) -> Iterator[Result]:
        self.hangs += death.hung
        if stage is not Stage.CHECK:
            yield from self._give_up(f"it can't be built: {death.message}", death)
        elif self._remaining:
            check, target = self._remaining[0], self.target
            result = error_result(
                check,
                target.name,
                target.spaces,
                death.message,
                where=death.place,
                fix=death.fix,
                cause=death.cause,
            )
            if check.code == runs.code:
                self.obstacle = result
            yield self._count(result)

    def _give_up(self, reason: str, death: _Death | None = None) -> Iterator[Result]:
        results = never_run(
            self._remaining,
            self.target.name,
            self.target.spaces,
            reason,
            already_reported=self.already_reported,
            where=death.place if death else "",
            fix=death.fix if death else "",
            cause=death.cause if death else "",
        )
        for result in list(results):
            yield self._count(result)

    def _count(self, result: Result) -> Result:
        self.position += 1
        self.already_reported = self.already_reported or result.status in BAD
        return result


_FORGED = "sent a message out of turn, which the policy must have forged"


class _Output:
    """The first and the last part of what a worker prints."""

    def __init__(self) -> None:
        self.first = self.last = b""

    def add(self, data: bytes) -> None:
        """Keep `data`, and forget what stands in the middle."""
        room = _OUTPUT_KEPT - len(self.first)
        self.first += data[:room]
        self.last = (self.last + data[room:])[-_OUTPUT_KEPT:]

    def text(self) -> str:
        """Return what was kept."""
        return (self.first + self.last).decode(errors="replace")


@dataclass
class _Worker:
    """A process, the socket that it reports through, and the pipe that it prints to."""

    process: Any
    messages: socket.socket
    output: Connection | None
    """None where there are no POSIX pipes; then what it prints is lost."""
    token: str
    folder: Path
    printed: _Output = field(default_factory=_Output)
    buffer: bytes = b""
    """What has come of the next messages."""
    is_closed: bool = False
    """Whether the worker has closed the socket."""

    def message(self, limit: float) -> Result | Stage | _Death:
        """Return the next message of the worker, or how it ended.

        Args:
            limit: seconds of CPU time that it may use until then; it may take `PATIENCE` times as
                long by the clock.
        """
        clock = _Clock(self.process.pid, limit)
        while not clock.excess:
            if b"\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\n")
                return _message(line, self.token) or _garbage(line)
            if len(self.buffer) > _LONGEST_MESSAGE:
                return _garbage(self.buffer)
            # Asked before reading: what a worker sent before it died is read after that.
            is_alive = self.process.is_alive()
            has_news = self._receive(_POLL if is_alive else 0)
            if not is_alive and (not has_news or self.is_closed):
                return self._death()
            if self.is_closed:
                self.process.join(_POLL)
                if self.process.is_alive():
                    return _Death("closed the pipe to the checker")
        return _Death(clock.excess, self._place_of_hang(), _END_IT, hung=True)

    def close(self) -> None:
        """End the process with everything that it started."""
        _kill_group(self.process.pid)
        self.process.kill()
        self.process.join()
        _kill_left_behind(self.folder)
        self.messages.close()
        if self.output is not None:
            self.output.close()

    def _receive(self, timeout: float) -> bool:
        """Read a part of the messages and of the output; return whether messages were read.

        Neither is waited for in the middle of a line, as a policy may write half of one.
        """
        channels: list[Any] = [] if self.is_closed else [self.messages]
        if self.output is not None:
            channels.append(self.output)
        ready = wait(channels, timeout)
        if self.output is not None and self.output in ready:
            self._read_output()
        if self.messages not in ready:
            return False
        try:
            data = self.messages.recv(_CHUNK)
        except OSError:  # the other end was closed with something unread
            data = b""
        self.buffer += data
        self.is_closed = not data
        return True

    def _read_output(self) -> None:
        assert self.output is not None
        data = os.read(self.output.fileno(), _CHUNK)
        self.printed.add(data)
        if not data:
            self.output.close()
            self.output = None

    def _death(self) -> _Death:
        code = self.process.exitcode
        place = self._place(wait_for=0)
        if code is not None and code < 0:
            return _Death(f"died of {signal.Signals(-code).name}", place, _FIND_IT)
        return _Death(f"ended itself with exit code {code}", place, _FIND_IT)

    def _place_of_hang(self) -> str:
        """Have faulthandler write where the worker is, at a signal, and read it."""
        if hasattr(signal, "SIGUSR1"):
            os.kill(self.process.pid, signal.SIGUSR1)
        return self._place(wait_for=_DUMP_WAIT)

    def _place(self, *, wait_for: float) -> str:
        """Return the place in the last dump, after reading what comes of the output meanwhile."""
        deadline = time.monotonic() + max(wait_for, _POLL)
        while self.output is not None and time.monotonic() < deadline:
            if not wait([self.output], wait_for):
                break
            self._read_output()
        return place_in_dump(self.printed.text())


_END_IT = "Find what does not end there; --time-limit gives more time to what is only slow."
_FIND_IT = "Find the call that ends the process: Python can't catch that, and a run would end too."


@dataclass(slots=True)
class _Clock:
    """Measures the time of a worker, from now on."""

    pid: int
    limit: float
    start: float = field(default_factory=time.monotonic)
    used: float = field(init=False)
    """Seconds of CPU time that the worker had used at the start."""

    def __post_init__(self) -> None:
        self.used = _cpu_seconds(self.pid)

    @property
    def excess(self) -> str:
        """What was exceeded, in words; '' as long as nothing is."""
        if _cpu_seconds(self.pid) - self.used > self.limit:
            return f"took longer than {self.limit:g} s of CPU time"
        longest = PATIENCE * self.limit
        if time.monotonic() - self.start > longest:
            return f"took longer than {longest:g} s, in which it slept or waited"
        return ""


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of children it waited for; 0 where it is unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # another system, or the process is gone
        return 0.0
    ticks = text.rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _message(line: bytes, token: str) -> Result | Stage | None:
    """Return the message in a line of JSON; None if it is not one of our worker."""
    try:
        data = json.loads(line)
        if data.pop("token") != token:
            return None
        if "stage" in data:
            return Stage(data["stage"])
        data = data["result"]
        others = ("status", "level", "seconds")
        texts = {key: str(value) for key, value in data.items() if key not in others}
        return Result(
            **texts,
            status=Status(data["status"]),
            level=Level(data["level"]),
            seconds=float(data["seconds"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _garbage(data: bytes) -> _Death:
    return _Death(f"wrote to the checker's own socket what is not a message of it: {data[:60]!r}")


def _kill_group(pid: int | None) -> None:
    if pid is None or not hasattr(os, "killpg"):
        return
    # It may be gone, or not have become a group of its own yet.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill_left_behind(folder: Path) -> None:
    """Kill the processes of a worker that have left its group, as daemons do, on Linux.

    They have its variable if they run another program, and its working folder if they do not.
    """
    if sys.platform != "linux":
        return
    mark = f"{_FOLDER_VARIABLE}={folder}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        # Most belong to others, and any of them may be gone.
        with suppress(OSError):
            in_folder = os.readlink(f"{entry.path}/cwd") == str(folder)
            if in_folder or mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


@contextmanager
def _worker(job: Job) -> Iterator[_Worker]:
    """Start a worker in a temporary folder; afterwards nothing remains of either."""
    method = _start_method()
    context: Any = multiprocessing.get_context(method)
    ours, theirs = socket.socketpair()
    # A pipe for the output, as programs expect of it; on Windows it would not be a descriptor.
    output, printer = context.Pipe(duplex=False) if os.name == "posix" else (None, None)
    # As the working folder of a process is read.
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="puffer-policies-check-")))
    # A fork has the parent's ends, too. It closes them: if the parent dies, writing must fail.
    inherited = tuple(filter(None, (ours, output))) if method == "fork" else ()
    process = context.Process(target=_work, args=(job, theirs, printer, str(folder), inherited))
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; torch always has some. The worker uses
        # none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    if printer is not None:
        printer.close()
    worker = _Worker(process, ours, output, job.token, folder)
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


def _work(
    job: Job,
    messages: socket.socket,
    printer: Connection | None,
    folder: str,
    inherited: tuple[socket.socket | Connection, ...],
) -> None:
    """Announce each stage and send each result, until the job is done."""
    for end in inherited:
        end.close()
    _detach(printer, folder)
    _send(messages, job, {"stage": Stage.BUILD})
    results = run_here(
        job.target, job.checks, expected=job.expected, already_reported=job.already_reported
    )
    _send(messages, job, {"stage": Stage.CHECK})
    for result in results:
        _send(messages, job, {"result": _plain(result)})
    _send(messages, job, {"stage": Stage.END})


def _send(messages: socket.socket, job: Job, data: dict[str, Any]) -> None:
    messages.sendall(json.dumps({"token": job.token, **data}).encode() + b"\n")


def _plain(result: Result) -> dict[str, Any]:
    return {
        key: value if isinstance(value, float) else str(value)[:_LONGEST_TEXT]
        for key, value in asdict(result).items()
    }


def _detach(printer: Connection | None, folder: str) -> None:
    """Keep the output, files, memory and children of this process from everybody else."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that the parent can end it with all that it started
    os.chdir(folder)
    os.environ[_FOLDER_VARIABLE] = folder
    _redirect_output(printer)
    # After a fork, threads of the parent's pools are gone, and waiting for them would hang.
    torch.set_num_threads(1)
    if sys.platform == "linux":
        _limit_memory()


def _redirect_output(printer: Connection | None) -> None:
    output = os.open(os.devnull, os.O_WRONLY) if printer is None else printer.fileno()
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
