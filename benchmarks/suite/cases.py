"""The cases of the suite. A new case is a line here, and a script of `benchmarks/peers`."""

from __future__ import annotations

from collections.abc import Iterator

from suite.harness import Candidate, Case

GROUPS = {
    "train": "Training end to end",
    "env": "Environments on the device",
}
"""The first part of a case's name, and the title of its table."""

OURS, FLOOR, SINGLE = "puffer_policies", "floor", "single file"
SB3, CONTRIB, TORCHRL, PUFFERLIB = "stable-baselines3", "sb3-contrib", "TorchRL", "PufferLib 3.0"

COMPILED, GYMNASIUM = "compiled", "gymnasium in NumPy"

FLOOR_GOAL, PEER_GOAL = 0.9, 2.0


def _train() -> Iterator[Case]:
    """PPO on CartPole, 64 steps a rollout: 4 epochs of 4 minibatches, hidden size 128."""
    for envs in (8, 64, 1024):
        size = (str(envs),)
        yield Case(
            f"train/mlp/{envs}",
            f"PPO on CartPole, `Default`, {envs:,} envs",
            (
                Candidate(OURS, "ours.py", size),
                Candidate(FLOOR, "floor.py", size),
                Candidate(SINGLE, "ppo_single_file.py", size),
                Candidate(SB3, "sb3.py", size, "peers"),
            ),
            goals={FLOOR: FLOOR_GOAL},
            work=envs * 64,
            turn=0.3,
        )
    size = ("lstm", "64")
    yield Case(
        "train/lstm/64",
        "PPO on CartPole, `LSTMWrapper(Default)`, 64 envs",
        (
            Candidate(OURS, "ours.py", size),
            Candidate(FLOOR, "floor.py", size),
            Candidate(CONTRIB, "sb3.py", size, "peers"),
        ),
        goals={FLOOR: FLOOR_GOAL},
        work=64 * 64,
        turn=0.3,
    )


def _envs() -> Iterator[Case]:
    """Steps of CartPole alone, in tensors and in NumPy, on the CPU."""
    for envs in (64, 1024, 4096):
        size = str(envs)
        yield Case(
            f"env/cartpole/{envs}",
            f"A step of `TorchCartPole` on the CPU, {envs:,} envs",
            (
                Candidate(OURS, "cartpole_env.py", ("ours", size)),
                Candidate(COMPILED, "cartpole_env.py", ("ours", size, "--compiled=true")),
                Candidate(GYMNASIUM, "cartpole_env.py", ("gymnasium", size)),
            ),
            work=envs,
            seconds=3.0,
        )


CASES = [*_train(), *_envs()]
