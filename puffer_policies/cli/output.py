"""Printing of tables, fields, JSON and errors; rich is imported only to draw on a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from puffer_policies.errors import PolicyError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import CODE_LOGGER, Layer
from puffer_policies.streams import (
    data_stream,
    is_terminal,
    json_text,
    printable,
    write,
    write_note,
)

if TYPE_CHECKING:
    from rich.console import Console

COLUMN_GAP = 3
"""Blanks and borders beside each column of a table that is drawn."""


def print_json(data: Any) -> None:
    """Print `data` as indented JSON."""
    write(json_text(data, indent=2))


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


@contextmanager
def code_announced(registry: Registry) -> Iterator[None]:
    """Print a line to standard error where code of a project's registry file is imported."""
    places = [each.provenance for each in registry.records()]
    places += [each.provenance for each in registry.envs.values()]
    if not any(each.layer is Layer.PROJECT for each in places):
        yield
        return
    # Imported here, as few commands meet a project's file and all would wait for it.
    import logging

    files: set[str] = set()

    def announce(line: logging.LogRecord) -> bool:
        _, file, _ = line.args if isinstance(line.args, tuple) else ("", "", "")
        # Once for each file: a check of ten policies is one piece of news.
        if file not in files:
            files.add(str(file))
            write_note(f"note: {line.getMessage()}")
        return True

    logger = logging.getLogger(CODE_LOGGER)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(announce)
    try:
        yield
    finally:
        logger.removeFilter(announce)
        logger.setLevel(level)


def print_error(error: PolicyError) -> None:
    """Print the problem and its fix to standard error."""
    write_note(f"error: {error.problem}")
    if error.fix:
        write_note(error.fix)


def terminal_width() -> int | None:
    """Return the columns of the terminal that shows our output; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if is_terminal(data_stream()) else None


def _draw_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Terminals are narrow, so columns without any text are left out.
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    columns = [columns[i] for i in used]
    rows = [[printable(row[i]) for i in used] for row in rows]
    console = Console(file=data_stream(), markup=False, highlight=False)
    widths = [_longest_word(column) for column in zip(columns, *rows, strict=True)]
    # A name or a path that is broken can't be copied.
    if sum(widths) + COLUMN_GAP * len(widths) > console.width:
        _draw_blocks(console, title, columns, rows)
        return
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.collapse_padding, table.pad_edge = True, False
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, min_width=width, no_wrap=index == 0, style="cyan" * (index == 0))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _draw_blocks(
    console: Console, title: str, columns: Sequence[str], rows: list[list[str]]
) -> None:
    """Draw each row as a block of lines, for a terminal that is too narrow for the columns."""
    console.print(title, style="bold")
    for first, *rest in rows:
        console.print(first, style="cyan", soft_wrap=True)
        for column, cell in zip(columns[1:], rest, strict=True):
            for line in _wrapped(f"{column}: {cell}" if cell else "", console.width - 2):
                console.print(f"  {line}", soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _longest_word(cells: Iterable[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=1)


def _write_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    """Write aligned columns for `grep` and `cut`, without importing rich, which is slow."""
    # A cell may hold line breaks, such as a summary from a plug-in; a row must stay one line.
    cells = [[" ".join(cell.split()) for cell in row] for row in [list(columns), *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    write(title)
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write(f"  {'  '.join(padded)}".rstrip())
