"""Tells which processes still run, by the files of Linux."""

from __future__ import annotations

from pathlib import Path


def is_running(pid: str) -> bool:
    """Return whether a process exists and is not a zombie, which has ended already."""
    try:
        # The name before the state may hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
