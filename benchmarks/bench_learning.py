"""Train every config that has a target, with several seeds, and write docs/results.md.

Each run is a process of its own, started as a user starts it: ``puffer-policies train NAME``. Each
adds a line of JSON to docs/results.jsonl, from which the page is written.

    python benchmarks/bench_learning.py                     all configs, seeds 1 2 3
    python benchmarks/bench_learning.py --only acrobot      one config
    python benchmarks/bench_learning.py --memories          every memory on three memory tasks
    python benchmarks/bench_learning.py --zoo               every other policy and wrapper on one
    python benchmarks/bench_learning.py --parts             each part on an env that needs it
    python benchmarks/bench_learning.py --write             only the page, from earlier runs
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

from puffer_policies.config.load import load_config
from puffer_policies.registry import default_registry
from puffer_policies.registry.specs import PolicySpec

DOCS = Path(__file__).parent.parent / "docs"
LINES, PAGE = DOCS / "results.jsonl", DOCS / "results.md"


@dataclass(frozen=True)
class Target:
    """A config, and the return that its final evaluation should reach."""

    config: str
    at_least: float | None = None
    at_most: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.config, *self.flags])

    @property
    def bound(self) -> str:
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
    Target("masked_recall", at_least=0.95),
    Target("masked_recall", at_most=0.7, flags=MEMORYLESS),
    Target("masked_recall", at_most=0.1, flags=("--policy-name", "Default")),
    Target("acrobot", at_least=-100),
    Target("pendulum", at_least=-250),
    Target("mountaincar_continuous", at_least=90),
    Target("lunarlander", at_least=200),
    Target("minatar_breakout", at_least=7.5),
    Target("breakout", at_least=40),
]


SHORT = ("--train.total-timesteps", "150000")


def gap(memory: str, *options: str) -> list[Target]:
    """Return the targets of a memory on three tasks that need one. "None" must fail them."""
    flags = ("--rnn-name", memory, *options)
    if memory == "None":
        return [
            Target("cartpole_novel", at_most=60, flags=(*flags, *SHORT)),
            Target("repeat_previous", at_most=-0.4, flags=(*flags, *SHORT)),
        ]
    return [
        Target("cartpole_novel", at_least=350, flags=(*flags, *SHORT)),
        Target("repeat_previous", at_least=0.5, flags=(*flags, *SHORT)),
        Target("masked_recall", at_least=0.95, flags=flags),
    ]


# The default core of PufferLib 4.0.
PUFFER4 = ("--rnn.num-layers", "4", "--rnn.highway", "True", "--train.learning-rate", "1e-2")
# A MinLSTM of that depth, in the blocks of its paper.
BLOCKS = ("--rnn.num-layers", "4", "--rnn.residual", "True", "--train.learning-rate", "1e-2")

GAPS = [
    *gap("None"),
    *gap("FrameStackWrapper")[:2],
    # The cue is shown five steps before the question.
    gap("FrameStackWrapper", "--rnn.frames", "6")[2],
    *gap("LSTMWrapper"),
    *gap("GRUWrapper"),
    *gap("RNNWrapper"),
    *gap("MinGRUWrapper"),
    *gap("MinGRUWrapper", *PUFFER4),
    *gap("GTrXLWrapper", "--rnn.memory", "16"),
    *gap("TransformerXLWrapper"),
    # Four layers are slower to learn in the 50,000 steps of this task.
    gap("TransformerXLWrapper", "--rnn.num-layers", "2")[2],
    # These are in plugins/puffer-policies-memory.
    *gap("LRUWrapper"),
    *gap("RTUWrapper"),
    *gap("MinLSTMWrapper", *BLOCKS),
    *gap("S5Wrapper"),
    *gap("FFMWrapper"),
    *gap("MambaWrapper"),
    *gap("LinearAttentionWrapper"),
    *gap("LinearAttentionWrapper", "--rnn.half-life", "2"),
    *gap("Mamba2Wrapper"),
    *gap("GatedDeltaNetWrapper"),
    *gap("MLSTMWrapper"),
    *gap("SLSTMWrapper"),
]


def inside(
    config: str, at_least: float, *policies: str, flags: tuple[str, ...] = ()
) -> list[Target]:
    """Return the targets of policies that replace the one of a config."""
    return [
        Target(config, at_least=at_least, flags=("--policy-name", policy, *flags))
        for policy in policies
    ]


RAW = ("--train.no-scale-rewards",)
"""Leaves the scale of returns to the critic."""

ZOO = [
    *inside("cartpole", 475, "Structured", "MultiInput"),
    *inside("cartpole", 475, "NormalizeObservationWrapper(Default)"),
    *inside("cartpole", 475, "PrevActionRewardWrapper(Default)", "SeparateCriticWrapper(Default)"),
    *inside("cartpole", 475, "HLGaussWrapper(Default)", "TwoHotWrapper(Default)"),
    *inside("cartpole", 475, "PopArtWrapper(Default)", flags=RAW),
    *inside("pendulum", -250, "PopArtWrapper(Continuous)", flags=RAW),
    *inside("cartpole", 475, "MLPTanh", "MLPWide", "MLPLayerNorm", "SimBa", "BroNet"),
    *inside("cartpole", 475, "PufferNet"),
    *inside("pendulum", -250, "SquashedGaussianWrapper(Continuous)"),
    *inside("masked_recall", 0.95, "ActionMaskWrapper(DiscreteEmbed)"),
    *inside(
        "minigrid_empty",
        0.9,
        *("MiniGridCNN", "ImpalaResNet", "Impoola"),
        flags=("--env.view", "image"),
    ),
    *inside("minatar_breakout", 7.5, "MinAtarCNN"),
]


# Attention costs little with one narrow block, which is enough for this task.
ONE_BLOCK = ("--policy.num-blocks", "1", "--policy.entity-size", "32", "--policy.feedforward", "64")

# Each env can be solved with one part only, and stands beside what lacks it.
PARTS = [
    Target("repeat_first", at_least=0.95),
    Target("repeat_first", at_least=0.95, flags=("--rnn-name", "GRUWrapper")),
    Target("repeat_first", at_least=0.95, flags=("--rnn-name", "MinGRUWrapper", *PUFFER4)),
    Target(
        "repeat_first", at_most=0.0, flags=("--rnn-name", "FrameStackWrapper", "--rnn.frames", "16")
    ),
    Target("repeat_first", at_most=-0.4, flags=MEMORYLESS),
    Target("archery", at_least=0.9),
    Target("archery", at_most=0.3, flags=("--env.random-part", "aim")),
    Target("archery", at_most=0.4, flags=("--env.random-part", "draw")),
    Target("archery", at_most=0.6, flags=("--env.random-part", "arrow")),
    Target("archery", at_most=0.2, flags=("--policy-name", "Default")),
    Target("nearest_friend", at_least=0.9),
    Target("nearest_friend", at_least=0.9, flags=("--policy-name", "EntityAttention", *ONE_BLOCK)),
    Target("nearest_friend", at_most=0.5, flags=("--policy-name", "Default")),
    Target(
        "nearest_friend",
        at_most=0.5,
        flags=("--policy-name", "Default", "--policy.hidden-size", "512"),
    ),
    Target("hidden_tide", at_least=0.95),
    Target("hidden_tide", at_most=0.5, flags=("--env.shows-tide", "False")),
]


SEEDING = "spawned"
"""How a run seeds its envs; a run of another seeding, or of none, plays other episodes."""


def train(target: Target, seed: int) -> dict[str, Any]:
    """Run one training and return its line of results."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "puffer_policies", "train", target.config, *target.flags),
            *("--train.seed", str(seed), "--train.data-dir", folder, "--json", "--quiet"),
        ]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{process.stderr}")
    result = json.loads(process.stdout.strip().splitlines()[-1])
    return {
        "name": target.name,
        "stack": stack(target),
        "seed": seed,
        "steps": result["steps"],
        "seconds": round(result["seconds"], 1),
        "evaluation": result["evaluation"],
        "seeding": SEEDING,
    }


def stack(target: Target) -> list[str]:
    """Return the names that a run is a result of: every wrapper, and the policy unless Default."""
    base, registry = load_config(target.config, target.flags).base, default_registry()
    policy = PolicySpec.parse(base.policy_name)
    names = [each.name for each in policy.wrappers] + ([base.rnn_name] if base.rnn_name else [])
    if not names or policy.name != "Default":
        names.append(policy.name)
    return [registry.get(name).qualified_name for name in names]


def lines() -> list[dict[str, Any]]:
    """Return the runs in the file."""
    if not LINES.exists():
        return []
    return [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]


def finished() -> set[tuple[str, int]]:
    """Return the names and seeds of the runs in the file."""
    return {(each["name"], each["seed"]) for each in lines()}


def save(run: dict[str, Any]) -> None:
    """Add a run to the file, in place of an earlier one of that name and seed."""
    others = [
        each for each in lines() if (each["name"], each["seed"]) != (run["name"], run["seed"])
    ]
    ordered = sorted([*others, run], key=lambda each: (each["name"], each["seed"]))
    LINES.write_text("".join(f"{json.dumps(each)}\n" for each in ordered), encoding="utf-8")


def page() -> str:
    """Return docs/results.md."""
    runs, parts = lines(), []
    older = sum(each.get("seeding") != SEEDING for each in runs)
    for head, targets in ((HEAD, TARGETS), (CONTROLS, PARTS), (MEMORY, GAPS), (OTHERS, ZOO)):
        parts += [head, *TABLE, *(row for each in targets for row in _rows(each, runs))]
    if older:
        parts.insert(1, OLDER.format(older=older, total=len(runs)))
    return "\n".join([*parts, ""])


HEAD = """# Results

Written by `python benchmarks/bench_learning.py` from its runs (`docs/results.jsonl`): every config
that has a target, three seeds each, on two shared CPU cores, one thread for each run. *Return* is
the mean of the final evaluation, 100 episodes in envs of their own, with the standard deviation
over episodes; most likely actions unless "sampled" is said. `puffer-policies train NAME
--train.seed SEED` repeats a row, `puffer-policies show-config NAME` prints its settings.
"""

OLDER = """{older} of the {total} runs were made before every copy of an env had a seed of its own,
spawned from the run's seed: their commands now play other episodes, and returns can differ from
these.
"""

CONTROLS = """
## Parts and controls

Envs of ours that only one part of a policy can solve, beside controls that lack this part. All rows
of a config have its steps and settings but for what the name says, and a control must stay below
what the part reaches.

- `repeat_first`: the first of 52 cards is to be named in every step. A stack of 16 frames sees it
  in 16 of the 51 steps.
- `archery`: an aim, an arrow and a draw pay only together. In the controls chance takes over one of
  them, or the policy reads no mask.
- `nearest_friend`: a set of entities stands in random rows, which `Default` reads side by side.
- `hidden_tide`: the critic sees a tide that the actor does not, unless the env hides it from both.
"""

MEMORY = """
## Memories

The same on three tasks that nobody solves without a memory: CartPole without velocities and naming
the card of three steps before, 150,000 steps each, and recalling a cue behind illegal actions that
end the game, 50,000 steps under masks. Frames side by side are the baseline. The settings were
chosen for an LSTM; where a row has settings of its own, the name says so.
"""

OTHERS = """
## Other policies and wrappers

One task each, with settings that were chosen for the config's own policy.
"""

TABLE = [
    "| config | target | seed | return | steps | seconds | |",
    "|---|---|---|---|---|---|---|",
]


def _rows(target: Target, runs: list[dict[str, Any]]) -> list[str]:
    return [_row(target, run) for run in runs if run["name"] == target.name]


def _row(target: Target, run: dict[str, Any]) -> str:
    evaluation = run["evaluation"]
    kind = "" if evaluation["deterministic"] else " sampled"
    verdict = "reached" if target.reached(evaluation["mean"]) else "**missed**"
    return (
        f"| `{target.name}` | {target.bound} | {run['seed']} | {evaluation['mean']:.2f} ± "
        f"{evaluation['std']:.2f}{kind} | {run['steps']:,} | {run['seconds']:.0f} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="configs to train; all by default")
    parser.add_argument("--missing", action="store_true", help="skip runs that the file has")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--write", action="store_true", help="only write the page")
    for flag, targets, content in (
        ("--memories", GAPS, "the memories"),
        ("--zoo", ZOO, "the other policies"),
        ("--parts", PARTS, "parts and their controls"),
    ):
        parser.add_argument(
            flag,
            dest="targets",
            action="store_const",
            const=targets,
            default=TARGETS,
            help=f"train {content} instead",
        )
    options = parser.parse_args()
    for target in options.targets:
        if options.write or (options.only and target.config not in options.only):
            continue
        for seed in options.seeds:
            if options.missing and (target.name, seed) in finished():
                continue
            run = train(target, seed)
            save(run)
            print(json.dumps({**asdict(target), **run}), flush=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
