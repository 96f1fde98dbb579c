"""The update of the floor alone, on one rollout, which is kept."""

from __future__ import annotations

import noise  # noqa: F401 (registers its envs)
import turns
from floor import Floor


def main() -> None:
    """Collect once and take turns."""
    turns.ENV_ID = turns.option("env", turns.ENV_ID)
    candidate = Floor(turns.num_envs(), memory=turns.wants_memory())
    candidate.collect()
    candidate.estimate()

    def update(number: int) -> None:
        for _ in range(number):
            candidate.update()

    turns.take_turns(update)


if __name__ == "__main__":
    main()
