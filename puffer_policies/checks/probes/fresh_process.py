"""Run a saved policy in a new Python, and bring its outputs back.

The new process starts in the same folder, with the same search path. It rebuilds the policy by its
spec if that names registered policies, else by the lines of source that the subject knows. On Linux
it is a fork of a Python that has imported torch and has built no policy, as the import costs a
hundred times what the script does.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

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
from puffer_policies.checks.probes.rollouts import run_both_ways
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import map_nested
"""

_BY_NAME = "policy = load_policy({weights!r}, here)\n"

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
    """Fork for each job that comes in over stdin, and answer with the pid, then the status.

    A new Python takes seconds to import torch. This one has imported what every script imports and
    nothing else, and runs no script itself, so that a fork of it is as fresh.
    """
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _run_job(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


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


@cache
def _server_of(owner: int) -> subprocess.Popen[bytes]:
    """Start the one that serves the process `owner`. It ends with its stdin, so with its owner."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env=_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    atexit.register(_stop, server, owner)
    return server


def _stop(server: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:  # a fork has a copy, and must leave the server alone
        server.kill()
        server.communicate()


def _run_forked(script: Path) -> tuple[int, str]:
    """Run a script in a fork of the server -> its status, and what it wrote to stderr."""
    errors, owner = script.with_suffix(".stderr"), os.getpid()
    job = {
        "script": str(script),
        "errors": str(errors),
        "folder": os.getcwd(),
        "environ": dict(os.environ),
        "path": _search_path(),
    }
    server, deadline = _server_of(owner), time.monotonic() + TIME_LIMIT
    pid = 0
    try:
        _pipe(server.stdin).write(json.dumps(job).encode() + b"\n")
        pid = int(_answer(server, deadline))
        status = int(_answer(server, deadline))
    except TimeoutError:
        if pid:
            os.kill(pid, signal.SIGKILL)
        _server_of.cache_clear()
        _stop(server, owner)
        raise
    except (ValueError, OSError):  # it could not start, or was killed
        _server_of.cache_clear()
        _stop(server, owner)
        return _run_alone(script)
    return status, errors.read_text(errors="replace")


def _answer(server: subprocess.Popen[bytes], deadline: float) -> bytes:
    output = _pipe(server.stdout)
    if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise TimeoutError
    return output.readline()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
