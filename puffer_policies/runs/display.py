"""What a run shows: a panel on a terminal, plain lines or JSON elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from puffer_policies.errors import ConfigError
from puffer_policies.runs.metrics import json_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DisplayKind = Literal["auto", "live", "plain", "json", "quiet"]

LINE_INTERVAL = 5.0
"""Seconds between plain lines."""
SMOOTHING = 0.9
"""Weight of the past in the speed by which the time left is told: single updates differ."""
SHARES = ("env", "act", "learn")
"""What an update's time is spent on: stepping the envs, choosing actions, learning."""
LOSSES = {"policy": "policy", "value": "value", "entropy": "entropy"}
"""Parts of the loss, and what a narrow screen calls them."""
MOVES = {"approx_kl": "kl", "clip_fraction": "clipped", "explained_variance": "explained"}
"""How far an update went, and how much the values explain."""


class Display:
    """Shows a run from its start to its end: nothing, unless a subclass does.

    It is a context; leaving it leaves the terminal clean.
    """

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop showing, whatever happened."""

    def update(self, logs: Mapping[str, float]) -> None:
        """Show what an update measured."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Show the end of the run as a table."""


def make_display(kind: DisplayKind, *, total_steps: int, console: Console | None = None) -> Display:
    """Return a display; ``auto`` is live on a terminal and plain elsewhere.

    Raises:
        ConfigError: an unknown kind.
    """
    from rich.console import Console

    console = console or Console()
    if kind == "auto":
        kind = "live" if console.is_terminal and not console.is_dumb_terminal else "plain"
    if kind == "quiet":
        return Display()
    if kind == "json":
        return Lines()
    if kind == "plain":
        return Plain(console, total_steps)
    if kind == "live":
        return Live(console, total_steps)
    raise ConfigError(f"No display {kind!r}.", fix="Use auto, live, plain, json or quiet.")


class Lines(Display):
    """Prints every update as a line of JSON, as it stands in the run's metrics."""

    def update(self, logs: Mapping[str, float]) -> None:
        """Print what an update measured."""
        self._print(logs)

    def note(self, text: str) -> None:
        """Print ``{"note": text}``."""
        self._print({"note": text})

    def _print(self, data: Mapping[str, Any]) -> None:
        sys.stdout.write(json_line(data))
        sys.stdout.flush()


class Plain(Display):
    """Prints a line every few seconds."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self.console, self.total_steps = console, total_steps
        self._last, self._speed = float("-inf"), 0.0

    def update(self, logs: Mapping[str, float]) -> None:
        """Print a line if the last one is old enough, or the run is at its end."""
        now, steps = time.monotonic(), logs["agent_steps"]
        left = self.seconds_left(logs)
        if now - self._last >= LINE_INTERVAL or steps >= self.total_steps:
            self._last = now
            parts = [f"{steps:>12,.0f} steps", f"{logs['SPS']:>9,.0f} steps/s"]
            parts += [*episodes(logs)[:1], *losses(logs, LOSSES), f"eta {duration(left)}"]
            self.note("  ".join(parts))

    def seconds_left(self, logs: Mapping[str, float]) -> float:
        """Take in an update's speed, and return how long the rest of the run may take."""
        past = SMOOTHING if self._speed else 0.0
        self._speed = past * self._speed + (1 - past) * logs["SPS"]
        return max(self.total_steps - logs["agent_steps"], 0) / self._speed

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
    """Draws a panel that is redrawn in place, four times a second."""

    def __init__(self, console: Console, total_steps: int) -> None:
        from rich import live

        super().__init__(console, total_steps)
        self._logs: Mapping[str, float] = {}
        self._left = 0.0
        self._live = live.Live(console=console, get_renderable=self._drawn, refresh_per_second=4)

    def __enter__(self) -> Self:
        """Draw the panel."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Draw it for the last time and give the cursor back."""
        self._live.stop()

    def update(self, logs: Mapping[str, float]) -> None:
        """Keep what is shown at the next drawing."""
        self._left, self._logs = self.seconds_left(logs), logs

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        logs = self._logs
        if not logs:
            return "The first rollout is being collected."
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        rows.add_row("speed", "  ".join([f"{logs['SPS']:,.0f} steps/s", *shares(logs)]))
        rows.add_row("episodes", "  ".join(episodes(logs)) or "none has ended yet")
        # A row each: rich leaves lines behind when the number of lines changes.
        rows.add_row("losses", "  ".join(losses(logs, LOSSES)))
        rows.add_row("update", "  ".join(losses(logs, MOVES)))
        return Group(self._bar(logs["agent_steps"]), rows)

    def _bar(self, steps: float) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        done = min(steps, self.total_steps)
        told = (
            f"{done / self.total_steps:4.0%}  {steps:,.0f} of {self.total_steps:,} steps  "
            f"eta {duration(self._left)}"
        )
        line = Table.grid(padding=(0, 2))
        line.add_row(ProgressBar(total=self.total_steps, completed=done, width=24), told)
        return line


def episodes(logs: Mapping[str, float]) -> list[str]:
    """Return how the last episodes went; empty before the first has ended."""
    if "environment/episode_return" not in logs:
        return []
    found = [f"return {logs['environment/episode_return']:,.1f}"]
    if "environment/episode_length" in logs:
        found.append(f"length {logs['environment/episode_length']:,.1f}")
        found.append(f"{logs['environment/episodes']:,.0f} ended")
    return found


def losses(logs: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    """Return what an update measured, as `names` calls it."""
    found = ((name, logs.get(f"losses/{key}")) for key, name in names.items())
    return [f"{name} {value:.3f}" for name, value in found if value is not None]


def shares(logs: Mapping[str, float]) -> list[str]:
    """Return which part of an update's time went where."""
    seconds = {name: logs[f"time/{name}"] for name in SHARES if f"time/{name}" in logs}
    total = sum(seconds.values())
    return [f"{name} {value / total:.0%}" for name, value in seconds.items()] if total else []


def duration(seconds: float) -> str:
    """Return ``5 s``, ``2:05 min`` or ``1:02:05 h``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
