"""The display of a run: a panel on a terminal, plain lines or JSON elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from puffer_policies.errors import ConfigError
from puffer_policies.foreign import error_text
from puffer_policies.streams import (
    data_stream,
    is_terminal,
    json_text,
    printable,
    silence,
    write_note,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DisplayKind = Literal["auto", "live", "plain", "json", "quiet"]

LINE_INTERVAL = 5.0
"""Seconds between two plain lines."""
PROGRESS_INTERVAL = 20.0
"""Seconds between two lines about one run of many."""
SMOOTHING = 0.9
"""Weight of the past in the speed that estimates the time left, because single updates vary."""
SHARES = ("env", "act", "learn")
"""The parts of an update's time: stepping the envs, choosing actions, learning."""
LOSSES = {"policy": "policy", "value": "value", "entropy": "entropy"}
"""Parts of the loss -> their names on a narrow screen."""
MOVES = {"approx_kl": "kl", "clip_fraction": "clipped", "explained_variance": "explained"}
"""Measures of an update's size and of the value function's fit -> their names on the screen."""


class Display:
    """Displays a run; this base class displays nothing.

    It is a context manager, and leaves the terminal clean.
    """

    def __enter__(self) -> Self:
        """Start the display."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the display, whatever happened."""

    def update(self, logs: Mapping[str, float]) -> None:
        """Show the metrics of an update."""

    def evaluation(self, finished: int, total: int) -> None:
        """Show how many episodes of the final evaluation have ended."""

    def note(self, text: str) -> None:
        """Print a line."""

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Print the result of the run, a line for each name and its value."""


class Guarded(Display):
    """Shows what `display` shows, and nothing more once that fails: no screen ends a run."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def __enter__(self) -> Self:
        """Start the display."""
        self._call("__enter__")
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the display, whatever happened."""
        self._call("__exit__", *error)

    def update(self, logs: Mapping[str, float]) -> None:
        """Show the metrics of an update."""
        self._call("update", logs)

    def evaluation(self, finished: int, total: int) -> None:
        """Show how many episodes of the final evaluation have ended."""
        self._call("evaluation", finished, total)

    def note(self, text: str) -> None:
        """Print a line."""
        self._call("note", text)

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Print the result of the run."""
        self._call("summary", title, rows)

    def _call(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._display, method)(*arguments)
        except (Exception, SystemExit) as error:  # rich leaves by SystemExit when a pipe breaks
            self._display = Display()
            silence()
            reason = error_text(error).rstrip(": ")
            write_note(f"The run goes on, but shows nothing any more: {reason}")


def make_display(
    kind: DisplayKind | Display, *, total_steps: int, console: Console | None = None
) -> Display:
    """Return a display of a kind, or the display itself.

    ``auto`` is live on a terminal and plain elsewhere.

    Raises:
        ConfigError: the kind does not exist.
    """
    if isinstance(kind, Display):
        return kind
    from rich.console import Console

    # FORCE_COLOR makes rich take a pipe for a terminal, in which nothing can be animated.
    animated = is_terminal(data_stream()) if console is None else console.is_terminal
    console = console or Console(file=data_stream())
    # A dumb terminal, such as that of Emacs, can't move its cursor.
    if kind == "auto":
        kind = "live" if animated and not console.is_dumb_terminal else "plain"
    if kind == "quiet":
        return Display()
    if kind == "json":
        return Lines()
    if kind == "plain":
        return Plain(console, total_steps)
    if kind == "live":
        return Live(console, total_steps)
    raise ConfigError(f"There is no display {kind!r}.", fix="Use auto, live, plain, json or quiet.")


class Lines(Display):
    """Prints the metrics of every update as a line of JSON, the same as in the run's file."""

    def update(self, logs: Mapping[str, float]) -> None:
        """Print the metrics of an update."""
        self._print(logs)

    def note(self, text: str) -> None:
        """Print ``{"note": text}``."""
        self._print({"note": text})

    def _print(self, data: Mapping[str, Any]) -> None:
        stream = data_stream()
        stream.write(f"{json_text(data)}\n")
        # Another program may be reading the lines as they come.
        stream.flush()


class Pace:
    """Tells when the next of many lines is due.

    Args:
        interval: seconds from one line to the next.
        start: when the last line was printed, in seconds of `time.monotonic`.
    """

    def __init__(self, interval: float, *, start: float = float("-inf")) -> None:
        self.interval, self._last = interval, start

    def is_due(self, *, at_once: bool = False) -> bool:
        """Return whether a line is due, or asked for at once, and take it as printed if so."""
        now = time.monotonic()
        if not at_once and now - self._last < self.interval:
            return False
        self._last = now
        return True


class TimeLeft:
    """Estimates the seconds until a run ends."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps, self._speed = total_steps, 0.0

    def update(self, logs: Mapping[str, float]) -> float:
        """Return the estimate, which the speed of this update refines."""
        # The first update has no past; without this, the estimate would start ten times too long.
        past = SMOOTHING if self._speed else 0.0
        self._speed = past * self._speed + (1 - past) * logs["SPS"]
        # A resumed run may have more steps than its config asks for.
        return max(self.total_steps - logs["agent_steps"], 0) / self._speed


class Progress(Display):
    """Tells now and then how far one run of many is.

    Args:
        total_steps: env steps of the run.
        label: what each line begins with.
        tell: takes a line.
    """

    def __init__(self, total_steps: int, label: str, tell: Callable[[str], object]) -> None:
        self.total_steps, self.label, self.tell = total_steps, label, tell
        self._time_left = TimeLeft(total_steps)
        self._pace = Pace(PROGRESS_INTERVAL, start=time.monotonic())

    def update(self, logs: Mapping[str, float]) -> None:
        """Tell the share of the steps, the return and the time left."""
        eta = self._time_left.update(logs)
        if self._pace.is_due():
            share = min(logs["agent_steps"] / self.total_steps, 1)
            parts = [f"{share:.0%}", *episodes(logs)[:1], f"eta {duration(eta)}"]
            self.tell(f"{self.label}: {', '.join(parts)}")

    def evaluation(self, finished: int, total: int) -> None:
        """Tell how many episodes of the final evaluation have ended."""
        if self._pace.is_due():
            self.tell(f"{self.label}: {finished:,} of {total:,} episodes evaluated")


class Plain(Display):
    """Prints a line every few seconds."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self.console, self.total_steps = console, total_steps
        self._time_left = TimeLeft(total_steps)
        self._pace = Pace(LINE_INTERVAL)
        self._evaluates = False

    def update(self, logs: Mapping[str, float]) -> None:
        """Print a line if the last one is old enough, or at the end of the run."""
        steps, eta = logs["agent_steps"], self._time_left.update(logs)
        if self._pace.is_due(at_once=steps >= self.total_steps):
            parts = [f"{steps:>12,.0f} steps", f"{logs['SPS']:>9,.0f} steps/s"]
            parts += [*episodes(logs)[:1], *losses(logs, LOSSES), f"eta {duration(eta)}"]
            self.note("  ".join(parts))

    def evaluation(self, finished: int, total: int) -> None:
        """Print a line at the start, and then every few seconds."""
        starts, self._evaluates = not self._evaluates, True
        if self._pace.is_due(at_once=starts):
            self.note(f"final evaluation: {finished:,} of {total:,} episodes")

    def note(self, text: str) -> None:
        """Print a line without wrapping it, so that paths can be copied."""
        # No markup: paths and messages may contain square brackets.
        self.console.print(printable(text), soft_wrap=True, highlight=False, markup=False)

    def summary(self, title: str, rows: Mapping[str, str]) -> None:
        """Print a title, and a line for each name and its value."""
        self.console.print()
        self.console.print(printable(title), style="bold", soft_wrap=True)
        width = max(map(len, rows))
        for name, value in rows.items():
            self.note(f"{name:<{width}}  {value}")


class Live(Plain):
    """Draws a panel that is redrawn in place, four times a second."""

    def __init__(self, console: Console, total_steps: int) -> None:
        from rich import live

        super().__init__(console, total_steps)
        self._logs: Mapping[str, float] = {}
        self._eta = 0.0
        self._evaluated: tuple[int, int] | None = None
        self._live = live.Live(console=console, get_renderable=self._panel, refresh_per_second=4)

    def __enter__(self) -> Self:
        """Draw the panel."""
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Draw the panel once more and show the cursor again."""
        self._live.stop()

    def update(self, logs: Mapping[str, float]) -> None:
        """Keep the metrics for the next drawing."""
        self._eta, self._logs = self._time_left.update(logs), logs

    def evaluation(self, finished: int, total: int) -> None:
        """Keep the numbers for the next drawing."""
        self._evaluated = (finished, total)

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        logs = self._logs
        if not logs:
            return "Collecting the first rollout."
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        rows.add_row("speed", "  ".join([f"{logs['SPS']:,.0f} steps/s", *shares(logs)]))
        rows.add_row("episodes", "  ".join(episodes(logs)) or "none has finished yet")
        # Always the same rows: rich leaves lines behind when their number changes.
        rows.add_row("losses", "  ".join(losses(logs, LOSSES)))
        rows.add_row("update", "  ".join(losses(logs, MOVES)))
        return Group(self._bar(logs["agent_steps"]), rows)

    def _bar(self, steps: float) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if self._evaluated is None:
            part, whole = min(steps, self.total_steps), self.total_steps
            rest = f"{steps:,.0f} of {whole:,} steps  eta {duration(self._eta)}"
        else:
            part, whole = self._evaluated
            rest = f"{part:,} of {whole:,} episodes of the final evaluation"
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=whole, completed=part, width=24)
        line.add_row(bar, f"{part / whole:4.0%}  {rest}")
        return line


def episodes(logs: Mapping[str, float]) -> list[str]:
    """Return the mean return and length of the last episodes; empty before the first ends."""
    if "environment/episode_return" not in logs:
        return []
    texts = [f"return {logs['environment/episode_return']:,.1f}"]
    if "environment/episode_length" in logs:
        texts.append(f"length {logs['environment/episode_length']:,.1f}")
        texts.append(f"{logs['environment/episodes']:,.0f} ended")
    return texts


def losses(logs: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    """Return the losses of an update, under their names in `names`."""
    values = ((name, logs.get(f"losses/{key}")) for key, name in names.items())
    return [f"{name} {value:.3f}" for name, value in values if value is not None]


def shares(logs: Mapping[str, float]) -> list[str]:
    """Return the share of each part in an update's time."""
    seconds = {name: logs[f"time/{name}"] for name in SHARES if f"time/{name}" in logs}
    total = sum(seconds.values())
    return [f"{name} {value / total:.0%}" for name, value in seconds.items()] if total else []


def duration(seconds: float) -> str:
    """Return ``5 s``, ``2:05 min`` or ``1:02:05 h``."""
    # Rounded first, so that 59.7 s is 1:00 min and not 60 s.
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
