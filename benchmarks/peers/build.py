"""get_policy with and without the static validation of what it has built.

``python build.py off|static [--policy=NAME]``.
"""

from __future__ import annotations

import numpy as np
import torch
import turns
from gymnasium import spaces

from puffer_policies import Spaces, get_policy

SPACES = Spaces(spaces.Box(-1.0, 1.0, (8,), np.float32), spaces.Discrete(4))


def main() -> None:
    """Take turns."""
    torch.set_num_threads(1)
    (validate,) = turns.words()
    name = turns.option("policy", "Default")

    def call(number: int) -> None:
        for _ in range(number):
            get_policy(name, SPACES, validate=validate)  # type: ignore[arg-type]

    turns.take_turns(call)


if __name__ == "__main__":
    main()
