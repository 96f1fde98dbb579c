"""The update of our trainer alone: all gradient steps on one rollout, which is kept."""

from __future__ import annotations

import noise  # noqa: F401 (registers its envs)
import turns
from ours import trainer


def main() -> None:
    """Collect once and take turns."""
    candidate = trainer()
    batch = candidate.estimate(candidate.collect())

    def update(number: int) -> None:
        for _ in range(number):
            candidate.ppo.update(batch, remaining=1.0)

    turns.take_turns(update)


if __name__ == "__main__":
    main()
