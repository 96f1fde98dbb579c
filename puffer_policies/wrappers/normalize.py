"""Observations of mean 0 and deviation 1, by running statistics that are part of the policy.

This is VecNormalize of OpenAI baselines, https://github.com/openai/baselines. Andrychowicz et al.
2021, https://arxiv.org/abs/2006.05990, find that it matters most of PPO's details. It differs in
two ways: the statistics are buffers of the policy, so that every copy and file of it has them, and
a forward pass never changes them, so that the update scores what the rollout saw. `N` rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from puffer_policies.contract import State
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.moments import Moments, RunningMoments, moments_of, of_all_processes
from puffer_policies.nn.observations import (
    holds_reals,
    leaf_spaces,
    members_of,
    require_keys,
    require_members,
    require_tensor,
)
from puffer_policies.spaces import described
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.wrappers.base import Actor, PolicyWrapper

Reduce = Callable[[Moments], Moments]


class NormalizeObservationWrapper(PolicyWrapper):
    """A policy that sees (x - mean) / deviation, clipped, of the env's observations.

    Every leaf of the observation that is a Box of floats is normalized, element by element; images,
    integers and one-hot leaves pass as they are. Before the first call of
    `update_statistics` the mean is 0 and the deviation 1.

    Args:
        env: what the policy was built for.
        policy: the policy.
        clip: largest absolute value of a normalized number.
        epsilon: added to the variance before its root is taken.

    Raises:
        IncompatibleSpace: the observation has no leaf of real numbers.
    """

    def __init__(
        self, env: Any, policy: nn.Module, *, clip: float = 10.0, epsilon: float = 1e-8
    ) -> None:
        super().__init__(env, policy)
        if any(isinstance(each, NormalizeObservationWrapper) for each in policy.modules()):
            raise BuildError(
                f"{type(policy).__name__!r} normalizes observations already.",
                fix="Use one NormalizeObservationWrapper.",
            )
        if clip <= 0 or epsilon < 0:
            raise BuildError(f"clip={clip} should be above 0, and epsilon={epsilon} not below 0.")
        self.clip, self.epsilon = float(clip), float(epsilon)
        spaces = leaf_spaces(self.spaces.observation)
        self.moments = nn.ModuleList(
            RunningMoments(leaf.shape) for leaf in leaves(spaces) if holds_reals(leaf)
        )
        if not self.moments:
            raise IncompatibleSpace(
                f"'NormalizeObservationWrapper' finds nothing to normalize in the observation "
                f"space {described(self.spaces.observation)}, which has no Box of floats but "
                "images.",
                fix="Leave the wrapper out: policies scale pixels themselves.",
            )
        self._places = _places(spaces)

    def actor_alone(self) -> Actor:
        """Return what acts, with the statistics of what it sees."""
        alone = super().actor_alone()
        if alone.is_part:
            keys = members_of(alone.spaces.observation)
            twin: Any = alone.policy
            twin._places = {key: self._places[key] for key in keys}
        return alone

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """Normalize the leaves of real numbers: (N, *obs) or (B, T, *obs)."""
        return _mapped(self._normalize, observations, self._places)

    def update_statistics(self, observations: Any, *, reduce: Reduce | None = None) -> None:
        """Add observations to the statistics, for every forward pass from now on.

        Args:
            observations: (N, *obs) or (T, N, *obs), as the env returned them.
            reduce: combines a leaf's moments with those of the other processes; by default
                `of_all_processes`, which asks ``torch.distributed``.

        Raises:
            TrainingError: a number that is not finite; the statistics stay as they were.
        """
        reduce = of_all_processes if reduce is None else reduce
        # All samples are measured before any statistics change, so that a number that is not finite
        # in one leaf leaves all of them as they were.
        updates: list[tuple[RunningMoments, Moments]] = []

        def measure(leaf: Tensor, place: int) -> Tensor:
            require_tensor(leaf)
            running = self._running(place)
            updates.append((running, reduce(moments_of(leaf, running.shape))))
            return leaf

        _mapped(measure, observations, self._places)
        for running, moments in updates:
            running.merge(moments)
        super().update_statistics(observations)

    def _normalize(self, leaf: Tensor, place: int) -> Tensor:
        require_tensor(leaf)
        normalized = self._running(place).normalize(leaf, epsilon=self.epsilon)
        return normalized.clamp(-self.clip, self.clip)

    def _running(self, place: int) -> RunningMoments:
        running = self.moments[place]
        assert isinstance(running, RunningMoments)
        return running


def _places(spaces: Any) -> Any:
    """Number the leaves of real numbers, in the order of sorted keys; None stands for others."""
    numbers = itertools.count()
    return map_nested(lambda leaf: next(numbers) if holds_reals(leaf) else None, spaces)


def _mapped(function: Callable[[Tensor, int], Tensor], observations: Any, places: Any) -> Any:
    """Apply `function` to the leaves that have a number, and leave the others as they are."""
    if isinstance(places, dict):
        require_keys(observations, tuple(places))
        return {key: _mapped(function, each, places[key]) for key, each in observations.items()}
    if isinstance(places, tuple):
        require_members(observations, len(places))
        pairs = zip(observations, places, strict=True)
        return tuple(_mapped(function, member, place) for member, place in pairs)
    return observations if places is None else function(observations, places)
