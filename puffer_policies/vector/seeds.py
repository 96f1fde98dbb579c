"""Seeds of the streams of random numbers in a run, all spawned from one by NumPy's `SeedSequence`.

People number their runs 1, 2, 3, and libraries number the copies of an env by seed, seed + 1, ... .
If such a seed were passed on as it is, runs 1 and 2 with eight copies each would share seven.
"""

from __future__ import annotations

from enum import IntEnum
from numbers import Integral

import numpy as np

from puffer_policies.errors import ConfigError


class Stream(IntEnum):
    """What draws random numbers in a run: the first number of a key for `spawn_seeds`."""

    PROCESS = 0
    """Python, NumPy and torch: weights, and whatever draws from a global generator."""
    ACTIONS = 1
    """Actions and minibatches."""
    ENVS = 2
    """The envs, all copies together: a `VecEnv` spawns theirs."""
    SAMPLER = 3
    """What a sweep tries."""


def spawn_seeds(seed: int, count: int, *key: int) -> list[int]:
    """Return `count` seeds below 2**31, which NumPy, torch, gymnasium and C's int accept.

    Args:
        seed: the seed that they are spawned from, of any size.
        count: how many. The first of them do not depend on it.
        key: numbers from 0 on that tell one use of `seed` from others.

    Raises:
        ConfigError: `seed` is not a whole number from 0 on.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"The seed is {seed!r}.", fix="Use a whole number from 0 on.")
    sequence = np.random.SeedSequence(int(seed), spawn_key=key)
    return [int(each) >> 1 for each in sequence.generate_state(count, np.uint32)]


def base_seed(seed: int) -> int:
    """Return a seed below 2**30 for an env that seeds its own copies, and may count on from it."""
    return spawn_seeds(seed, 1)[0] >> 1
