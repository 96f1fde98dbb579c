"""Which action masks a rollout and an evaluation send to the policy."""

from __future__ import annotations

import warnings

import numpy as np
from torch import nn

from puffer_policies.contract import NEEDS_MASK
from puffer_policies.vector.protocol import VecEnv


class MaskFeed:
    """The masks of `vecenv`, if something in `policy` reads masks.

    Else they are not looked at, so that a wrong one that nobody reads can do no harm.
    """

    def __init__(self, vecenv: VecEnv, policy: nn.Module) -> None:
        self._vecenv = vecenv
        self._reads = any(getattr(module, NEEDS_MASK, False) for module in policy.modules())

    def now(self) -> np.ndarray | None:
        """Return the masks (N, A) of what the envs showed last; None if none are to be sent.

        Raises:
            EnvError: a mask that makes no sense.
        """
        return self._vecenv.action_masks if self._reads else None

    def warn_if_unread(self) -> None:
        """Say it, where the envs give masks in vain."""
        if not self._reads and self._vecenv.action_masks is not None:
            warnings.warn(
                "The env gives action masks, and nothing in the policy reads them: illegal actions "
                "will be taken. Use ActionMaskWrapper around it; or set needs_mask = True in a "
                "policy that reads state['action_mask'] by itself.",
                stacklevel=3,
            )
