"""Steps a second of our whole trainer against others on CartPole-v1, in turns.

``python benchmarks/bench_train.py [--peer-python PATH] [--rounds R] [--envs N] [--floor]``. One
torch thread, 64 envs x 64 steps, 4 epochs x 4 minibatches, one hidden layer of 128 under both
heads, with and without an LSTM of 128. Every candidate is a process of its own
(`benchmarks/peers`); they train in turns, a few updates each, so that a noisy machine hurts them
alike, and the medians count. CPU time is shown, too: other processes do not disturb it. A peer that
is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PEERS = Path(__file__).parent / "peers"
NUM_STEPS = 64
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Candidate:
    """A trainer in a process of its own, and how long its turns took."""

    name: str
    num_envs: int
    process: subprocess.Popen[str]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def turn(self, num_updates: int) -> dict[str, float]:
        """Let it make so many updates; return the seconds of one, wall and CPU."""
        assert self.process.stdin is not None
        print(num_updates, file=self.process.stdin, flush=True)
        answer = _answer(self.process)
        if answer is None:
            raise SystemExit(f"{self.name} ended in the middle of the race.")
        return {key: seconds / num_updates for key, seconds in answer.items()}

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def start(name: str, script: str, python: str, *, num_envs: int, memory: bool) -> Candidate | None:
    """Start a candidate; None, with a line that says why, if it can't be built."""
    process = subprocess.Popen(
        [python, str(PEERS / script), str(num_envs), *(["lstm"] if memory else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | THREADS,
        text=True,
    )
    if _answer(process) is not None:
        return Candidate(name, num_envs, process)
    _, errors = process.communicate()
    print(f"left out: {name}: {(errors.strip().splitlines() or ['no answer'])[-1]}")
    return None


def _answer(process: subprocess.Popen[str]) -> dict[str, float] | None:
    assert process.stdout is not None
    line = process.stdout.readline()
    return json.loads(line) if line else None


def race(candidates: list[Candidate], *, rounds: int, updates: int) -> None:
    """Let the candidates take turns; a first turn of each does not count."""
    for candidate in candidates:
        candidate.turn(updates)
    for _ in range(rounds):
        for candidate in candidates:
            seconds = candidate.turn(updates)
            candidate.wall.append(seconds["wall"])
            candidate.cpu.append(seconds["cpu"])


def show(title: str, candidates: list[Candidate]) -> None:
    """Print a line for each; ratios are ours against theirs, of medians."""
    ours = candidates[0]
    print(f"\n{title}")
    print(f"{'':24} {'steps/s':>9} {'by CPU time':>12} {'ours is':>9} {'by CPU time':>12}")
    for each in candidates:
        speed, cpu = (each.num_envs * NUM_STEPS / median(times) for times in (each.wall, each.cpu))
        faster = median(each.wall) / median(ours.wall)
        by_cpu = median(each.cpu) / median(ours.cpu)
        print(f"{each.name:24} {speed:9.0f} {cpu:12.0f} {faster:8.2f}x {by_cpu:11.2f}x")


def run(
    title: str,
    entries: list[tuple[str, str, str]],
    *,
    num_envs: int,
    memory: bool,
    rounds: int,
    updates: int,
) -> None:
    """Race the candidates of `entries`: name, script and interpreter."""
    started = [start(*entry, num_envs=num_envs, memory=memory) for entry in entries]
    candidates = [each for each in started if each is not None]
    if not candidates or candidates[0].name != "puffer_policies":
        raise SystemExit("Our own trainer does not start.")
    race(candidates, rounds=rounds, updates=updates)
    show(title, candidates)
    for candidate in candidates:
        candidate.close()


def main() -> None:
    """Race without and with memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the others")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=("mlp", "lstm"))
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--floor", action="store_true", help="race against the floor alone")
    args = parser.parse_args()
    ours = ("puffer_policies", "ours.py", sys.executable)
    single = ("PPO in a single file", "ppo_single_file.py", sys.executable)
    sb3, contrib = ((n, "sb3.py", args.peer_python) for n in ("stable-baselines3", "sb3-contrib"))
    floor = ("floor", "floor.py", sys.executable)
    without = [floor] if args.floor else [floor, single, sb3]
    # A turn of a few tens of thousand steps, however many envs there are.
    updates = max(640 // args.envs, 1)
    if args.only != "lstm":
        title = f"one hidden layer, {args.rounds} turns of {updates} updates"
        run(
            title,
            [ours, *without],
            num_envs=args.envs,
            memory=False,
            rounds=args.rounds,
            updates=updates,
        )
    if args.only != "mlp":
        updates = max(updates // 5, 1)
        title = f"LSTM, {args.rounds} turns of {updates} updates"
        run(
            title,
            [ours, floor] if args.floor else [ours, floor, contrib],
            num_envs=args.envs,
            memory=True,
            rounds=args.rounds,
            updates=updates,
        )


if __name__ == "__main__":
    main()
