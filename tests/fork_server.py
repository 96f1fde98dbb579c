"""Runs Python programs in forks of a process that has imported torch, most of what they cost.

A program has its own arguments, folder, environment variables, streams and exit code, and what it
changes is gone with it. All that it shares with others are modules that were imported before. What
is promised of imports, of signals or of the start of a process is tested without the server.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from fork_client import run_in_fork

PRELOADED = (
    "puffer_policies.cli.main",
    "puffer_policies.checks.api",
    "puffer_policies.checks.pytest_plugin",
    "puffer_policies.runs.run",
    "puffer_policies.runs.evaluate",
    "puffer_policies.studies.sweep",
    "matplotlib.backends.backend_svg",
    "torch._dynamo",  # what compares a policy with its compiled copy
    "torch.distributed.run",
    "pytest",
)

_PYTHON = """#!/bin/sh
[ "$1" = -u ] && shift  # unbuffered streams, which no program of the tests needs
case "$1" in
-c) ;;
-* | "") exec {anew} "$@" ;;
esac
exec {in_fork} "$@"
"""


START_LIMIT = 300
"""Seconds until a server has imported what it preloads."""


class Forks:
    """A server at an address, which runs programs in forks."""

    def __init__(self, address: str) -> None:
        self.address = address

    def wait(self) -> None:
        """Return once the server answers."""
        deadline = time.monotonic() + START_LIMIT
        while not Path(self.address).exists():
            assert time.monotonic() < deadline, "the fork server of the tests did not start"
            time.sleep(0.05)

    def run(
        self, program: Path, *arguments: str, cwd: Path, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a file of Python with arguments, and return what it printed."""
        with (
            open(os.devnull) as nothing,
            tempfile.TemporaryFile("w+") as output,
            tempfile.TemporaryFile("w+") as errors,
        ):
            code = run_in_fork(
                self.address,
                "",
                sys.executable,
                [str(program), *arguments],
                cwd=str(cwd),
                env=env,
                fds=[nothing.fileno(), output.fileno(), errors.fileno()],
            )
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                [program, *arguments], code, output.read(), errors.read()
            )

    def write_python(self, path: Path, *, python: Path, site: str = "") -> None:
        """Write a Python for shells and scripts that runs files and ``-c`` in forks.

        Args:
            path: Where to write it.
            python: The Python that does all else, such as ``-m``.
            site: A folder of packages that programs see besides those of the server, or "".
        """
        client = Path(__file__).with_name("fork_client.py")
        anew = shlex.quote(str(python))
        in_fork = shlex.join([sys.executable, "-IS", str(client), self.address, site, str(path)])
        path.write_text(_PYTHON.format(anew=anew, in_fork=in_fork))
        path.chmod(0o755)


class ForkServer(Forks):
    """A server process, which ends with ``close`` or with the process that made it."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="fork-")  # the path of a socket has to be short
        super().__init__(f"{self._folder}/socket")
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.address],
            stdin=subprocess.PIPE,
            cwd="/",
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            start_new_session=True,
        )

    def close(self) -> None:
        """End the server, and every program that is still running."""
        self._process.communicate()
        shutil.rmtree(self._folder)


def serve(path: str) -> None:
    """Answer until stdin ends, which it does whichever way the tests end."""
    sys.path.pop(0)  # programs do not see the modules of the tests
    os.fsync = lambda _: None  # nor wait for the disk
    for name in PRELOADED:
        # With a gymnasium that is too old for the trainer, its modules are left out.
        with suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # a program that collected through these objects would copy the memory they are in
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(32)
        os.rename(f"{path}.new", path)  # which tells that it answers
        while True:
            if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
                os.killpg(os.getpid(), signal.SIGKILL)
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()
            while _reap():
                pass


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _answer(connection: socket.socket) -> None:
    """Run one program in a child of this process, tell its exit code and end."""
    _, fds, _, _ = socket.recv_fds(connection, 1, 3)
    site_folder, python, arguments, cwd, env = json.loads(connection.makefile().read())
    child = os.fork()
    if child == 0:
        connection.close()
        _use_streams(fds)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.executable = python
        _add_packages(site_folder)
        _end(_run(arguments))
    for fd in fds:
        os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):  # who asked was killed
        connection.sendall(str(code).encode())
    os._exit(0)


def _use_streams(fds: list[int]) -> None:
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace", buffering=1, closefd=False)


def _add_packages(folder: str) -> None:
    """Put what PYTHONPATH names first, and then a folder of packages."""
    known = list(sys.path)
    if folder:
        site.addsitedir(folder)
    added = [path for path in sys.path if path not in known]
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*named, *added, *known]
    importlib.invalidate_caches()


def _run(arguments: list[str]) -> object:
    """Run a program as ``__main__``, and return what it exits with."""
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, "")
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent.absolute()))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _end(code: object) -> None:
    """End this process as Python ends one, without the time to take all modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if code is None else code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
