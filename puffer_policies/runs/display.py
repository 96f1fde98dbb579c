"""What a run shows: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from puffer_policies.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

DisplayKind = Literal["auto", "live", "plain", "quiet"]

LINE_INTERVAL = 5.0
"""Seconds between plain lines."""


class Display(Protocol):
    """Shows a run from its start to its end; leaving the context leaves the terminal clean."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop showing, whatever happened."""
        ...

    def update(self, logs: Mapping[str, float]) -> None:
        """Show what an update measured."""
        ...

    def note(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Show the end of the run as a table."""
        ...


def make_display(kind: DisplayKind, *, total_steps: int, console: Console | None = None) -> Display:
    """Return a display; ``auto`` is live on a terminal and plain elsewhere.

    Raises:
        ConfigError: an unknown kind.
    """
    from rich.console import Console

    console = console or Console()
    if kind == "auto":
        kind = "live" if console.is_terminal else "plain"
    if kind == "quiet":
        return Quiet()
    if kind == "plain":
        return Plain(console, total_steps)
    if kind == "live":
        return Live(console, total_steps)
    raise ConfigError(f"No display {kind!r}.", fix="Use auto, live, plain or quiet.")


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""

    def update(self, logs: Mapping[str, float]) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Show nothing."""


class Plain(Quiet):
    """Prints a line every few seconds."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self.console, self.total_steps = console, total_steps
        self._last = float("-inf")

    def update(self, logs: Mapping[str, float]) -> None:
        """Print a line if the last one is old enough, or the run is at its end."""
        now, steps = time.monotonic(), logs["agent_steps"]
        if now - self._last >= LINE_INTERVAL or steps >= self.total_steps:
            self._last = now
            eta = max(self.total_steps - steps, 0) / logs["SPS"]
            self.note(f"{steps:>12,.0f} steps  {described(logs)}  eta {eta:.0f} s")

    def note(self, text: str) -> None:
        """Print a line, never wrapped."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Print a table of two columns."""
        from rich.table import Table

        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, value)
        self.console.print(table)


class Live(Plain):
    """Draws one progress bar that is redrawn in place."""

    def __init__(self, console: Console, total_steps: int) -> None:
        super().__init__(console, total_steps)
        self._progress = _progress(console)
        self._task = self._progress.add_task("", total=total_steps)

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Draw it for the last time and give the cursor back."""
        self._progress.stop()

    def update(self, logs: Mapping[str, float]) -> None:
        """Move the bar."""
        steps = min(logs["agent_steps"], self.total_steps)
        self._progress.update(self._task, completed=steps, description=described(logs))


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )


def described(logs: Mapping[str, float]) -> str:
    """Return speed, return and losses of an update in a few words."""
    parts = [f"{logs['SPS']:>9,.0f} steps/s"]
    if "environment/episode_return" in logs:
        parts.append(f"return {logs['environment/episode_return']:.1f}")
    parts += [f"{name} {logs[f'losses/{name}']:.3f}" for name in ("policy", "value", "entropy")]
    return "  ".join(parts)
