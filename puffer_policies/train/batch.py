"""A batch: a rollout with its estimates, cut into the segments that minibatches are made of.

`T` steps of a rollout, `N` envs, `B` = T/L * N segments of `L` steps, `M` of them in a minibatch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puffer_policies.spaces.nested import map_nested
from puffer_policies.train.carry import Tensors
from puffer_policies.train.rollout import Rollout
from puffer_policies.vector.protocol import Array


class Transitions(NamedTuple):
    """The numbers of N transitions that the loss compares with the policy's; (N,) float32 each."""

    log_probs: Tensor
    """Of the actions, by the policy that chose them."""
    advantages: Tensor
    returns: Tensor
    """Targets of the values."""
    values: Tensor
    """Values predicted during the rollout."""
    weights: Tensor
    """0 for a ghost, else the weight of the transition: 1, unless segments are prioritized."""


@dataclass(frozen=True, slots=True)
class Segments:
    """B segments of L steps, on the device: the whole batch, a minibatch, or a piece of one."""

    observations: Any
    """(B, L, *obs), nested as the space is."""
    starts: Tensor
    """(B, L) bool: the observation is the first of an episode."""
    extras: Tensors
    """(B, L, ...): other inputs of the policy, by state key, such as ``action_mask``."""
    states: Tensors
    """(B, ...): the recurrent state before each segment."""
    actions: Tensor
    """(B, L, ...)."""
    numbers: Tensor
    """(5, B, L) float32: the `transitions` in one tensor, so that one call selects from all."""

    @property
    def transitions(self) -> Transitions:
        """The numbers of every transition, (B*L,) each."""
        return Transitions(*self.numbers.flatten(1).unbind())

    @property
    def idle(self) -> Tensor:
        """(B, L) bool: the ghosts, of which nothing is learned."""
        return Transitions(*self.numbers).weights == 0

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The fields, nested: what a recorded step copies."""
        return tuple(getattr(self, each.name) for each in dataclasses.fields(self))

    def select(self, rows: Tensor, *, numbers: Tensor | None = None) -> Segments:
        """Return a copy of the segments `rows` (M,), with their `numbers` if these are at hand."""

        def select(leaf: Tensor, dim: int) -> Tensor:
            if leaf is self.numbers and numbers is not None:
                return numbers
            return leaf.index_select(dim, rows)

        return self._map(select)

    def split(self, size: int) -> Iterator[Segments]:
        """Yield views of `size` segments; the last may hold fewer."""
        for start in range(0, len(self.starts), size):
            count = min(size, len(self.starts) - start)
            yield self._map(functools.partial(_narrow, start=start, count=count))

    def with_estimates(self, advantages: Tensor, returns: Tensor) -> Segments:
        """Return the segments with other advantages and returns, (B, L) each."""
        numbers = Transitions(*self.numbers)._replace(advantages=advantages, returns=returns)
        return dataclasses.replace(self, numbers=torch.stack(numbers))

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Segments:
        """Return the result of `function` for each tensor and the dimension of its segments."""
        return Segments(
            observations=map_nested(lambda leaf: function(leaf, 0), self.observations),
            starts=function(self.starts, 0),
            extras={key: function(each, 0) for key, each in self.extras.items()},
            states={key: function(each, 0) for key, each in self.states.items()},
            actions=function(self.actions, 0),
            numbers=function(self.numbers, 1),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A rollout with its estimates, time first as its rewards are, and as segments for the policy.

    The update learns from the segments. V-trace, which estimates again between two passes, needs
    the order of time, and so do statistics of what was observed.
    """

    rollout: Rollout
    rewards: Array
    """(T, N) float32: the rollout's rewards, scaled if the config says so."""
    advantages: Array
    """(T, N) float32."""
    returns: Array
    """(T, N) float32: targets of the values."""
    segments: Segments


def make_batch(
    rollout: Rollout,
    *,
    rewards: Array,
    advantages: Array,
    returns: Array,
    segment: int,
) -> Batch:
    """Join a rollout with its estimates, (T, N) each, and cut it into segments of L = `segment`."""
    cut = functools.partial(cut_in_segments, segment=segment)
    device = rollout.values.device
    numbers = Transitions(
        log_probs=rollout.log_probs,
        advantages=torch.as_tensor(advantages, device=device),
        returns=torch.as_tensor(returns, device=device),
        values=rollout.values,
        weights=torch.as_tensor(~rollout.ghost, dtype=torch.float32, device=device),
    )
    states = rollout.states
    segments = Segments(
        observations=map_nested(cut, rollout.observations),
        starts=cut(rollout.starts),
        extras={key: cut(each) for key, each in rollout.extras.items()},
        states={key: torch.cat([state[key] for state in states]) for key in states[0]},
        actions=cut(rollout.actions),
        numbers=torch.stack([cut(each) for each in numbers]),
    )
    return Batch(rollout, rewards, advantages, returns, segments)


def cut_in_segments(leaf: Tensor, *, segment: int) -> Tensor:
    """(T, N, ...) -> (T/L * N, L, ...) with L = `segment`."""
    num_steps, num_envs, *shape = leaf.shape
    if segment == 1:
        return leaf.reshape(num_steps * num_envs, 1, *shape)  # (T*N, 1, ...), a view
    pieces = leaf.reshape(num_steps // segment, segment, num_envs, *shape)  # (S, L, N, ...)
    return pieces.transpose(1, 2).flatten(0, 1)  # (S*N, L, ...)


def join_segments(segments: Tensor, *, num_envs: int) -> Tensor:
    """(T/L * N, L) -> (T, N) with N = `num_envs`: the inverse of `cut_in_segments`."""
    length = segments.shape[1]
    pieces = segments.reshape(-1, num_envs, length).transpose(1, 2)  # (S, L, N)
    return pieces.reshape(-1, num_envs)  # (T, N)


def _narrow(leaf: Tensor, dim: int, *, start: int, count: int) -> Tensor:
    return leaf.narrow(dim, start, count)
