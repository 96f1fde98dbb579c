"""Run a saved policy in a new Python, and bring its outputs back.

The new process starts in the same folder, with the same search path. It rebuilds the policy by its
spec if that names registered policies, else by the lines of source that the subject knows. On Linux
it is a fork of a Python that has imported torch and has built no policy, as the import costs a
hundred times what the script does: the command line forks its own such Python (`serve_forks`).
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.snippets import HEADER, space_source
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import PolicyError
from puffer_policies.registry import default_registry
from puffer_policies.registry.records import Layer
from puffer_policies.registry.specs import PolicySpec

TIME_LIMIT = 120
"""Seconds for the new process; importing torch takes a few."""

NO_POLICY = 77
"""Exit status where the lines of source do not lead to a policy."""

_IMPORTS = """\
import sys, traceback
from puffer_policies.assembly.checkpoint import load_policy, load_weights
from puffer_policies.assembly.header import read_header
from puffer_policies.checks.probes.rollouts import run_both_ways
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import map_nested
"""

# The file alone has to do, except for spaces of classes that only others can build.
_BY_NAME = """\
header = read_header({weights!r})
policy = load_policy({weights!r}, here if header.spaces is None else None)
"""

_BY_SOURCE = """\
try:
{source}
    assert isinstance(policy, torch.nn.Module)
except BaseException:
    traceback.print_exc()
    sys.exit({status})
load_weights({weights!r}, policy)
"""

_RUN = """\
capabilities = Capabilities(**{capabilities!r})
observations = torch.load({observations!r}, weights_only=True)
played = map_nested(lambda leaf: leaf.flatten(0, 1).numpy(), observations)
subject = Subject("policy", here, lambda: policy, capabilities=capabilities, played=played)
torch.save(run_both_ways(subject, policy.eval(), observations), {outputs!r})
"""


class CannotRebuild(Exception):
    """Another process has no way to build the policy; the text says why."""


def outputs_of_new_process(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Return `run_both_ways` of a new process that loads the weights of `policy`.

    Raises:
        CannotRebuild: it has no registered spec, and its source can't be run elsewhere.
        CheckFailed: the new process failed.
    """
    spec = _registered_spec(subject.policy)
    if spec is None and not subject.source:
        raise CannotRebuild("it has neither a registered spec nor source")
    if spec is not None:
        policy.spec = spec  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "policy.safetensors", policy, env=subject.spaces)
        torch.save(observations, folder / "observations.pt")
        script = folder / "script.py"
        script.write_text(_script(subject, folder, by_name=spec is not None), encoding="utf-8")
        _execute(script)
        outputs: Tensor = torch.load(folder / "outputs.pt", weights_only=True)
    return outputs


def _registered_spec(policy: nn.Module) -> PolicySpec | None:
    """Return its spec if a new process would find every name of it."""
    spec = getattr(policy, "spec", None)
    if not isinstance(spec, PolicySpec):
        return None
    try:
        names = (spec.name, *(wrapper.name for wrapper in spec.wrappers))
        records = [default_registry().get(name) for name in names]
    except PolicyError:
        return None
    # What was registered by hand in this process is unknown to the next.
    is_lasting = all(record.provenance.layer is not Layer.PROCESS for record in records)
    return spec if is_lasting else None


def _script(subject: Subject, folder: Path, *, by_name: bool) -> str:
    pair = (space_source(subject.spaces.observation), space_source(subject.spaces.action))
    source = "\n".join(f"    {line}" for line in subject.source.splitlines())
    form = _BY_NAME if by_name else _BY_SOURCE
    policy = form.format(
        weights=str(folder / "policy.safetensors"), source=source, status=NO_POLICY
    )
    paths = {name: str(folder / f"{name}.pt") for name in ("observations", "outputs")}
    capabilities = {} if subject.capabilities is None else asdict(subject.capabilities)
    here = f"here = Spaces({', '.join(pair)})\n"
    run = _RUN.format(**paths, capabilities=capabilities)
    return f"{HEADER}{_IMPORTS}{here}{policy}{run}"


def _execute(script: Path) -> None:
    try:
        status, errors = _run(script)
    except TimeoutError as error:
        raise CheckFailed("a new process to answer", f"nothing after {TIME_LIMIT} s") from error
    last = (errors.strip().splitlines() or ["nothing on stderr"])[-1]
    if status == NO_POLICY:
        raise CannotRebuild(last)
    if status:
        raise CheckFailed("a new process to load the saved policy and run it", last)


def _run(script: Path) -> tuple[int, str]:
    """Run a script in a new process -> its status, and what it wrote to stderr.

    Raises:
        TimeoutError: it took longer than `TIME_LIMIT`.
    """
    return _run_forked(script) if sys.platform == "linux" else _run_alone(script)


def _run_alone(script: Path) -> tuple[int, str]:
    """Run a script in a Python of its own -> its status, and what it wrote to stderr."""
    try:
        process = subprocess.run(
            [sys.executable, str(script)],
            env=_environ(),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    return process.returncode, process.stderr


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())}


def _search_path() -> list[str]:
    return [path or "." for path in sys.path]


# -- a Python that has imported torch, and forks for each script -----------------------------------

_SERVE = f"from {__name__} import serve; serve()"


def serve() -> None:
    """Fork for each job that comes in over stdin, and answer with its pid, then with its status.

    A new Python takes seconds to import torch. This one has imported what every script imports and
    nothing else, and runs no script itself, so that a fork of it is as fresh.
    """
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            _run_job(job)
        print(job["id"], pid, flush=True)
        print(job["id"], os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def serve_forks() -> None:
    """Have a fork of this process serve it and its workers from now on, on Linux.

    It is for a process that has imported the suite and no policy yet.
    """
    if sys.platform != "linux":
        return
    global _forked
    jobs, to_jobs = os.pipe()
    answers, to_answers = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; torch always has some.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream, end in enumerate((jobs, to_answers, nothing)):
            os.dup2(end, stream)
        os.closerange(3, max(jobs, to_jobs, answers, to_answers, nothing) + 1)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        torch.set_num_threads(1)  # after a fork the threads of the parent's pools are gone
        serve()
        os._exit(0)
    os.close(jobs)
    os.close(to_answers)
    _forked = _Server(pid, to_jobs, answers)
    atexit.register(_stop, _forked, os.getpid())


def _run_job(job: dict[str, Any]) -> NoReturn:
    """Run a script as a Python of its own would, and end this process."""
    for stream, path in enumerate((os.devnull, os.devnull, job["errors"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    sys.path[:] = job["path"]
    importlib.invalidate_caches()
    status = 1
    try:
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class _Server:
    """A process that serves, and this end of its pipes."""

    pid: int
    jobs: int
    answers: int


_forked: _Server | None = None
"""The server that `serve_forks` made, for this process and its workers, one after the other."""


@cache
def _server_of(owner: int) -> _Server:
    """Start the one that serves the process `owner`. It ends with its stdin, so with its owner."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env=_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.returncode = 0  # it is waited for in _stop
    server = _Server(process.pid, os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
    process.stdin.close()
    process.stdout.close()
    atexit.register(_stop, server, owner)
    return server


def _stop(server: _Server, owner: int) -> None:
    if os.getpid() != owner:  # a fork has a copy, and must leave the server alone
        return
    with suppress(OSError):  # it was stopped before
        os.kill(server.pid, signal.SIGKILL)
        os.waitpid(server.pid, 0)
        os.close(server.jobs)
        os.close(server.answers)


def _run_forked(script: Path) -> tuple[int, str]:
    """Run a script in a fork of the server -> its status, and what it wrote to stderr."""
    errors, owner = script.with_suffix(".stderr"), os.getpid()
    name = secrets.token_hex(8)
    job = {
        "id": name,
        "script": str(script),
        "errors": str(errors),
        "folder": os.getcwd(),
        "environ": dict(os.environ),
        "path": _search_path(),
    }
    server, deadline = _forked or _server_of(owner), time.monotonic() + TIME_LIMIT
    pid = 0
    try:
        _write(server.jobs, json.dumps(job).encode() + b"\n")
        pid = int(_answer(server, name, deadline))
        status = int(_answer(server, name, deadline))
    except TimeoutError:
        if pid:
            os.kill(pid, signal.SIGKILL)
        _give_up(server, owner)
        raise
    except (ValueError, OSError):  # it could not start, or was killed
        _give_up(server, owner)
        return _run_alone(script)
    return status, errors.read_text(errors="replace")


def _give_up(server: _Server, owner: int) -> None:
    """Forget a server, so that the next script starts another."""
    global _forked
    _forked = None
    _server_of.cache_clear()
    _stop(server, owner)


def _answer(server: _Server, job: str, deadline: float) -> str:
    """Return the next answer to a job; those to others are of workers that have died meanwhile."""
    while True:
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([server.answers], [], [], max(0.0, deadline - time.monotonic()))[
                0
            ]:
                raise TimeoutError
            byte = os.read(server.answers, 1)
            if not byte:
                raise ConnectionError("the server has ended")
            line += byte
        name, _, answer = line.decode(errors="replace").partition(" ")
        if name == job:
            return answer


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]
