"""Our trainer in several processes that are one run of 64 envs: ``python processes.py NUMBER``.

The first process answers, and starts the others, which get its lines.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import turns
from ours import trainer

from puffer_policies.train.distributed import joined

NUM_ENVS = "64"


def environment(number: int) -> dict[str, str]:
    """Return what torchrun would set for the first of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**where, "WORLD_SIZE": str(number), "RANK": "0", "LOCAL_RANK": "0"}


def start_others(number: int) -> list[subprocess.Popen[str]]:
    """Start all but the first, whose environment is this one's."""
    return [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(1, number)
    ]


def main() -> None:
    """Start the others and take turns with them."""
    number, others = turns.number(1), []
    if number > 1 and "RANK" not in os.environ:
        os.environ.update(environment(number))
        others = start_others(number)
    sys.argv[1:] = [NUM_ENVS]
    with joined("cpu") as world:
        candidate = trainer(world)

        def train(num_updates: int) -> None:
            for other in others:
                print(num_updates, file=other.stdin, flush=True)
            for _ in range(num_updates):
                candidate.learn(candidate.estimate(candidate.collect()))

        turns.take_turns(train)


if __name__ == "__main__":
    main()
