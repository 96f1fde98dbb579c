"""Inputs of a policy besides observations and episode starts: masks, last actions and rewards.

`N` envs. Whatever a policy does not read is not computed, copied or checked for it.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from puffer_policies.contract import (
    ACTION_MASK,
    NEEDS_MASK,
    NEEDS_PREVIOUS,
    PREV_ACTION,
    PREV_REWARD,
    any_module_has,
)
from puffer_policies.spaces import ActionLayout, action_layout
from puffer_policies.train.arrays import zeros
from puffer_policies.vector.protocol import Array, VecEnv, device_of

Arrays = dict[str, Array]


class Feed:
    """The action masks, last actions and rewards of `vecenv`, so far as `policy` reads them."""

    def __init__(self, vecenv: VecEnv, policy: nn.Module) -> None:
        self._vecenv = vecenv
        self._reads_masks = any_module_has(policy, NEEDS_MASK)
        # Only for a policy that reads them: PufferLib's policies know no such keys.
        self._previous = previous_of(
            policy,
            action_layout(vecenv.single_action_space),
            vecenv.num_agents,
            device=device_of(vecenv),
        )

    def extras(self) -> Arrays:
        """Return the extras that belong to the latest observations, (N, ...) by state key.

        Raises:
            EnvError: a mask that allows nothing, or has the wrong shape.
        """
        # Masks that the policy does not read are not looked at, so a wrong one can do no harm.
        masks = self._vecenv.action_masks if self._reads_masks else None
        extras = {} if masks is None else {ACTION_MASK: masks}
        return extras if self._previous is None else {**extras, **self._previous.extras()}

    def update(self, actions: Array, rewards: Array) -> None:
        """Remember a step: actions (N, ...) as the policy chose them, rewards (N,)."""
        if self._previous is not None:
            self._previous.update(actions, rewards)

    def warn_if_masks_are_unread(self) -> None:
        """Warn where the envs give masks that the policy does not read."""
        if not self._reads_masks and self._vecenv.action_masks is not None:
            warnings.warn(
                "The env gives action masks, and nothing in the policy reads them: illegal actions "
                "will be taken. Use ActionMaskWrapper around it; or set needs_mask = True in a "
                "policy that reads state['action_mask'] by itself.",
                stacklevel=3,
            )


class Previous:
    """The last action and reward of each of N envs; at an episode's start they mean nothing.

    They are tensors on `device`, or NumPy arrays if it is None.
    """

    def __init__(
        self, layout: ActionLayout, num_agents: int, *, device: torch.device | None = None
    ) -> None:
        shape = (num_agents, *layout.policy_shape)
        self._actions = zeros(shape, layout.policy_dtype, device)
        self._rewards = zeros(num_agents, "float32", device)

    def extras(self) -> Arrays:
        """Return both by their state keys; actions as the policy chose them, rewards raw."""
        # Not copied: whoever reads them copies them, before the next step.
        return {PREV_ACTION: self._actions, PREV_REWARD: self._rewards}

    def update(self, actions: Array, rewards: Array) -> None:
        """Remember a step."""
        self._actions[...] = actions.reshape(self._actions.shape)
        self._rewards[...] = rewards  # those of float64 become float32


def previous_of(
    policy: nn.Module, layout: ActionLayout, num_agents: int, *, device: torch.device | None = None
) -> Previous | None:
    """Return a memory of last actions and rewards, if something in `policy` reads them."""
    if not any_module_has(policy, NEEDS_PREVIOUS):
        return None
    return Previous(layout, num_agents, device=device)


def on_device(extras: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Return copies of `extras` as tensors."""
    return {key: torch.as_tensor(each).to(device, copy=True) for key, each in extras.items()}
