"""Draws docs/performance.svg, how cost grows, from the stored result of the benchmark suite.

Run it after `make bench STORE=1`. No test compares the picture: other versions of matplotlib write
other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from write_performance_page import ROOT, STORED, report

from puffer_policies.studies.plot import COLORS

PICTURE = ROOT / "docs" / "performance.svg"
REPRODUCIBLE: Any = {"svg.hashsalt": "performance", "svg.fonttype": "none"}

COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """What one picture shows: cases whose last part is the number on its axis."""

    title: str
    groups: tuple[str, ...]
    """The beginnings of the names of the cases."""
    axis: str
    unit: str = "ms"
    lines: tuple[str, ...] | None = None
    """The candidates that are drawn; None draws all."""
    ours: str = "puffer_policies"
    """What ours is called in this picture."""
    logarithmic: bool = True


ACT = ("puffer_policies", "floor", "stable-baselines3", "sb3-contrib")

PANELS = [
    Panel("One act, Default", ("act/mlp/", "grow/act/mlp/"), "rows", lines=ACT),
    Panel("One act, LSTMWrapper", ("act/lstm/", "grow/act/lstm/"), "rows", lines=ACT),
    Panel(
        "Training pass of 64 rows",
        ("grow/steps/",),
        "steps of a segment",
        ours="LSTMWrapper",
    ),
    Panel(
        "PPO on CartPole",
        ("train/mlp/", "grow/envs/"),
        "envs",
        "steps/s",
        lines=("puffer_policies", "floor", "stable-baselines3"),
    ),
    Panel(
        "Update, 16 gradient steps",
        ("grow/layers/",),
        "layers",
        ours="Default",
        logarithmic=False,
    ),
    Panel(
        "PPO on CartPole, 64 envs",
        ("grow/processes/",),
        "processes",
        "steps/s",
        logarithmic=False,
    ),
]


def main() -> None:
    """Write the picture."""
    cases = report.read(STORED)["cases"]
    rows = -(-len(PANELS) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.8 * rows), layout="constrained", facecolor="white")
    for panel, axes in zip(PANELS, figure.subplots(rows, COLUMNS).flat, strict=True):
        draw(panel, axes, cases)
    with matplotlib.rc_context(REPRODUCIBLE):
        figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE.relative_to(ROOT)}")


def draw(panel: Panel, axes: Axes, cases: Mapping[str, Any]) -> None:
    """Draw a line for each candidate of a panel."""
    for color, (name, points) in zip(COLORS, lines_of(panel, cases).items(), strict=False):
        label = panel.ours if name == "puffer_policies" else name.replace("`", "")
        axes.plot(*zip(*sorted(points.items()), strict=True), "o-", color=color, label=label, ms=3)
    ticks = sorted({x for points in lines_of(panel, cases).values() for x in points})
    if panel.logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(ticks, [f"{each:,}" for each in ticks], rotation=45 if len(ticks) > 4 else 0)
    axes.minorticks_off()
    axes.set_title(f"{panel.title} ({panel.unit})", fontsize="small")
    axes.set_xlabel(panel.axis, fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > 1:
        axes.legend(fontsize="x-small", frameon=False)


def lines_of(panel: Panel, cases: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return the points of each candidate: the number on the axis, and milliseconds or steps/s."""
    lines: dict[str, dict[int, float]] = {}
    for case_name, record in cases.items():
        start, _, number = case_name.rpartition("/")
        if f"{start}/" not in panel.groups:
            continue
        for name, times in record["candidates"].items():
            if panel.lines is None or name in panel.lines:
                seconds = times["median"]
                value = record["work"] / seconds if panel.unit == "steps/s" else seconds * 1e3
                lines.setdefault(name, {})[int(number)] = value
    return lines


if __name__ == "__main__":
    main()
