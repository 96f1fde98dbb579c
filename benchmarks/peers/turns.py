"""One candidate of a race: builds its trainer, then trains when it is told, and says how long.

Each line of the standard input is a number of updates; the answer is a line of JSON with the
seconds of wall clock and of CPU time that they took. Needs nothing but what the candidate needs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

ENV_ID, NUM_ENVS, NUM_STEPS = "CartPole-v1", 64, 64
"""What everybody trains on, how many copies, and the steps of a rollout."""
NUM_EPOCHS, NUM_MINIBATCHES = 4, 4
HIDDEN_SIZE = 128
LEARNING_RATE, GAMMA, GAE_LAMBDA = 2.5e-4, 0.99, 0.95
CLIP_COEF, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.2, 0.01, 0.5, 0.5
SEED = 1

Train = Callable[[int], object]
"""Makes so many updates: a rollout each, and what is learned from it."""


def take_turns(train: Train) -> None:
    """Answer every line until the input ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        train(int(line))
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), flush=True)


def wants_memory() -> bool:
    """Whether the recurrent candidate was asked for, on the command line."""
    return sys.argv[1:] == ["lstm"]
