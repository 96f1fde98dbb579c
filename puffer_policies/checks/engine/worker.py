"""The process in which a policy is imported, built and checked."""

from __future__ import annotations

import enum
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from puffer_policies.checks.engine.plans import Plan
from puffer_policies.checks.engine.running import error_text, gate_of, never_run, run
from puffer_policies.checks.model import Check, ExpectedFailures, Result

OUTPUT = "output.txt"
"""What the worker, or the policy, writes to stdout and stderr, in its folder."""

MEMORY_HEADROOM = 6 * 2**30
"""Bytes that a policy may ask for, above what the process has at its start."""


class Step(enum.Enum):
    """What the worker does next."""

    STARTING = enum.auto()
    BUILDING = enum.auto()
    CHECKING = enum.auto()
    DONE = enum.auto()


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker is to do."""

    plan: Plan
    checks: Sequence[Check]
    expected: ExpectedFailures
    told: bool = False
    """Whether an earlier result of the plan was bad."""


def work(job: Job, pipe: Connection, folder: str) -> None:
    """Announce each step and send each result, until the job is done."""
    _settle(folder)
    pipe.send(Step.BUILDING)
    results = open_plan(job.plan, job.checks, expected=job.expected, told=job.told)
    pipe.send(Step.CHECKING)
    for result in results:
        pipe.send(result)
    pipe.send(Step.DONE)


def open_plan(
    plan: Plan, checks: Sequence[Check], *, expected: ExpectedFailures, told: bool = False
) -> Iterator[Result]:
    """Import and build the policy of a plan now, and return the results of its checks as they come.

    A policy that can't be imported or built has results too.
    """
    try:
        subject = plan.make()
    except (Exception, SystemExit) as error:
        return never_run(checks, plan.name, plan.spaces, error_text(error), told=told)
    return run(subject, checks, expected=expected, gate=gate_of(subject), told=told)


def _settle(folder: str) -> None:
    """Make the process one whose output, files, memory and children concern nobody else."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that the parent can end it with all that it started
    os.chdir(folder)
    _capture(Path(folder, OUTPUT))
    # After a fork, threads of the parent's pools are gone, and waiting for them would hang.
    torch.set_num_threads(1)
    if sys.platform == "linux":
        _limit_memory()


def _capture(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    faulthandler.enable(sys.stderr)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, sys.stderr)


def _limit_memory() -> None:
    import resource  # there is none on Windows

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
