"""Writes docs/zoo.md, which compares all policies and wrappers, and a page of each in docs/zoo.

Records come from the registry.toml files, figures from docs/cards.json, which measure_cards.py
writes, what was learned from docs/results.jsonl. ``make docs`` writes the pages; a test compares
them with what this prints.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from puffer_policies.cards.card import Card, Weight, read_cards
from puffer_policies.cards.results import LearningResult, read_results
from puffer_policies.registry.catalog import read_catalog
from puffer_policies.registry.records import Layer, PolicyRecord, Provenance, Record, WrapperRecord
from puffer_policies.registry.source import (
    class_docstring,
    constructor_signature,
    locate_module,
    module_docstring,
)

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES, CARDS, RESULTS = DOCS / "zoo", DOCS / "cards.json", DOCS / "results.jsonl"

PACKAGES = {
    "puffer-policies": "registry.toml",
    "puffer-policies-mlp": "plugins/puffer-policies-mlp/puffer_policies_mlp/registry.toml",
    "puffer-policies-vision": "plugins/puffer-policies-vision/puffer_policies_vision/registry.toml",
    "puffer-policies-memory": "plugins/puffer-policies-memory/puffer_policies_memory/registry.toml",
}
"""Distribution -> its manifest."""

COMPARED = ("cartpole_novel", "repeat_previous", "masked_recall")
"""The configs whose results have a column."""

FEW_TENSORS = 4
"""Up to so many tensors in a part, its parameters are written as a sum."""

PLAIN = ("0", "1")
"""Constants that biases and norms begin with everywhere: those weights are only counted."""

LEFT_OUT = ("`", "Args:", "Raises:")
"""How paragraphs of a docstring begin that a page does without: legends of letters, sections."""

INTRODUCTION = """\
# The zoo

{written}

Every policy and wrapper of this repository, with a page of each: what it is, where it comes from,
what it costs and what it has learned. `puffer-policies show NAME` prints the same, and `--card`
measures it on your machine, for any registered name:

```console
$ puffer-policies show RNNWrapper
$ puffer-policies show RNNWrapper --card
```

- **Tasks.** *V* is `Box(8,)` with `Discrete(4)`, *P84* is `uint8` 4 x 84 x 84 with `Discrete(4)`.
  What does not fit V is measured on the task that its section names. A wrapper stands around
  `Default`, and its row counts what it adds.
- **Parity** is the largest difference, in logits and values, between steps and one sequence of 64,
  with random episode starts in it and stirred weights.
- **Step** is one `forward_eval` of 64 rows without gradient, **training** one `forward` and
  backward of 64 x 64 rows (64 x 1 for images): CPU milliseconds, the fastest of several turns, one
  thread of {machine}.
- **Learning** is the mean return of the final evaluation over seeds: on CartPole without
  velocities (500 is best), on naming the card of a few steps before (1 is best), and on recalling
  a cue behind illegal actions (1 is best). All need memory. Of several results with the fewest
  steps the tables have the best, the pages all; [results](results.md) says how they were made.
"""

WRITTEN = "<!-- Written by tools/write_zoo_page.py: run `make docs` after a change. -->"

TITLES = {
    "policy": "## Policies\n",
    "wrapper": "## Wrappers\n\nWhat memories cost as they come, in order of their training pass, "
    "and what they\nlearn with the best of the settings that were tried:\n\n"
    "![What each memory costs and learns](zoo.svg)\n",
}
"""What stands above each table; tools/plot_zoo.py draws the picture."""

HEADS = ("Name", "Package", "Parameters", "Parity", "Step", "Training", *COMPARED)


def records() -> dict[str, Record]:
    """Return the records of this repository by name, policies first, each kind sorted."""
    found = [each for package in PACKAGES for each in _records_of(package)]
    found.sort(key=lambda each: (each.kind, each.name))
    return {each.name: each for each in found}


def pages() -> dict[Path, str]:
    """Return the text of docs/zoo.md and of each page in docs/zoo."""
    file, results = read_cards(CARDS), read_results(RESULTS)
    overview = [INTRODUCTION.format(written=WRITTEN, machine=file.machine)]
    told: dict[Path, str] = {}
    for kind, group in groupby(records().values(), key=lambda each: each.kind):
        rows = []
        for record in group:
            name = record.qualified_name
            about = (record, file.cards[name], results.get(name, []))
            rows.append(_row(*about))
            told[PAGES / f"{record.name}.md"] = _page(*about)
        overview.append(_table(TITLES[kind], rows))
    return {DOCS / "zoo.md": "\n".join(overview), **told}


def write(told: Mapping[Path, str]) -> None:
    """Write the pages, and remove those of names that are gone."""
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        if path not in told:
            path.unlink()
    for path, text in told.items():
        path.write_text(text, encoding="utf-8")


# -- where it comes from ---------------------------------------------------------------------------


def _records_of(package: str) -> list[Record]:
    manifest = ROOT / PACKAGES[package]
    place = Provenance(layer=Layer.BUILTIN, distribution=package)
    # The folder from which the package's modules are imported.
    root = ROOT if manifest.parent == ROOT else manifest.parent.parent
    return list(read_catalog(manifest, place, search_path=str(root)).records)


# -- tables ----------------------------------------------------------------------------------------


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADS, ("---",) * len(HEADS), *rows)]
    return "\n".join([title, *lines, ""])


def _row(record: Record, card: Card, learned: Sequence[LearningResult]) -> list[str]:
    counts, plus = (card.added, "+") if card.added else (card.parameters, "")
    return [
        f"[{record.name}](zoo/{record.name}.md)",
        record.provenance.distribution,
        f"{plus}{counts[card.task]:,}" + f" on {card.task}" * (card.task != "V"),
        "" if card.parity_error is None else f"{card.parity_error:.0e}",
        f"{card.step_ms:.2f}",
        f"{card.training_ms:.1f}",
        *(_learned_on(config, learned) for config in COMPARED),
    ]


def _learned_on(config: str, learned: Sequence[LearningResult]) -> str:
    """Return the best result with the fewest steps: the budget that most names were given."""
    own = [each for each in learned if each.config == config]
    if not own:
        return ""
    least = min(own, key=lambda each: (each.steps, -each.mean))
    return f"{least.mean:.4g} at {least.steps / 1000:.0f}k ({_seeds(least)})"


def _seeds(result: LearningResult) -> str:
    number = len(result.seeds)
    return f"{number} seed{'s' * (number > 1)}"


# -- a page of each ------------------------------------------------------------------------------


def _page(record: Record, card: Card, learned: Sequence[LearningResult]) -> str:
    batch, steps = card.training_rows
    cost = f"{card.step_ms:.2f} ms a step of {batch} rows, {card.training_ms:.1f} ms a training"
    told = {
        "Built by": f"`get_policy({card.expression!r}, env)`",
        "Package": f"{record.provenance.distribution}, {_source(record)}",
        "Paper": f"<{record.paper}>" if record.paper else "none",
        **_serves(record),
        "Arguments": _arguments(record),
        "Parameters": _counts(card),
        "First weights": _first_weights(card),
        "Steps against sequence": _parity(card),
        "Cost": f"{cost} pass of {batch} x {steps}, on {card.task}",
    }
    lines = [f"- **{key}**: {value}" for key, value in told.items() if value]
    parts = [f"# {record.name}", WRITTEN, record.summary, _preface(record), "\n".join(lines)]
    parts.append(_learning(learned))
    return "\n\n".join(filter(None, parts)) + "\n"


def _preface(record: Record) -> str:
    """Return the docstrings of the module and of the class; legends and ``Args`` are left out."""
    place = {"target": record.target, "search_path": record.search_path}
    docstrings = (module_docstring(**place), class_docstring(**place))
    paragraphs = [each for text in docstrings for each in inspect.cleandoc(text).split("\n\n")]
    prose = [each for each in paragraphs if not each.startswith(LEFT_OUT)]
    return "\n".join(f"> {line}".rstrip() for line in "\n\n".join(prose).splitlines())


def _source(record: Record) -> str:
    path = locate_module(record.target.partition(":")[0], search_path=record.search_path)
    assert path is not None, record.target
    place = path.relative_to(ROOT.resolve()).as_posix()
    return f"[{place}](../../{place})"


def _serves(record: Record) -> dict[str, str]:
    if isinstance(record, PolicyRecord):
        can = record.capabilities
        observed, acted = ", ".join(can.observations) or "any", ", ".join(can.actions) or "any"
        least = f" of at least {can.min_image_size} pixels" * (can.min_image_size > 0)
        return {"Observations": observed + least, "Actions": acted}
    assert isinstance(record, WrapperRecord)
    told = {trait: ", ".join(getattr(record, trait)) for trait in ("requires", "forbids")}
    return {"Needs below it": told["requires"], "Refuses below it": told["forbids"]}


def _arguments(record: Record) -> str:
    spelled = constructor_signature(record.target, search_path=record.search_path)
    return f"`{spelled}`" if spelled else ""


def _counts(card: Card) -> str:
    """Return the counts by task; that of the card's task is followed by its parts."""
    counts, plus = (card.added, "+") if card.added else (card.parameters, "")
    sums = "; ".join(_sums(card.weights))
    parts = {card.task: f" ({sums})" if sums else ""}
    return ", ".join(
        f"{plus}{count:,} on {task}{parts.get(task, '')}" for task, count in counts.items()
    )


def _sums(weights: Mapping[str, Weight]) -> list[str]:
    """Return ``core 128·8 + 128 = 1,152`` for each part, as a sum where it has few tensors."""
    found = []
    for part, group in groupby(weights.items(), key=lambda item: item[0].partition(".")[0]):
        shapes = [weight.shape for _, weight in group]
        total = f"{sum(math.prod(shape) for shape in shapes):,}"
        terms = " + ".join("·".join(map(str, shape)) or "1" for shape in shapes)
        brief = f"{part} {total} in {len(shapes)} tensors"
        found.append(f"{part} {terms} = {total}" if len(shapes) <= FEW_TENSORS else brief)
    return found


def _first_weights(card: Card) -> str:
    """Return the ways of drawing, each with its weights; zeros and ones are only counted."""
    ways: dict[str, list[str]] = {}
    for name, way in card.first_weights.items():
        ways.setdefault(way, []).append(f"`{name}`")
    named = [f"{way}: {', '.join(ways[way])}" for way in ways if way not in PLAIN]
    return "; ".join([*named, *(f"{way}: {len(ways[way])} others" for way in PLAIN if way in ways)])


def _parity(card: Card) -> str:
    return "" if card.parity_error is None else f"{card.parity_error:.1e} at most"


def _learning(learned: Sequence[LearningResult]) -> str:
    """Return a table of results, or that there are none."""
    if not learned:
        return "## Learning\n\nNone measured."
    rows = [("trained by", "seeds", "returns", "steps"), ("---",) * 4, *map(_result, learned)]
    return "\n".join(["## Learning\n", *(f"| {' | '.join(row)} |" for row in rows)])


def _result(result: LearningResult) -> tuple[str, str, str, str]:
    returns = ", ".join(f"{each:.4g}" for each in result.returns)
    sampled = "" if result.deterministic else " (sampled actions)"
    seeds = ", ".join(map(str, result.seeds))
    return f"`{result.command}`", seeds, f"{returns}{sampled}", f"{result.steps:,}"


def main() -> None:
    """Write the pages."""
    told = pages()
    write(told)
    print(f"wrote {len(told)} pages")


if __name__ == "__main__":
    main()
