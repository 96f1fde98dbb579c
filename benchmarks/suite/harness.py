"""Candidates as processes that take turns, and the statistics of their turns.

A candidate is a script that builds what it measures and then answers lines: each line is a number
of calls, and the answer is the seconds that they took (`benchmarks/peers/turns.py`). The candidates
of a case take turns, so that whatever disturbs the machine disturbs all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PEERS = Path(__file__).parent.parent / "peers"

ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # For glibc. Otherwise freed memory goes back to the system, and up to two fifths of a pass
    # depend on who has to fault the pages in again.
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    # Peers that want to draw or to phone home have nothing to do here.
    "SDL_VIDEODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
"""Pins what every candidate runs with. The variables are read once, when a process starts."""

TIMEOUT = 180.0
"""Seconds after which a candidate that does not answer is ended and left out."""

LINGER = 10.0
"""Seconds that a process which a candidate has started may outlive it, and hold its output."""

Value = float | str


@dataclass(frozen=True)
class Candidate:
    """A script of `benchmarks/peers`, its arguments, and the environment that has its packages."""

    name: str
    script: str
    args: tuple[str, ...] = ()
    home: str = "ours"


@dataclass(frozen=True)
class Case:
    """What is measured by whom. The first candidate is ours, and the others are its rivals."""

    name: str
    title: str
    candidates: tuple[Candidate, ...]
    goals: Mapping[str, float] = field(default_factory=dict)
    """The ratio that is to be reached against a rival: how many times as fast ours should be."""
    shortfall: str = ""
    """Why a goal is missed, for the table."""
    work: int = 0
    """Env steps of a call; the table then shows steps a second in place of the time of a call."""
    turn: float = 0.1
    """Seconds that a turn should take; 0 makes it one call, without any to warm up."""
    rounds: tuple[int, int] = (7, 25)
    """The fewest and the most turns of each candidate."""
    seconds: float = 10.0
    """After so many, no further round starts once the fewest have been made."""


@dataclass(frozen=True)
class Budget:
    """How much of a case's time is spent."""

    share: float = 1.0
    fewest: int = 3

    def of(self, case: Case) -> tuple[int, int, float, float]:
        """Return the fewest and the most rounds, the seconds of all and those of a turn."""
        fewest, most = case.rounds
        if self.share < 1.0:
            fewest, most = min(fewest, self.fewest), max(self.fewest, int(most * self.share))
        return min(fewest, most), most, case.seconds * self.share, case.turn * self.share


FULL, QUICK = Budget(), Budget(0.2)


@dataclass
class Times:
    """The seconds of one call in every turn of a candidate, by wall clock and by CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    notes: list[dict[str, Value]] = field(default_factory=list)
    """What else the candidate answered in every turn, such as the steps that it needed."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is as a rival, with the bound of its noise."""

    median: float
    """The median of the rounds' own ratios, so that a slow phase of the machine cancels out."""
    best: float
    """The ratio of the fastest turns, as disturbances only ever add time."""
    cpu: float
    """The same as `median` by CPU time."""
    noise: float
    """Relative half width of the 95 % interval of `median`, from the spread of the rounds."""


@dataclass
class Result:
    """The turns of a case, and who was left out of it for which reason."""

    times: dict[str, Times] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class CandidateError(Exception):
    """A candidate could not be built or ended, and what it said last."""


class Process:
    """A candidate that runs and waits for its turns."""

    def __init__(self, candidate: Candidate, python: str, *, timeout: float = TIMEOUT) -> None:
        self.candidate, self._timeout = candidate, timeout
        # A file and not a pipe, which would fill up unread and stop the candidate.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(PEERS / candidate.script), *candidate.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **ENVIRON},
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Wait until the candidate is built."""
        self._answer()

    def turn(self, number: int) -> dict[str, Value]:
        """Let it make so many calls; return its answer.

        Raises:
            CandidateError: it ended, or took too long.
        """
        try:
            print(number, file=_pipe(self._process.stdin), flush=True)
        except OSError:  # it ended since its last answer
            raise CandidateError(self._reason()) from None
        return self._answer()

    def close(self) -> None:
        """End the process."""
        # First its input, at whose end the candidate and whatever it has started end by themselves.
        with contextlib.suppress(OSError):  # what it never read is still in the pipe
            _pipe(self._process.stdin).close()
        self._process.kill()
        self._process.wait()
        self._reader.join(LINGER)
        if not self._reader.is_alive():
            _pipe(self._process.stdout).close()
        self._errors.close()

    def _read(self) -> None:
        """Queue every line, as a read that blocks knows no timeout; an empty one is the end."""
        for line in _pipe(self._process.stdout):
            self._lines.put(line)
        self._lines.put("")

    def _answer(self) -> dict[str, Value]:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise CandidateError(f"gave no answer in {self._timeout:.0f} s") from None
            if not line:
                raise CandidateError(self._reason())
            with contextlib.suppress(json.JSONDecodeError):  # libraries print, too
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer

    def _reason(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1][:200] if lines else f"ended with status {self._process.returncode}"


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def measure(
    case: Case, pythons: Mapping[str, str], *, budget: Budget = FULL, timeout: float = TIMEOUT
) -> Result:
    """Race the candidates of a case; whoever can't run is left out with the reason.

    `pythons` has the interpreter of each environment. Where ours fails, nothing is measured.
    """
    result = Result()
    with _processes(case.candidates, pythons, result, timeout) as processes:
        _race(case, processes, result, budget)
    for name in result.missing:
        result.times.pop(name, None)
    return result


@contextmanager
def _processes(
    candidates: Sequence[Candidate], pythons: Mapping[str, str], result: Result, timeout: float
) -> Iterator[list[Process]]:
    """Start all candidates at once, and wait until each is built."""
    with ExitStack() as stack:
        processes = []
        for candidate in candidates:
            python = pythons.get(candidate.home)
            if python is None:
                result.missing[candidate.name] = f"there is no environment {candidate.home!r}"
                continue
            processes.append(Process(candidate, python, timeout=timeout))
            stack.callback(processes[-1].close)
        yield [each for each in processes if _is_built(each, result)]


def _is_built(process: Process, result: Result) -> bool:
    try:
        process.wait()
    except CandidateError as error:
        result.missing[process.candidate.name] = str(error)
        return False
    return True


def _race(case: Case, processes: list[Process], result: Result, budget: Budget) -> None:
    fewest, most, seconds, turn = budget.of(case)
    numbers = {}
    for process in processes:
        with _left_out(process, result):
            numbers[process.candidate.name] = _calibrate(process, turn)
    start = time.monotonic()
    for index in range(most):
        late = index >= fewest and time.monotonic() - start > seconds
        if late or case.candidates[0].name in result.missing:
            break
        # In turn from both ends, so that a machine that slows down favors nobody.
        for process in processes if index % 2 == 0 else processes[::-1]:
            name = process.candidate.name
            if name in result.missing:
                continue
            with _left_out(process, result):
                answer = process.turn(numbers[name])
                _note(result.times.setdefault(name, Times()), answer, numbers[name])


@contextmanager
def _left_out(process: Process, result: Result) -> Iterator[None]:
    try:
        yield
    except CandidateError as error:
        result.missing[process.candidate.name] = str(error)


def _calibrate(process: Process, seconds: float) -> int:
    """Return the number of calls that take `seconds`; the calls made meanwhile warm up."""
    number = 1
    if seconds:
        process.turn(number)  # up to 20 times as slow as the next, and no measure of them
    while seconds:
        wall = float(process.turn(number)["wall"])
        if wall >= seconds / 2:
            return max(1, round(number * seconds / wall))
        number *= 2 if wall > seconds / 8 else 4
    return number


def _note(times: Times, answer: dict[str, Value], number: int) -> None:
    times.wall.append(float(answer.pop("wall")) / number)
    times.cpu.append(float(answer.pop("cpu")) / number)
    if answer:
        times.notes.append(answer)


def ratio(ours: Times, theirs: Times) -> Ratio:
    """Compare the turns of two candidates of one race."""
    logs = [math.log(t / o) for o, t in zip(ours.wall, theirs.wall, strict=True)]
    return Ratio(
        median=math.exp(statistics.median(logs)),
        best=min(theirs.wall) / min(ours.wall),
        cpu=statistics.median(t / o for o, t in zip(ours.cpu, theirs.cpu, strict=True)),
        noise=noise(logs),
    )


def noise(logs: Sequence[float]) -> float:
    """Return the half width of the 95 % interval of the median of some logarithms.

    The standard error of a median is 1.25 deviations over the square root of the number, and the
    quartiles of normal numbers are 1.35 deviations apart (McGill, Tukey and Larsen, 1978, who take
    1.57 for notches, made to compare two medians). Quartiles that count the extremes as lying
    beyond what was seen keep that promise for few numbers: of 3 to 31 normal ones, the interval has
    the true median in 92 to 96 % of all cases; with the other kind, in 74 to 93 %. One value alone
    says nothing.
    """
    if len(logs) < 2:
        return math.inf
    low, _, high = statistics.quantiles(logs, n=4, method="exclusive")
    return 1.96 * 1.2533 / 1.349 * (high - low) / math.sqrt(len(logs))
