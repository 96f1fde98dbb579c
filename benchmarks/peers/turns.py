"""One candidate of a race: builds its trainer, then trains when it is told, and says how long.

Each line of the standard input is a number of calls, such as updates; the answer is a line of JSON
with the seconds of wall clock and of CPU time that they took. Needs nothing but what the candidate
needs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

ENV_ID, NUM_STEPS = "CartPole-v1", 64
"""What everybody trains on, and the steps of a rollout."""
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


def wants_memory() -> bool:
    """Whether the recurrent candidate was asked for, on the command line."""
    return "lstm" in sys.argv[1:]


def num_envs() -> int:
    """Return the number on the command line: copies of the env, 64 without one."""
    return number(64)


def number(default: int) -> int:
    """Return the number on the command line, if there is one."""
    return next((int(each) for each in sys.argv[1:] if each.isdecimal()), default)


def words() -> list[str]:
    """Return what is on the command line besides numbers and options."""
    return [each for each in sys.argv[1:] if not each.isdecimal() and not each.startswith("-")]


def option(name: str, default: str) -> str:
    """Return the value of ``--name=value`` on the command line."""
    start = f"--{name}="
    return next((a.removeprefix(start) for a in sys.argv[1:] if a.startswith(start)), default)
