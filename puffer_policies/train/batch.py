"""A rollout cut into segments to learn from, from which minibatches are selected.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `B` = T/L * N segments, `M` of these in a
minibatch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.nested import map_nested
from puffer_policies.train.carry import Tensors
from puffer_policies.train.ppo import Transitions
from puffer_policies.train.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Batch:
    """B segments of L steps, on the device."""

    observations: Any
    """(B, L, *obs)."""
    starts: Tensor
    """(B, L) bool."""
    states: Tensors
    """(B, ...): the state before each segment."""
    actions: Tensor
    """(B, L, ...)."""
    numbers: Tensor
    """(5, B, L) float32: the `transitions`, in one tensor so that one call selects from all."""

    @property
    def transitions(self) -> Transitions:
        """Advantages and what else the loss reads, (B*L,) each."""
        return Transitions(*self.numbers.flatten(1).unbind())

    def select(self, rows: Tensor) -> Batch:
        """Return a copy of the segments `rows` (M,)."""
        return Batch(
            observations=map_nested(lambda leaf: leaf.index_select(0, rows), self.observations),
            starts=self.starts.index_select(0, rows),
            states={key: each.index_select(0, rows) for key, each in self.states.items()},
            actions=self.actions.index_select(0, rows),
            numbers=self.numbers.index_select(1, rows),
        )


def to_batch(
    rollout: Rollout, advantages: np.ndarray, returns: np.ndarray, *, segment: int
) -> Batch:
    """Cut a rollout (T, N) into segments of L = `segment` steps."""
    cut = functools.partial(_cut, segment=segment)
    device = rollout.values.device
    numbers = Transitions(
        log_probs=rollout.log_probs,
        advantages=torch.from_numpy(advantages).to(device),
        returns=torch.from_numpy(returns).to(device),
        values=rollout.values,
        weights=torch.from_numpy(~rollout.ghost).to(device, torch.float32),
    )
    states = rollout.states
    return Batch(
        observations=map_nested(cut, rollout.observations),
        starts=cut(rollout.starts),
        states={key: torch.cat([state[key] for state in states]) for key in states[0]},
        actions=cut(rollout.actions),
        numbers=torch.stack([cut(each) for each in numbers]),
    )


def _cut(leaf: Tensor, *, segment: int) -> Tensor:
    """(T, N, ...) -> (T/L * N, L, ...) with L = `segment`."""
    num_steps, num_envs, *shape = leaf.shape
    if segment == 1:
        return leaf.reshape(num_steps * num_envs, 1, *shape)  # (T*N, 1, ...), a view
    pieces = leaf.reshape(num_steps // segment, segment, num_envs, *shape)  # (S, L, N, ...)
    return pieces.transpose(1, 2).flatten(0, 1)  # (S*N, L, ...)
