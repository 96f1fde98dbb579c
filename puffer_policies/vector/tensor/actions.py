"""Actions of a policy as members of the action space, on a device: `ActionLayout.to_env` in torch.

Bounds and first options are copied to the device once, so that no step waits for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.spaces import ActionLayout


class TensorActions:
    """Maps (N, ...) actions of a policy to (N, *shape) members of the space, where they are.

    Args:
        layout: of the space.
        device: of the actions.
    """

    def __init__(self, layout: ActionLayout, device: torch.device) -> None:
        self._layout = layout
        self._parts = {key: TensorActions(each, device) for key, each in layout.parts.items()}
        self._dtype = torch.from_numpy(np.zeros(0, layout.dtype)).dtype
        self._start = self._low = self._high = None
        if layout.nvec and layout.start is not None and layout.start.any():
            self._start = torch.from_numpy(layout.start.copy()).to(device)
        low, high = layout.low, layout.high
        # Isaac Lab's bounds are infinite: there is nothing to clip.
        if low is not None and high is not None and np.isfinite([low, high]).any():
            self._low = torch.from_numpy(low.astype(np.float32)).to(device)
            self._high = torch.from_numpy(high.astype(np.float32)).to(device)

    def to_env(self, actions: Tensor) -> Any:
        """Return members of the space; those of a Dict or Tuple as a dict or tuple of its parts.

        They share no memory with `actions`.
        """
        layout = self._layout
        if self._parts:
            return self._members(actions)
        members = actions.reshape(len(actions), *layout.shape)
        if self._low is not None:
            # Clipped here and not in the policy: log-probabilities are of the unclipped actions.
            return torch.clamp(members, self._low, self._high).to(self._dtype)
        if self._start is not None:
            return (members.long() + self._start).to(self._dtype)
        # A copy, because envs scale and clamp actions in place, and the rollout keeps these.
        return members.to(self._dtype, copy=True)

    def _members(self, actions: Tensor) -> Any:
        members, first = {}, 0
        for key, part in self._parts.items():
            width = math.prod(part._layout.policy_shape)
            members[key] = part.to_env(actions[:, first : first + width])
            first += width
        return members if self._layout.kind == "dict" else tuple(members.values())
