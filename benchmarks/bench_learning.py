"""Train every config that has a target, with several seeds, and write docs/results.md.

Each run is a process of its own, started as a user starts it: ``puffer-policies train NAME``. A
line of JSON for each is kept in docs/results.jsonl, from which the page is written.

    python benchmarks/bench_learning.py                     all configs, seeds 1 2 3
    python benchmarks/bench_learning.py --only acrobot      one config
    python benchmarks/bench_learning.py --memories          every memory on two memory tasks
    python benchmarks/bench_learning.py --write             the page alone, from the lines there are
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
LINES, PAGE = DOCS / "results.jsonl", DOCS / "results.md"


@dataclass(frozen=True)
class Target:
    """A config, and what its final evaluation should reach."""

    config: str
    at_least: float | None = None
    at_most: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.config, *self.flags])

    @property
    def wanted(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def reached(self, mean: float) -> bool:
        low = self.at_least is None or mean >= self.at_least
        return low and (self.at_most is None or mean <= self.at_most)


MEMORYLESS = ("--rnn-name", "None")

TARGETS = [
    Target("cartpole", at_least=475),
    Target("cartpole_lstm", at_least=475),
    Target("cartpole_novel", at_least=400),
    Target("cartpole_novel", at_most=100, flags=MEMORYLESS),
    Target("repeat_previous", at_least=0.5),
    Target("repeat_previous", at_most=-0.4, flags=MEMORYLESS),
    Target("acrobot", at_least=-100),
    Target("pendulum", at_least=-250),
    Target("mountaincar_continuous", at_least=90),
    Target("lunarlander", at_least=200),
    Target("minatar_breakout", at_least=7.5),
    Target("breakout", at_least=40),
]


def gap(memory: str, *options: str) -> list[Target]:
    """Return what a memory should reach on two tasks that need one; "None" should not."""
    flags = ("--rnn-name", memory, *options, "--train.total-timesteps", "150000")
    if memory == "None":
        return [
            Target("cartpole_novel", at_most=60, flags=flags),
            Target("repeat_previous", at_most=-0.4, flags=flags),
        ]
    return [
        Target("cartpole_novel", at_least=350, flags=flags),
        Target("repeat_previous", at_least=0.5, flags=flags),
    ]


GAPS = [
    *gap("None"),
    *gap("FrameStackWrapper", "--rnn.frames", "5"),
    *gap("LSTMWrapper"),
    *gap("GRUWrapper"),
    *gap("RNNWrapper"),
    *gap("MinGRUWrapper"),
    *gap("GTrXLWrapper", "--rnn.memory", "16"),
    # These are in plugins/puffer-policies-memory.
    *gap("LRUWrapper"),
    *gap("S5Wrapper"),
    *gap("FFMWrapper"),
    *gap("MambaWrapper"),
    *gap("LinearAttentionWrapper"),
]


def train(target: Target, seed: int) -> dict[str, Any]:
    """Run one training and return what is kept of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "puffer_policies", "train", target.config, *target.flags),
            *("--train.seed", str(seed), "--train.data-dir", folder, "--json", "--quiet"),
        ]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    kept = {"steps": told["steps"], "seconds": round(told["seconds"], 1)}
    return {"name": target.name, "seed": seed, **kept, "evaluation": told["evaluation"]}


def lines() -> list[dict[str, Any]]:
    """Return the runs that are kept."""
    if not LINES.exists():
        return []
    return [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]


def keep(run: dict[str, Any]) -> None:
    """Keep a run in place of an earlier one of that name and seed."""
    others = [
        each for each in lines() if (each["name"], each["seed"]) != (run["name"], run["seed"])
    ]
    ordered = sorted([*others, run], key=lambda each: (each["name"], each["seed"]))
    LINES.write_text("".join(f"{json.dumps(each)}\n" for each in ordered), encoding="utf-8")


def page() -> str:
    """Return docs/results.md."""
    configs, gaps = ([r for each in group for r in _rows(each)] for group in (TARGETS, GAPS))
    return "\n".join([HEAD, *TABLE, *configs, MEMORY, *TABLE, *gaps, ""])


HEAD = """# Results

Written by `python benchmarks/bench_learning.py` from its runs (`docs/results.jsonl`): every config
that has a target, three seeds each, on two shared CPU cores, one thread for each run. *Return* is
the mean of the final evaluation, 100 episodes in envs of their own, with the standard deviation
over episodes; most likely actions unless "sampled" is said. `puffer-policies train NAME
--train.seed SEED` repeats a row, `puffer-policies show-config NAME` prints its settings.
"""

MEMORY = """
## Memories

The same on two tasks that nobody solves without a memory: CartPole without velocities, and naming
the card of four steps ago. 150,000 steps each; frames beside each other are the baseline.
"""

TABLE = [
    "| config | target | seed | return | steps | seconds | |",
    "|---|---|---|---|---|---|---|",
]


def _rows(target: Target) -> list[str]:
    runs = [each for each in lines() if each["name"] == target.name]
    return [_row(target, run) for run in runs]


def _row(target: Target, run: dict[str, Any]) -> str:
    told = run["evaluation"]
    kind = "" if told["deterministic"] else " sampled"
    verdict = "reached" if target.reached(told["mean"]) else "**missed**"
    return (
        f"| `{target.name}` | {target.wanted} | {run['seed']} | {told['mean']:.2f} ± "
        f"{told['std']:.2f}{kind} | {run['steps']:,} | {run['seconds']:.0f} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="configs to train; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--write", action="store_true", help="only write the page")
    parser.add_argument("--memories", action="store_true", help="train the memories instead")
    options = parser.parse_args()
    for target in GAPS if options.memories else TARGETS:
        if options.write or (options.only and target.config not in options.only):
            continue
        for seed in options.seeds:
            run = train(target, seed)
            keep(run)
            print(json.dumps({**asdict(target), **run}), flush=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
