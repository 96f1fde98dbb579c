"""Asks the fork server of the tests to run a program: as a function, and as a script for shells."""

from __future__ import annotations

import json
import os
import socket
import sys

TIME_LIMIT = 600
"""Seconds for a program: one that waits forever fails its test."""


def run_in_fork(
    address: str,
    site: str,
    python: str,
    arguments: list[str],
    *,
    cwd: str,
    env: dict[str, str],
    fds: list[int],
) -> int:
    """Run ``python ARGUMENTS`` in a fork of the server.

    Args:
        address: The path of the server's socket.
        site: A folder of packages that the program sees besides those of the server, or "".
        python: What the program has as its ``sys.executable``.
        arguments: A file of Python, and the arguments of that program.
        cwd: The folder to run in.
        env: All environment variables.
        fds: What the program has as stdin, stdout and stderr.

    Returns:
        The exit code, as ``subprocess`` would tell it.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIME_LIMIT)
        connection.connect(address)
        socket.send_fds(connection, [b"\n"], fds)
        connection.sendall(json.dumps([site, python, arguments, cwd, env]).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().read()
    if not answer:
        raise ConnectionError("the fork server of the tests has ended before the program did")
    return int(answer)


if __name__ == "__main__":
    code = run_in_fork(
        *sys.argv[1:4], sys.argv[4:], cwd=os.getcwd(), env=dict(os.environ), fds=[0, 1, 2]
    )
    sys.exit(code if code >= 0 else 128 - code)  # as a shell tells of a signal
