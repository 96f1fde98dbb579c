"""One candidate of a race: builds its trainer, then trains when it is told, and says how long.

Each line of the standard input is a number of calls, such as updates; the answer is a line of JSON
with the seconds of wall clock and of CPU time that they took. Needs nothing but what the candidate
needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

ENV_ID, NUM_ENVS, NUM_STEPS = "CartPole-v1", 64, 64
"""What everybody trains on, how many copies if nothing is said, and the steps of a rollout."""
NUM_EPOCHS, NUM_MINIBATCHES = 4, 4
HIDDEN_SIZE = 128
LEARNING_RATE, GAMMA, GAE_LAMBDA = 2.5e-4, 0.99, 0.95
CLIP_COEF, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.2, 0.01, 0.5, 0.5
SEED = 1

Train = Callable[[int], object]
"""Makes so many updates: a rollout each, and what is learned from it."""

Answer = dict[str, float]


def take_turns(call: Callable[[int], Answer | object]) -> None:
    """Answer every line until the input ends.

    What `call` returns as a dict becomes part of the answer, or takes the place of a part of it.
    """
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        more = call(int(line))
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(answer | (more if isinstance(more, dict) else {})), flush=True)


def arguments() -> argparse.Namespace:
    """Return what the command line asks of a trainer: a ``kind`` of policy, and ``envs``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", choices=("mlp", "lstm"), default="mlp")
    parser.add_argument("--envs", type=int, default=NUM_ENVS, help="copies of the env")
    parser.add_argument("--env", default=ENV_ID, help="its id, where a candidate has a choice")
    return parser.parse_args()
