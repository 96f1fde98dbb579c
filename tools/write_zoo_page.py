"""Writes docs/zoo.md: every policy and wrapper of this repository, from data alone.

Records come from the registry.toml files, measured figures from docs/cards.json, what was learned
from docs/results.jsonl. ``make docs`` writes the page; a test compares it with what this prints.

    python tools/write_zoo_page.py                      the page
    python tools/write_zoo_page.py --measure            measure every card first, in minutes
    python tools/write_zoo_page.py --measure GRUWrapper measure one card again
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch

from puffer_policies.cards import Card, Weight, measure_card
from puffer_policies.discovery import default_registry
from puffer_policies.discovery.catalog import read_catalog
from puffer_policies.records import Layer, PolicyRecord, Provenance, Record, WrapperRecord
from puffer_policies.results import LearningResult, read_results
from puffer_policies.source import constructor_signature, locate_module, module_docstring

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE, CARDS, RESULTS = DOCS / "zoo.md", DOCS / "cards.json", DOCS / "results.jsonl"

PACKAGES = {
    "puffer-policies": "registry.toml",
    "puffer-policies-mlp": "plugins/puffer-policies-mlp/puffer_policies_mlp/registry.toml",
    "puffer-policies-vision": "plugins/puffer-policies-vision/puffer_policies_vision/registry.toml",
    "puffer-policies-memory": "plugins/puffer-policies-memory/puffer_policies_memory/registry.toml",
}
"""Distribution -> its manifest."""

COMPARED = ("cartpole_novel", "repeat_previous")
"""The configs whose results have a column."""

FEW_TENSORS = 4
"""Up to so many tensors in a part, its parameters are written as a sum."""

PLAIN = ("0", "1")
"""Constants that biases and norms begin with everywhere: those weights are only counted."""

INTRODUCTION = """\
# The zoo

<!-- Written by tools/write_zoo_page.py: run `make docs` after a change. -->

Every policy and wrapper of this repository: what it is, where it comes from, what it costs and
what it has learned. `puffer-policies show NAME --card` measures the same on your machine, for any
registered name:

```console
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
  velocities (500 is best) and on naming the card of a few steps ago (1 is best). Both need memory.
  The tables have the runs with the fewest steps, the sections all; [results](results.md) says how
  they were made.
"""

TITLES = {
    "policy": "## Policies\n",
    "wrapper": "## Wrappers\n\nWhat memories cost, in order of their training pass:\n\n"
    "![Milliseconds and parameters of each memory](zoo.svg)\n",
}
"""What stands above each table; tools/plot_zoo.py draws the picture."""

HEADS = ("Name", "Package", "Parameters", "Parity", "Step", "Training", *COMPARED)


def records() -> dict[str, Record]:
    """Return the records of this repository by name, policies first, each kind sorted."""
    found = [each for package in PACKAGES for each in _records_of(package)]
    found.sort(key=lambda each: (each.kind, each.name))
    return {each.name: each for each in found}


def measure(names: Iterable[str]) -> None:
    """Measure cards and put them into docs/cards.json; all of them are of one machine."""
    kept, names = read_cards(), list(names)
    if kept and _measured_on() != _machine() and not kept.keys() <= set(names):
        raise SystemExit(f"The others were measured on {_measured_on()}: use --measure alone.")
    for name in names:
        kept[name] = measure_card(name, default_registry())
        print(f"measured {name}", flush=True)
    data = {name: kept[name].to_dict() for name in sorted(kept) if name in records()}
    told = {"machine": _machine(), "cards": data}
    CARDS.write_text(f"{json.dumps(told, indent=1)}\n", encoding="utf-8")


def read_cards() -> dict[str, Card]:
    """Return the cards that are kept, by name."""
    if not CARDS.exists():
        return {}
    data = json.loads(CARDS.read_text(encoding="utf-8"))["cards"]
    return {name: Card.from_dict(each) for name, each in data.items()}


def page() -> str:
    """Return the text of docs/zoo.md."""
    cards, results = read_cards(), read_results(RESULTS if RESULTS.exists() else None)
    parts = [INTRODUCTION.replace("{machine}", _measured_on())]
    for kind, group in groupby(records().values(), key=lambda each: each.kind):
        members = list(group)
        rows = [_row(each, cards[each.name], results.get(each.name, [])) for each in members]
        parts.append(_table(TITLES[kind], rows))
        parts += [_section(each, cards[each.name], results.get(each.name, [])) for each in members]
    return "\n".join(parts)


# -- where it comes from ---------------------------------------------------------------------------


def _records_of(package: str) -> list[Record]:
    manifest = ROOT / PACKAGES[package]
    place = Provenance(layer=Layer.BUILTIN, distribution=package)
    # The folder from which the package's modules are imported.
    root = ROOT if manifest.parent == ROOT else manifest.parent.parent
    return list(read_catalog(manifest, place, search_path=str(root)).records)


def _measured_on() -> str:
    machine: str = json.loads(CARDS.read_text(encoding="utf-8"))["machine"]
    return machine


def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.machine()
    return f"a shared {processor}, torch {torch.__version__}"


# -- tables ----------------------------------------------------------------------------------------


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADS, ("---",) * len(HEADS), *rows)]
    return "\n".join([title, *lines, ""])


def _row(record: Record, card: Card, learned: Sequence[LearningResult]) -> list[str]:
    counts, plus = (card.added, "+") if card.added else (card.parameters, "")
    return [
        f"[{record.name}](#{record.name.lower()})",
        record.provenance.distribution,
        f"{plus}{counts[card.task]:,}" + f" on {card.task}" * (card.task != "V"),
        "" if card.parity_error is None else f"{card.parity_error:.0e}",
        f"{card.step_ms:.2f}",
        f"{card.training_ms:.1f}",
        *(_learned_on(config, learned) for config in COMPARED),
    ]


def _learned_on(config: str, learned: Sequence[LearningResult]) -> str:
    """Return the result with the fewest steps: the budget that most names were given."""
    own = [each for each in learned if each.config == config]
    if not own:
        return ""
    least = min(own, key=lambda each: each.steps)
    return f"{least.mean:.4g} at {least.steps / 1000:.0f}k ({_seeds(least)})"


def _seeds(result: LearningResult) -> str:
    number = len(result.seeds)
    return f"{number} seed{'s' * (number > 1)}"


# -- sections --------------------------------------------------------------------------------------


def _section(record: Record, card: Card, learned: Sequence[LearningResult]) -> str:
    batch, steps = card.training_rows
    cost = f"{card.step_ms:.2f} ms a step of {batch} rows, {card.training_ms:.1f} ms a training"
    told = {
        "Package": f"{record.provenance.distribution}, {_source(record)}",
        "Paper": f"<{record.paper}>" if record.paper else "none",
        **_serves(record),
        "Arguments": _arguments(record),
        "Parameters": _counts(card),
        "First weights": _first_weights(card.weights),
        "Steps against sequence": _parity(card),
        "Cost": f"{cost} pass of {batch} x {steps}, on {card.task}",
        "Learning": "; ".join(map(_learning, learned)) or "none measured",
    }
    lines = [f"- **{key}**: {value}" for key, value in told.items() if value]
    parts = [f"### {record.name}", record.summary, _preface(record), "\n".join(lines)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _preface(record: Record) -> str:
    """Return what the file says of source and differences, its legend of letters left out."""
    said = module_docstring(record.target, search_path=record.search_path).split("\n\n")
    kept = "\n\n".join(each for each in said if not each.startswith("`"))
    return "\n".join(f"> {line}".rstrip() for line in kept.splitlines())


def _source(record: Record) -> str:
    path = locate_module(record.target.partition(":")[0], search_path=record.search_path)
    assert path is not None, record.target
    place = path.relative_to(ROOT.resolve()).as_posix()
    return f"[{place}](../{place})"


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


def _first_weights(weights: Mapping[str, Weight]) -> str:
    """Return the ways of drawing, each with its weights; zeros and ones are only counted."""
    ways: dict[str, list[str]] = {}
    for name, weight in weights.items():
        ways.setdefault(weight.init, []).append(f"`{name}`")
    named = [f"{init}: {', '.join(ways[init])}" for init in ways if init not in PLAIN]
    return "; ".join(
        [*named, *(f"{init}: {len(ways[init])} others" for init in PLAIN if init in ways)]
    )


def _parity(card: Card) -> str:
    return "" if card.parity_error is None else f"{card.parity_error:.1e} at most"


def _learning(result: LearningResult) -> str:
    seeds = ", ".join(map(str, result.seeds))
    returns = ", ".join(f"{each:.4g}" for each in result.returns)
    sampled = "" if result.deterministic else ", sampled actions"
    return f"{returns} (`{result.command}`, seeds {seeds}, {result.steps:,} steps{sampled})"


def main() -> None:
    """Read the arguments, measure if asked, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", metavar="NAME", help="measure these first, or all")
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure or records())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
