"""Observations that an env sends, from a short random play.

A space may allow what its env never sends, such as bytes of 255 where cells hold a few codes, so
that only the env can tell what a policy has to read. `P` observations.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from puffer_policies.checks.probes.subject import seeded
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import leaves, map_nested

NUMBER = 256
"""Observations to collect; a check needs some ten of them at a time."""

LONGEST_EPISODE = 48
"""Steps until an episode is cut, so that several beginnings are among the observations."""

SECONDS = 2.0
"""After which a slow env has sent enough."""

SEED = 0


def play(env: Any, spaces: Spaces) -> Any:
    """Return what an env sends under random actions, (P, *obs) in every leaf; None for `Spaces`.

    Args:
        env: an env or a vector env, which is reset and stepped, and left so.
        spaces: those of one agent of it.
    """
    if not all(callable(getattr(env, name, None)) for name in ("reset", "step")):
        return None
    batches, deadline, number = [], time.monotonic() + SECONDS, 0
    try:
        with seeded(SEED):
            for observations in _steps(env):
                batches.append(map_nested(_rows, leaf_spaces(spaces.observation), observations))
                number += len(next(leaves(batches[-1])))
                if number >= NUMBER or time.monotonic() > deadline:
                    break
    except Exception as error:  # an env may refuse random actions
        if not batches:
            warnings.warn(
                f"The env could not be played, so observations are samples of its space: {error!r}",
                stacklevel=2,
            )
            return None
    return map_nested(lambda *rows: np.concatenate(rows)[:NUMBER], *batches)


def _steps(env: Any) -> Iterator[Any]:
    """Reset and step for ever, and yield every observation."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(SEED)
    # Where an env has a device, it takes and gives tensors there. Older wrappers warn if they are
    # asked for it themselves.
    device = getattr(getattr(env, "unwrapped", env), "device", None)
    for episode in range(NUMBER):
        observations, _ = env.reset(seed=SEED + episode)
        yield observations
        for _ in range(LONGEST_EPISODE):
            action = actions.sample()
            if device is not None:
                action = map_nested(lambda leaf: torch.as_tensor(leaf, device=device), action)
            observations, _, terminated, truncated, _ = env.step(action)
            yield observations
            if np.all(np.logical_or(_on_host(terminated), _on_host(truncated))):
                break


def _rows(space: Any, leaf: Any) -> np.ndarray[Any, Any]:
    """Return a copy of a leaf as (P, *obs): of one agent, or of several beside each other."""
    array = np.array(_on_host(leaf), dtype=space.dtype)
    return array.reshape(-1, *(space.shape or ()))


def _on_host(leaf: Any) -> Any:
    return leaf.cpu().numpy() if isinstance(leaf, torch.Tensor) else leaf
