"""V-trace: advantages from actions of a policy that has moved on since. NumPy, time first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.advantage import carried_back


@dataclass(frozen=True, slots=True)
class Clips:
    """The largest importance ratios that V-trace lets through."""

    rho: float = 1.0
    """Of the ratio that weights a step's own error: it decides what the values converge to."""
    c: float = 1.0
    """Of the ratio that lets later errors through: it decides how fast."""

    @classmethod
    def of(cls, config: TrainConfig) -> Self | None:
        """Return a config's clips, PufferLib's 1 for the one not given; None if none is."""
        rho, c = config.vtrace_rho_clip, config.vtrace_c_clip
        if rho is None and c is None:
            return None
        return cls(rho=1.0 if rho is None else rho, c=1.0 if c is None else c)


def vtrace(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    *,
    ratios: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
    clips: Clips,
) -> np.ndarray:
    """Return advantages (T, N) float32: V-trace's targets less the values.

    Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, equation 1, with lambda in the trace as
    in its remark 2. `ratios` is the probability of each action now over that when it was drawn.
    While all are 1, and no clip is below 1, this is GAE. As in PufferLib, targets less values serve
    as advantages, where the paper takes one step to the next target. The other arguments are
    those of `puffer_policies.train.advantage.gae`.
    """
    rho, c = np.minimum(ratios, clips.rho), np.minimum(ratios, clips.c)
    errors = rewards + gamma * ~terminated * next_values - values
    decay = (gamma * gae_lambda) * c * ~done
    return carried_back(rho * errors, decay)


def later_values(values: np.ndarray, next_values: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return `next_values` (T, N) brought up to date with `values` (T, N), which have changed.

    Where an episode ended, and at the end of the rollout, nothing newer is known of what followed.
    """
    later = next_values.copy()
    later[:-1] = np.where(done[:-1], next_values[:-1], values[1:])
    return later
