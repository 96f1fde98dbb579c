"""What it means to have solved CartPole, for every trainer: SOLVED on average over EPISODES."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import turns

SOLVED, EPISODES = 475.0, 100
"""Gymnasium's threshold for CartPole-v1, over as many episodes as ever stood beside it."""

Solve = Callable[[int], tuple[int, bool]]
"""Trains with a seed until CartPole is solved; returns the steps, and whether it was."""


def is_solved(returns: Sequence[float]) -> bool:
    """Whether the last episodes of training, with actions that are drawn, are good enough."""
    last = list(returns)[-EPISODES:]
    return len(last) == EPISODES and sum(last) / EPISODES >= SOLVED


def take_turns(solve: Solve) -> None:
    """Answer each line with the seconds of one run, the next seed each time."""
    seeds = iter(range(1, 1000))

    def call(_: int) -> turns.Answer:
        seed = next(seeds)
        steps, is_done = solve(seed)
        if not is_done:
            raise SystemExit(f"Seed {seed} had not solved it after {steps:,} steps.")
        return {"steps": steps}

    turns.take_turns(call)
