"""Prints tables, JSON and errors; rich is imported only by what needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from puffer_policies.errors import PolicyError

_PIPE_WIDTH = 160


def print_json(data: Any) -> None:
    """Print `data` as indented JSON."""
    print(json.dumps(data, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the terminal; into a pipe, one that no column is cut from."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0, style="cyan" * (index == 0))
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False).print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print ``name   value`` lines, empty values left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = value.splitlines()
        print(f"{name:<{width}}  {first}")
        for line in rest:
            print(f"{'':<{width}}  {line}")


def print_error(error: PolicyError) -> None:
    """Print what went wrong and what to do, to standard error."""
    print(f"error: {error.problem}", file=sys.stderr)
    if error.fix:
        print(error.fix, file=sys.stderr)
