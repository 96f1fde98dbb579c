"""A rollout cut into segments to learn from, from which minibatches are selected.

`T` steps of a rollout, `N` envs, `L` steps of a segment, `B` = T/L * N segments, `M` of these in a
minibatch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
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
    sent: Tensors
    """(B, L, ...): what else the policy was sent, by state key, such as ``action_mask``."""
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
        return self._each(lambda leaf, dim: leaf.index_select(dim, rows))

    def split(self, size: int) -> Iterator[Batch]:
        """Yield views of `size` segments, of fewer at the end."""
        for begin in range(0, len(self.starts), size):
            count = min(size, len(self.starts) - begin)
            yield self._each(functools.partial(_narrowed, begin=begin, count=count))

    def estimated(self, advantages: Tensor, returns: Tensor) -> Batch:
        """Return the batch with other advantages and returns, (B, L) each."""
        numbers = Transitions(*self.numbers)._replace(advantages=advantages, returns=returns)
        return dataclasses.replace(self, numbers=torch.stack(numbers))

    def _each(self, take: Callable[[Tensor, int], Tensor]) -> Batch:
        """Return what `take` makes of each tensor, given the dimension of its segments."""
        return Batch(
            observations=map_nested(lambda leaf: take(leaf, 0), self.observations),
            starts=take(self.starts, 0),
            sent={key: take(each, 0) for key, each in self.sent.items()},
            states={key: take(each, 0) for key, each in self.states.items()},
            actions=take(self.actions, 0),
            numbers=take(self.numbers, 1),
        )


def to_batch(
    rollout: Rollout, advantages: np.ndarray, returns: np.ndarray, *, segment: int
) -> Batch:
    """Cut a rollout (T, N) into segments of L = `segment` steps."""
    cut = functools.partial(cut_in_segments, segment=segment)
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
        sent={key: cut(each) for key, each in rollout.sent.items()},
        states={key: torch.cat([state[key] for state in states]) for key in states[0]},
        actions=cut(rollout.actions),
        numbers=torch.stack([cut(each) for each in numbers]),
    )


def cut_in_segments(leaf: Tensor, *, segment: int) -> Tensor:
    """(T, N, ...) -> (T/L * N, L, ...) with L = `segment`."""
    num_steps, num_envs, *shape = leaf.shape
    if segment == 1:
        return leaf.reshape(num_steps * num_envs, 1, *shape)  # (T*N, 1, ...), a view
    pieces = leaf.reshape(num_steps // segment, segment, num_envs, *shape)  # (S, L, N, ...)
    return pieces.transpose(1, 2).flatten(0, 1)  # (S*N, L, ...)


def join_segments(segments: Tensor, *, num_envs: int) -> Tensor:
    """(T/L * N, L) -> (T, N), N = `num_envs`: what `cut_in_segments` has cut."""
    length = segments.shape[1]
    pieces = segments.reshape(-1, num_envs, length).transpose(1, 2)  # (S, L, N)
    return pieces.reshape(-1, num_envs)  # (T, N)


def _narrowed(leaf: Tensor, dim: int, *, begin: int, count: int) -> Tensor:
    return leaf.narrow(dim, begin, count)
