"""Actions inside their Box, by a tanh over the Gaussian of any policy.

Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, appendix C. Where the env
clips a Gaussian, all of its mass beyond a bound is on that bound, which the log-probability does
not know. Here no mass is beyond a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.contract import State
from puffer_policies.errors import ContractError, IncompatibleSpace
from puffer_policies.nn.distributions import SquashedNormal
from puffer_policies.spaces import ActionLayout, Spaces, action_layout, described
from puffer_policies.wrappers.base import PolicyWrapper


class SquashedGaussianWrapper(PolicyWrapper):
    """A policy whose Normal is squashed by tanh and scaled to the bounds of the action space.

    Its logits are a `SquashedNormal`; the mean and the deviation are the wrapped policy's. In a
    Dict or Tuple every part of real numbers is squashed, and choices stay as they are.

    Args:
        env: the env of the policy.
        policy: has a Normal as its logits, or as some of their parts.

    Raises:
        IncompatibleSpace: actions that are choices, or have no finite bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__(env, policy)
        self.wrapped_spaces(self.spaces)
        reals = _reals(self.spaces)
        self._shapes = [each.shape for each in reals]
        self._sizes = [each.num_reals for each in reals]
        # Constants of the space: a checkpoint need not hold them.
        for name in ("low", "high"):
            bounds = [np.asarray(getattr(each, name), dtype=np.float32) for each in reals]
            numbers = np.concatenate([each.reshape(-1) for each in bounds])
            self.register_buffer(name, torch.from_numpy(numbers), persistent=False)

    @staticmethod
    def wrapped_spaces(spaces: Spaces) -> Spaces:
        """Return the spaces of the wrapped policy: the same, if actions have bounds."""
        reals = _reals(spaces)
        if not reals:
            raise _unfit(spaces, "its actions are choices, not real numbers")
        if not all(np.isfinite(bound).all() for each in reals for bound in (each.low, each.high)):  # type: ignore[arg-type]
            raise _unfit(spaces, "it has no finite bounds to squash between")
        return spaces

    def transform_logits(self, logits: Any, state: State | None) -> Any:
        """Squash every Normal with loc and scale (N, *shape)."""
        lows, highs = (each.split_with_sizes(self._sizes) for each in (self.low, self.high))
        bounds = [
            (low.reshape(shape), high.reshape(shape))
            for low, high, shape in zip(lows, highs, self._shapes, strict=True)
        ]
        if self.is_continuous:
            return _squashed(logits, *bounds[0])
        return _parts_squashed(logits, iter(bounds))


def _reals(spaces: Spaces) -> list[ActionLayout]:
    """Return the layouts of the parts that are real numbers; of a Box, its own."""
    return [leaf for _, leaf, _ in action_layout(spaces.action).leaves() if leaf.is_continuous]


def _squashed(logits: Any, low: Tensor, high: Tensor) -> SquashedNormal:
    if not isinstance(logits, Normal) or isinstance(logits, SquashedNormal):
        raise ContractError(
            f"'SquashedGaussianWrapper' got logits of type {type(logits).__name__!r}.",
            fix="Put it around a policy whose logits are a torch.distributions.Normal.",
        )
    return SquashedNormal(logits.loc, logits.scale, low, high)


def _parts_squashed(logits: Any, bounds: Iterator[tuple[Tensor, Tensor]]) -> Any:
    """Return logits of several parts with every Normal squashed between the next bounds."""
    if isinstance(logits, dict):
        # Bounds come in the order of `ActionLayout`, whatever the order of a policy's keys is.
        return {key: _parts_squashed(logits[key], bounds) for key in sorted(logits, key=str)}
    if isinstance(logits, tuple | list):
        return tuple(_parts_squashed(each, bounds) for each in logits)
    return logits if isinstance(logits, Tensor) else _squashed(logits, *next(bounds))


def _unfit(spaces: Spaces, reason: str) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"'SquashedGaussianWrapper' does not fit the action space {described(spaces.action)}: "
        f"{reason}.",
        fix="Leave the wrapper out.",
    )
