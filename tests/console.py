"""Runs the ``$ `` lines of a page of the docs, and looks for the output that the page shows."""

from __future__ import annotations

import os
import subprocess


def run(block: str) -> None:
    """Run a console block, and find the lines after each command in its output; ``cd`` lasts."""
    for command, lines in commands_of(block):
        if command.startswith("cd "):
            os.chdir(command[3:])
            continue
        process = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
        assert process.returncode == 0, f"$ {command}\n{process.stdout}"
        require_lines(lines, process.stdout, command=command)


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
