"""Printing of tables, fields, JSON and errors; rich is imported only to draw on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from puffer_policies.errors import PolicyError
from puffer_policies.streams import data_stream, is_terminal, printable, write, write_note


def print_json(data: Any) -> None:
    """Print `data` as indented JSON."""
    # default=str: paths and the like have no JSON form of their own.
    write(json.dumps(data, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, drawn to fit on a terminal, or as plain lines into a pipe."""
    draw = _draw_table if is_terminal(data_stream()) else _write_table
    draw(title, columns, [list(row) for row in rows])


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print ``name   value`` lines, without those whose value is empty."""
    rows = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        first, *rest = value.splitlines()
        write(f"{name:<{width}}  {first}")
        for line in rest:
            write(f"{'':<{width}}  {line}")


def print_error(error: PolicyError) -> None:
    """Print the problem and its fix to standard error."""
    write_note(f"error: {error.problem}")
    if error.fix:
        write_note(error.fix)


def _draw_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Terminals are narrow, so columns without any text are left out.
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    columns, rows = [columns[i] for i in used], [[row[i] for i in used] for row in rows]
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.collapse_padding, table.pad_edge = True, False
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0, style="cyan" * (index == 0))
    for row in rows:
        table.add_row(*map(printable, row))
    Console(file=data_stream(), markup=False, highlight=False).print(table)


def _write_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    """Write aligned columns for `grep` and `cut`, without importing rich, which is slow."""
    # A cell may hold line breaks, such as a summary from a plug-in; a row must stay one line.
    cells = [[" ".join(cell.split()) for cell in row] for row in [list(columns), *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    write(title)
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write(f"  {'  '.join(padded)}".rstrip())
