"""Actions inside their Box, by a tanh over the Gaussian of any policy.

Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, appendix C. Where the env
clips a Gaussian, all of its mass beyond a bound is on that bound, which the log-probability does
not know. Here no mass is beyond a bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.contract import State
from puffer_policies.errors import ContractError, IncompatibleSpace
from puffer_policies.nn.distributions import SquashedNormal
from puffer_policies.spaces import Spaces, action_layout, described
from puffer_policies.wrappers.base import PolicyWrapper


class SquashedGaussianWrapper(PolicyWrapper):
    """A policy whose Normal is squashed by tanh and scaled to the bounds of the action space.

    Its logits are a `SquashedNormal`; the mean and the deviation are the wrapped policy's.

    Args:
        env: the env of the policy.
        policy: has a Normal as its logits.

    Raises:
        IncompatibleSpace: actions that are choices, or have no finite bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__(env, policy)
        self.wrapped_spaces(self.spaces)
        layout = action_layout(self.spaces.action)
        # Constants of the space: a checkpoint need not hold them.
        for name, bound in (("low", layout.low), ("high", layout.high)):
            number = torch.from_numpy(np.asarray(bound, dtype=np.float32).copy())
            self.register_buffer(name, number, persistent=False)

    @staticmethod
    def wrapped_spaces(spaces: Spaces) -> Spaces:
        """Return the spaces of the wrapped policy: the same, if actions have bounds."""
        layout = action_layout(spaces.action)
        if not layout.is_continuous:
            raise _unfit(spaces, "its actions are choices, not real numbers")
        if not (np.isfinite(layout.low).all() and np.isfinite(layout.high).all()):  # type: ignore[arg-type]
            raise _unfit(spaces, "it has no finite bounds to squash between")
        return spaces

    def transform_logits(self, logits: Any, state: State | None) -> SquashedNormal:
        """Squash a Normal with loc and scale (N, *shape)."""
        if not isinstance(logits, Normal) or isinstance(logits, SquashedNormal):
            raise ContractError(
                f"'SquashedGaussianWrapper' got logits of type {type(logits).__name__!r}.",
                fix="Put it around a policy whose logits are a torch.distributions.Normal.",
            )
        return SquashedNormal(logits.loc, logits.scale, self.low, self.high)


def _unfit(spaces: Spaces, reason: str) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"'SquashedGaussianWrapper' does not fit the action space {described(spaces.action)}: "
        f"{reason}.",
        fix="Leave the wrapper out.",
    )
