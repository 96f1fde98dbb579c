"""Sums over the processes of a run, with an error in words where one of them is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from puffer_policies.errors import TrainingError


def several_processes() -> bool:
    """Return whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_(tensor: Tensor) -> Tensor:
    """Add `tensor` up over all processes, in place.

    Raises:
        TrainingError: another process is gone.
    """
    with peers():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def peers() -> Iterator[None]:
    """Turn torch's error about a lost connection into one that says what happened."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"Another process of this run is gone: {str(error).splitlines()[0]}",
            fix="Its own message says why. Go on from the last checkpoint with --resume.",
        ) from error
