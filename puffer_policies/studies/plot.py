"""Plots of learning curves: a panel for each env, a line with its interval for each group."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puffer_policies.errors import ConfigError
from puffer_policies.files import user_path
from puffer_policies.foreign import import_optional
from puffer_policies.runs.folder import runs_in
from puffer_policies.studies.curves import (
    RETURN,
    Axis,
    Curve,
    Series,
    average_curves,
    labels_of,
    read_curve,
)

SUFFIXES = (".png", ".svg", ".pdf")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinguishable with any color vision: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/."""
LINES = ("-", "--", "-.", ":")
"""The styles of lines after all colors have been used."""

X_LABELS: dict[Axis, str] = {"steps": "environment steps", "seconds": "training time (s)"}
Y_LABELS = {
    RETURN: "episode return, mean of the last 100",
    "environment/episode_length": "episode length (steps), mean of the last 100",
    "environment/episodes": "finished episodes",
    "SPS": "speed (steps/s)",
    "learning_rate": "learning rate",
    "losses/entropy": "entropy (nats)",
    "losses/approx_kl": "approximate KL divergence (nats)",
}
PANEL = (5.6, 3.8)
"""Inches."""
COLUMNS = 3
LEGEND_WIDTH = 40
"""Characters."""


def plot_runs(
    folders: Sequence[Path | str],
    path: Path | str,
    *,
    metric: str = RETURN,
    x: Axis = "steps",
    group_by: str = "config",
    labels: Sequence[str] | None = None,
) -> dict[str, list[Series]]:
    """Draw the learning curves of runs, and return the averaged curves by env.

    Args:
        folders: folders of runs, or of studies, which stand for all of their runs; those of one
            group are averaged, with the interval of `mean_band`.
        path: a file that ends in .png, .svg or .pdf, in a folder that exists.
        metric: a key of the runs' metrics.
        x: ``steps`` or ``seconds``.
        group_by: see `labels_of`.
        labels: the group of each folder, all of which are runs, instead of `group_by`.

    Raises:
        CheckpointError: a folder is not the folder of a run.
        ConfigError: no such metric or option, or `path` can't be written.
        MissingDependency: matplotlib is not installed.
    """
    path = require_picture(path)
    if labels is None:
        folders = [run for folder in folders for run in runs_in(folder)]
    curves = [read_curve(folder, metric=metric, x=x) for folder in folders]
    labels = labels_of(curves, by=group_by) if labels is None else labels
    panels = {env: _panel(curves, labels, env) for env in dict.fromkeys(c.env for c in curves)}
    draw(panels, path, x_label=X_LABELS[x], y_label=Y_LABELS.get(metric, metric))
    return panels


def _panel(curves: Sequence[Curve], labels: Sequence[str], env: str) -> list[Series]:
    own = [(curve, label) for curve, label in zip(curves, labels, strict=True) if curve.env == env]
    return average_curves([curve for curve, _ in own], [label for _, label in own])


def require_picture(path: Path | str) -> Path:
    """Return `path` if a picture can be written there.

    Raises:
        ConfigError: it has another suffix, or its folder does not exist.
        MissingDependency: matplotlib is not installed.
    """
    path = user_path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"No plot can be written to {str(path)!r}.",
            fix=f"Give a file that ends in {', '.join(SUFFIXES)}, in a folder that exists.",
        )
    import_optional("matplotlib", extra="plot", purpose="A plot")
    return path


def draw(panels: Mapping[str, Sequence[Series]], path: Path, *, x_label: str, y_label: str) -> None:
    """Write the picture without changing any global state of matplotlib: no backend, no style."""
    from matplotlib.figure import Figure

    # Three panels fit on a page next to each other.
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    # Figure instead of pyplot, which would choose a backend and keep the figure alive.
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = _styles(panels)
    for place, (title, series) in zip(axes, panels.items(), strict=False):
        _draw_panel(place, series, styles)
        place.set_title(title)
        place.set(xlabel=x_label, ylabel=y_label)
    for empty in axes[len(panels) :]:
        empty.set_axis_off()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}.") from error


def _styles(panels: Mapping[str, Sequence[Series]]) -> dict[str, tuple[str, str]]:
    """Return the color and line style of each label, the same in all panels."""
    labels = dict.fromkeys(each.label for series in panels.values() for each in series)
    return {
        label: (COLORS[i % len(COLORS)], LINES[i // len(COLORS) % len(LINES)])
        for i, label in enumerate(labels)
    }


def _draw_panel(axes: Any, series: Sequence[Series], styles: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.ticker import EngFormatter

    for each in series:
        color, line = styles[each.label]
        # Expressions can be long, and a legend would otherwise cover the curves.
        label = textwrap.fill(each.label, LEGEND_WIDTH, break_long_words=False)
        label += f" ({each.runs} runs, {each.interval_kind})" if each.runs > 1 else ""
        marker = "o" if len(each.x) == 1 else None  # a single point would be an invisible line
        axes.plot(each.x, each.mean, line, color=color, label=label, marker=marker)
        axes.fill_between(each.x, each.low, each.high, color=color, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
