"""Draws docs/zoo.svg, what each memory costs, from docs/cards.json. Run it after measuring.

No test compares the picture: other versions of matplotlib write other bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from write_zoo_page import DOCS, read_cards

from puffer_policies.cards import Card
from puffer_policies.runs.plot import COLOURS

PICTURE = DOCS / "zoo.svg"
REPRODUCIBLE: Any = {"svg.hashsalt": "zoo", "svg.fonttype": "none"}

LARGE = 1000
"""Numbers from here on are written whole."""


def main() -> None:
    """Write the picture."""
    memories = [card for card in read_cards().values() if card.parity_error is not None]
    memories.sort(key=lambda card: -card.training_ms)
    panels = {
        "training pass, 64 x 64 (ms)": [card.training_ms for card in memories],
        "step, 64 rows (ms)": [card.step_ms for card in memories],
        "parameters added": [float(card.added[card.task]) for card in memories],
    }
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    places = figure.subplots(1, len(panels), sharey=True)
    for axes, colour, (title, numbers) in zip(places, COLOURS, panels.items(), strict=False):
        _draw_points(axes, memories, numbers, title=title, colour=colour)
    with matplotlib.rc_context(REPRODUCIBLE):
        figure.savefig(PICTURE, metadata={"Date": None})
    print(f"wrote {PICTURE.relative_to(DOCS.parent)}")


def _draw_points(
    axes: Axes, cards: Sequence[Card], numbers: Sequence[float], *, title: str, colour: str
) -> None:
    """Draw a point a card: on a logarithmic axis, the length of a bar would mean nothing."""
    names = [card.name for card in cards]
    axes.scatter(numbers, names, color=colour)
    for name, number in zip(names, numbers, strict=True):
        text = f"{number:,.3g}" if number < LARGE else f"{number:,.0f}"
        axes.annotate(text, (number, name), (6, -3), textcoords="offset points", fontsize="x-small")
    axes.set_xscale("log")
    axes.margins(x=0.3)
    axes.set_title(title, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
