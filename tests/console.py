"""Runs the ``$ `` lines of a page of the docs, and looks for the output that the page shows."""

from __future__ import annotations

import os
import subprocess


def run_console(block: str) -> None:
    """Run a console block: ``cd`` lasts, and the lines after a command are found in its output."""
    for command, shown in commands_of(block):
        if command.startswith("cd "):
            os.chdir(command[3:])
            continue
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        require_lines(shown, done.stdout, command=command)


def commands_of(block: str) -> list[tuple[str, list[str]]]:
    """Return each command with the lines that the page shows after it, up to the next one."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip(" ."):  # "..." stands for lines left out
            found[-1][1].append(line)
    return found


def require_lines(shown: list[str], output: str, *, command: str) -> None:
    """Find lines in an output, one after the other; how far apart the words stand is ignored."""
    lines = iter(" ".join(line.split()) for line in output.splitlines())
    for line in shown:
        found = any(" ".join(line.split()) in printed for printed in lines)
        assert found, f"$ {command}\nthe page shows {line!r}, which is not next in\n{output}"
