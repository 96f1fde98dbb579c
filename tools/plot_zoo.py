"""Draws docs/zoo.svg, the costs and returns of each memory. Run it after measuring.

No test compares the picture: other versions of matplotlib write other bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from write_zoo_page import CARDS, DOCS, RESULTS

from puffer_policies.cards.card import read_cards
from puffer_policies.cards.results import LearningResult, read_results
from puffer_policies.studies.plot import COLORS

PICTURE = DOCS / "zoo.svg"
REPRODUCIBLE: Any = {"svg.hashsalt": "zoo", "svg.fonttype": "none"}

TASK = "cartpole_novel"

LARGE = 1000
"""Numbers from this size are written without rounding to three digits."""


def main() -> None:
    """Write the picture."""
    cards, results = read_cards(CARDS).cards, read_results(RESULTS)
    # A policy may have a memory of its own, which is not added to any other.
    memories = [name for name, card in cards.items() if card.parity_error is not None]
    memories = [name for name in memories if cards[name].added]
    memories.sort(key=lambda name: -cards[name].training_ms)
    panels = {
        "training pass, 64 x 64 (ms)": [cards[name].training_ms for name in memories],
        "step, 64 rows (ms)": [cards[name].step_ms for name in memories],
        "parameters added": [float(cards[name].added[cards[name].task]) for name in memories],
    }
    figure = Figure(figsize=(12.0, 0.5 + 0.26 * len(memories)), layout="constrained")
    costs = figure.subplots(1, len(panels) + 1, sharey=True)
    names = [name.rpartition("/")[2] for name in memories]
    for axes, color, (title, numbers) in zip(costs, COLORS, panels.items(), strict=False):
        _draw_points(axes, names, numbers, title=title, color=color)
    _draw_returns(costs[-1], names, [results.get(name, []) for name in memories])
    with matplotlib.rc_context(REPRODUCIBLE):
        figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE.relative_to(DOCS.parent)}")


def _draw_points(
    axes: Axes, names: Sequence[str], numbers: Sequence[float], *, title: str, color: str
) -> None:
    """Draw a point per memory, as the length of a bar means nothing on a logarithmic axis."""
    axes.scatter(numbers, names, color=color)
    for name, number in zip(names, numbers, strict=True):
        text = f"{number:,.3g}" if number < LARGE else f"{number:,.0f}"
        axes.annotate(text, (number, name), (6, -3), textcoords="offset points", fontsize="x-small")
    axes.set_xscale("log")
    axes.margins(x=0.3)
    _finish(axes, title)


def _draw_returns(
    axes: Axes, names: Sequence[str], results: Sequence[Sequence[LearningResult]]
) -> None:
    """Draw a point per seed for the best result of each memory."""
    for name, candidates in zip(names, results, strict=True):
        own = [each for each in candidates if each.config == TASK]
        if own:
            best = max(own, key=lambda each: min(each.returns))
            axes.scatter(best.returns, [name] * len(best.returns), color=COLORS[3], alpha=0.6)
    axes.set_xlim(0, 520)
    _finish(axes, f"return on {TASK}, each seed")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
