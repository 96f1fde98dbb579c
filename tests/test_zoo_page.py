"""docs/zoo.md says of every name here what its record, its card and its results say."""

from __future__ import annotations

import importlib.util
import tomllib
from math import prod
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "write_zoo_page.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_in(manifest: Path) -> set[str]:
    told = tomllib.loads(manifest.read_text(encoding="utf-8"))
    return {*told.get("policies", {}), *told.get("wrappers", {})}


def test_the_page_is_current(tool):
    said = "run `make docs`, after `python tools/write_zoo_page.py --measure NAME` for a new name"
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), said


def test_every_name_of_the_core_and_of_the_plugins_has_a_section(tool):
    manifests = [ROOT / "registry.toml", *ROOT.glob("plugins/puffer-*/*/registry.toml")]
    assert len(manifests) == 4
    sections = {line[4:] for line in tool.page().splitlines() if line.startswith("### ")}
    assert sections == set().union(*map(names_in, manifests))


def test_a_card_counts_what_its_weights_are(tool):
    cards = [card for card in tool.read_cards().values() if not card.added]
    assert len(cards) > 10
    for card in cards:
        assert card.parameters[card.task] == sum(prod(w.shape) for w in card.weights.values())


def test_every_memory_of_the_page_steps_as_it_runs_sequences(tool):
    cards, records = tool.read_cards(), tool.records()
    memories = {n for n, each in records.items() if "recurrent" in getattr(each, "provides", ())}
    assert {name for name, card in cards.items() if card.parity_error is not None} == memories
    assert all(cards[name].parity_error < 1e-5 for name in memories)
