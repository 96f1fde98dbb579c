"""Observations brought to mean 0 and deviation 1 by running statistics that travel with the policy.

As VecNormalize of OpenAI baselines, https://github.com/openai/baselines; that it matters most of
PPO's details is found by Andrychowicz et al. 2021, https://arxiv.org/abs/2006.05990. It differs in
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
from puffer_policies.nested import leaves, map_nested
from puffer_policies.nn.moments import Moments, RunningMoments, moments_of, of_all_processes
from puffer_policies.nn.observations import holds_reals, leaf_spaces, require_keys, require_members
from puffer_policies.spaces import described
from puffer_policies.wrappers.base import PolicyWrapper

Reduce = Callable[[Moments], Moments]


class NormalizeObservationWrapper(PolicyWrapper):
    """A policy that sees (x - mean) / deviation, clipped, of what the env shows.

    Every leaf of the observation that is a Box of floats is normalised, element by element; images,
    integers and one-hot leaves pass as they are. Until `update_statistics` was called once, the
    mean is 0 and the deviation 1.

    Args:
        env: what the policy was built for.
        policy: the policy.
        clip: largest size of a normalised number.
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
                f"{type(policy).__name__!r} normalises observations already.",
                fix="Use one NormalizeObservationWrapper.",
            )
        if clip <= 0 or epsilon < 0:
            raise BuildError(f"clip={clip} should be above 0, epsilon={epsilon} not below.")
        self.clip, self.epsilon = float(clip), float(epsilon)
        spaces = leaf_spaces(self.spaces.observation)
        self.moments = nn.ModuleList(
            RunningMoments(leaf.shape) for leaf in leaves(spaces) if holds_reals(leaf)
        )
        if not self.moments:
            raise IncompatibleSpace(
                f"'NormalizeObservationWrapper' finds nothing to normalise in the observation "
                f"space {described(self.spaces.observation)}: no Box of floats that is no image.",
                fix="Leave the wrapper out: policies scale pixels themselves.",
            )
        self._places = _places(spaces)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """Normalise the leaves of real numbers: (N, *obs) or (B, T, *obs)."""
        return _mapped(self._normalised, observations, self._places)

    def update_statistics(self, observations: Any, *, reduce: Reduce | None = None) -> None:
        """Take observations into the statistics, for every forward pass from now on.

        Args:
            observations: (N, *obs) or (T, N, *obs), as the env showed them.
            reduce: combines a leaf's moments with those of the other processes; by default
                `of_all_processes`, which asks ``torch.distributed``.

        Raises:
            TrainingError: a number that is not finite; nothing has changed then.
        """
        reduce = of_all_processes if reduce is None else reduce
        found: list[tuple[RunningMoments, Moments]] = []

        def look(leaf: Tensor, place: int) -> Tensor:
            running = self._running(place)
            found.append((running, reduce(moments_of(leaf, running.shape))))
            return leaf

        _mapped(look, observations, self._places)
        for running, moments in found:
            running.merge(moments)
        super().update_statistics(observations)

    def _normalised(self, leaf: Tensor, place: int) -> Tensor:
        normalised = self._running(place).normalised(leaf, epsilon=self.epsilon)
        return normalised.clamp(-self.clip, self.clip)

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
