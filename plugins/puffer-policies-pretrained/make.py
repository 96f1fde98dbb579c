"""Train policies and put the best of three seeds into this package, each with its card.

    python make.py --runs RUNS cartpole acrobot

A name is that of a config. Finished runs in RUNS count, and what is missing is trained there, one
run at a time, as a user trains it: ``puffer-policies train NAME --train.seed SEED``. A new name
also needs a line under ``[project.entry-points]`` of pyproject.toml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from puffer_policies.config.command import training_command
from puffer_policies.config.config import Config
from puffer_policies.files import LATEST
from puffer_policies.runs.folder import runs_in
from puffer_policies.runs.model_card import SEEDS, ModelCard, read_card
from puffer_policies.runs.share import write_checkpoint

PACKAGE = Path(__file__).parent / "puffer_policies_pretrained"
TRAINING_SEEDS = (1, 2, 3)
MAX_BYTES = 200_000


def command(name: str, seed: int) -> list[str]:
    """Return the command of one run, without the folder that it goes to."""
    return ["puffer-policies", "train", name, "--train.seed", str(seed)]


def finished(runs: Path, name: str, seed: int) -> tuple[Path, ModelCard] | None:
    """Return the last finished run of a command, and its card; None if there is none."""
    for folder in reversed(runs_in(runs)):
        path = folder / LATEST
        if path.is_file():
            card = read_card(path, location=f"pretrained://{name}")
            config = Config.from_args(card.header.config)
            if card.evaluation and training_command(config) == command(name, seed):
                return path, card
    return None


def train(runs: Path, name: str, seed: int) -> None:
    """Train one seed, in a process of its own."""
    words = [*command(name, seed)[1:], "--train.data-dir", str(runs), "--quiet"]
    subprocess.run([sys.executable, "-m", "puffer_policies", *words], check=True)


def put_best(runs: Path, name: str) -> Path:
    """Write the checkpoint and the card of the best seed, and return the checkpoint."""
    candidates = {}
    for seed in TRAINING_SEEDS:
        run = finished(runs, name, seed)
        if run is None:
            train(runs, name, seed)
            run = finished(runs, name, seed)
        if run is None:
            raise SystemExit(f"{' '.join(command(name, seed))} did not finish with an evaluation.")
        candidates[seed] = run
    results = {seed: card.evaluation or {} for seed, (_, card) in candidates.items()}
    best = max(candidates, key=lambda seed: (results[seed]["mean"], -results[seed]["std"], -seed))
    path, card = candidates[best]
    returns = {str(seed): round(each["mean"], 2) for seed, each in results.items()}
    target = PACKAGE / f"{name}.safetensors"
    write_checkpoint(path, target, card, {SEEDS: returns})
    if target.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{target} has {target.stat().st_size:,} bytes, more than {MAX_BYTES:,}.")
    target.with_suffix(".md").write_text(card_text(target), encoding="utf-8")
    return target


def card_text(path: Path) -> str:
    """Return the card of a checkpoint of this package, which holds all that is on it."""
    card = read_card(path, location=f"pretrained://{path.stem}")
    return replace(card, packages=("puffer-policies[train]", PACKAGE.parent.name)).text()


def main() -> None:
    """Train and write what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a config")
    options = parser.parse_args()
    for name in options.names:
        path = put_best(options.runs, name)
        print(f"{path.name}  {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
