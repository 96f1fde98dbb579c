"""Each file is small, is what its card says, and plays as its card says."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from puffer_policies.assembly.checkpoint import load_policy
from puffer_policies.config.command import training_command
from puffer_policies.config.config import Config
from puffer_policies.registry import discover
from puffer_policies.registry.packages import pretrained_path
from puffer_policies.runs.evaluate import evaluate_checkpoint
from puffer_policies.runs.model_card import SEEDS, read_card

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "puffer_policies_pretrained"
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
QUICK = ("masked_recall",)
"""What plays 100 episodes in a tenth of a second; ``--exhaustive`` plays with all."""


def make() -> Any:
    """Return the script that makes the files."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_listed_by_its_name() -> None:
    group = entry_points(group="puffer_policies.pretrained")
    assert {each.name for each in group} >= set(NAMES)
    registry = discover(plugins=["puffer-policies-pretrained"])
    assert sorted(each for each in registry.pretrained if "/" not in each) == NAMES
    for name in NAMES:
        assert pretrained_path(registry.pretrained[name]) == FOLDER / f"{name}.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_what_its_card_says(name: str) -> None:
    script, path = make(), FOLDER / f"{name}.safetensors"
    assert path.stat().st_size <= script.MAX_BYTES
    assert path.with_suffix(".md").read_text(encoding="utf-8") == script.card_text(path)
    card = read_card(path, location="")
    assert card.evaluation is not None
    returns = card.header.training[SEEDS]
    assert [int(seed) for seed in returns] == list(script.TRAINING_SEEDS)
    assert max(returns.values()) == round(card.evaluation["mean"], 2)
    config = Config.from_args(card.header.config)
    assert training_command(config) == script.command(name, config.train.seed)
    assert returns[str(config.train.seed)] == max(returns.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_rebuilds_its_policy(name: str) -> None:
    load_policy(FOLDER / f"{name}.safetensors")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES],
)
def test_a_policy_reaches_the_figure_of_its_card(name: str) -> None:
    path = FOLDER / f"{name}.safetensors"
    results = read_card(path, location="").evaluation
    assert results is not None
    evaluation = evaluate_checkpoint(path)
    assert (evaluation.mean, evaluation.std) == (results["mean"], results["std"])


def test_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
