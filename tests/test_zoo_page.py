"""docs/zoo.md and docs/zoo say of every name here what its record, its card and its results say."""

from __future__ import annotations

import tomllib
from math import prod
from pathlib import Path
from types import ModuleType

import pytest
from tool_files import load_tool

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("write_zoo_page")


def names_in(manifest: Path) -> set[str]:
    told = tomllib.loads(manifest.read_text(encoding="utf-8"))
    return {*told.get("policies", {}), *told.get("wrappers", {})}


def test_the_pages_are_current(tool):
    said = "run `make docs`, after `python tools/measure_cards.py NAME` for a new name"
    told = tool.pages()
    assert {path: path.read_text(encoding="utf-8") for path in told} == told, said
    assert set(tool.PAGES.glob("*.md")) <= told.keys()


def test_every_name_of_the_core_and_of_the_plugins_has_a_page_and_a_row(tool):
    manifests = [ROOT / "registry.toml", *ROOT.glob("plugins/puffer-*/*/registry.toml")]
    assert len(manifests) == 4
    names = set().union(*map(names_in, manifests))
    overview = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert {path.stem for path in tool.PAGES.glob("*.md")} == names
    assert all(f"| [{name}](zoo/{name}.md) |" in overview for name in names)


def test_a_card_counts_what_its_weights_are(tool):
    cards = [card for card in tool.read_cards(tool.CARDS).cards.values() if not card.added]
    assert len(cards) > 10
    for card in cards:
        assert card.parameters[card.task] == sum(prod(w.shape) for w in card.weights.values())


def test_every_memory_of_the_page_steps_as_it_runs_sequences(tool):
    cards, records = tool.read_cards(tool.CARDS).cards, tool.records().values()
    memories = {
        record.qualified_name
        for record in records
        if "recurrent" in record.features.get("provides", ()) or record.features.get("recurrent")
    }
    assert {name for name, card in cards.items() if card.parity_error is not None} == memories
    assert all(cards[name].parity_error < 1e-5 for name in memories)
