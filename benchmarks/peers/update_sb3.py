"""The update of stable-baselines3 and sb3-contrib alone, on one rollout, which is kept."""

from __future__ import annotations

import noise  # noqa: F401 (registers its envs)
import turns
from sb3 import model


def main() -> None:
    """Collect once and take turns."""
    candidate = model()
    # Its only gradient steps before the turns, as learn() makes the callback that a rollout needs.
    candidate.learn(turns.num_envs() * turns.NUM_STEPS, log_interval=10**9)

    def update(number: int) -> None:
        for _ in range(number):
            candidate.train()

    turns.take_turns(update)


if __name__ == "__main__":
    main()
