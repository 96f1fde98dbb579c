"""Runs the ``$ `` lines of a page of the docs, and looks for the output that the page shows."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
import types
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

PROGRAM = "puffer-policies "
SHELL_SYNTAX = re.compile(r"[|;&<>]")
SUBSTITUTION = re.compile(r"\$\(.*?\)")
PRELOADED = ("cli.main", "checks.api", "runs.run", "runs.evaluate", "studies.sweep")


class Console:
    """Runs console blocks one after the other; ``cd`` lasts.

    Commands of ours run in forks of a process that has imported torch once, which is most of what a
    short command costs. That process was itself forked before any code of the page ran, so that no
    command sees what the page imported or registered.

    Args:
        fork: False where commands must be found on the PATH, such as in a page that installs.
    """

    def __init__(self, *, fork: bool) -> None:
        self._server = _start_server() if fork else None

    def run(self, block: str) -> None:
        """Run a block, and find the lines after each command in its output."""
        for command, lines in commands_of(block):
            if command.startswith("cd "):
                os.chdir(command[3:])
                continue
            code, output = self._run(command)
            assert code == 0, f"$ {command}\n{output}"
            require_lines(lines, output, command=command)

    def _run(self, command: str) -> tuple[int, str]:
        arguments = command.removeprefix(PROGRAM)
        is_ours = arguments != command and not SHELL_SYNTAX.search(SUBSTITUTION.sub("", arguments))
        if self._server is None or not is_ours:
            process = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
            return process.returncode, process.stdout
        # The shell expands quotes, globs and $(...), and hands the arguments back.
        expanded = subprocess.check_output(rf"printf '%s\0' {arguments}", shell=True, text=True)
        with tempfile.NamedTemporaryFile("r") as output:
            self._server.send((expanded.split("\0")[:-1], os.getcwd(), output.name))
            code: int = self._server.recv()
            return code, output.read()


def _start_server() -> Connection:
    ours, theirs = Pipe()
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        except EOFError:  # the page has ended
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(1)
    theirs.close()
    return ours


def _serve(connection: Connection) -> None:
    # Without it, processes that a command spawns would import the page, and run it again.
    sys.modules["__main__"] = types.ModuleType("__main__")
    for name in PRELOADED:
        importlib.import_module(f"puffer_policies.{name}")
    while True:
        arguments, folder, output = connection.recv()
        child = os.fork()
        if child == 0:
            _run_command(arguments, folder, output)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run_command(arguments: list[str], folder: str, output: str) -> None:
    """Run our command line in this process, and end it."""
    code: object = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(Path(output), os.O_WRONLY), sys.stdout.fileno())
        code = sys.modules["puffer_policies.cli.main"].main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def commands_of(block: str) -> list[tuple[str, list[str]]]:
    """Return each command with the lines that the page shows after it, up to the next one."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif line.strip(" ."):  # "..." stands for lines left out
            commands[-1][1].append(line)
    return commands


def require_lines(expected: list[str], output: str, *, command: str) -> None:
    """Find lines in an output, one after the other; how far apart the words stand is ignored."""
    lines = iter(" ".join(line.split()) for line in output.splitlines())
    for line in expected:
        present = any(" ".join(line.split()) in printed for printed in lines)
        assert present, f"$ {command}\nthe page shows {line!r}, which is not next in\n{output}"
