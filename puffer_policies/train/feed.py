"""What a policy is sent beside observations and episode starts: of all there is, what it reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.contract import ACTION_MASK, NEEDS_PREVIOUS, PREV_ACTION, PREV_REWARD
from puffer_policies.spaces import ActionLayout, action_layout
from puffer_policies.train.masking import MaskFeed
from puffer_policies.vector.protocol import VecEnv

Arrays = dict[str, np.ndarray]


class Previous:
    """The last action and reward of each of N envs; at an episode's start they mean nothing."""

    def __init__(self, layout: ActionLayout, num_agents: int) -> None:
        dtype = np.float32 if layout.is_continuous else np.int64
        self._actions = np.zeros((num_agents, *layout.policy_shape), dtype)
        self._rewards = np.zeros(num_agents, np.float32)

    def now(self) -> Arrays:
        """Return both by their state keys; actions as the policy drew them, rewards raw."""
        return {PREV_ACTION: self._actions, PREV_REWARD: self._rewards}

    def took(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Remember a step."""
        np.copyto(self._actions, actions.reshape(self._actions.shape))
        np.copyto(self._rewards, rewards, casting="unsafe")


class Feed:
    """What `policy` reads of action masks and of the last actions and rewards in `vecenv`."""

    def __init__(self, vecenv: VecEnv, policy: nn.Module) -> None:
        self.masks = MaskFeed(vecenv, policy)
        layout = action_layout(vecenv.single_action_space)
        self._previous = previous_of(policy, layout, vecenv.num_agents)

    def now(self) -> Arrays:
        """Return what belongs to the observations that the envs showed last, (N, ...) by state key.

        Raises:
            EnvError: a mask that makes no sense.
        """
        masks = self.masks.now()
        shown = {} if masks is None else {ACTION_MASK: masks}
        return shown if self._previous is None else {**shown, **self._previous.now()}

    def took(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Remember a step: actions (N, ...) as the policy drew them, rewards (N,)."""
        if self._previous is not None:
            self._previous.took(actions, rewards)


def previous_of(policy: nn.Module, layout: ActionLayout, num_agents: int) -> Previous | None:
    """Return the place of last actions and rewards, if something in `policy` reads them."""
    reads = any(getattr(module, NEEDS_PREVIOUS, False) for module in policy.modules())
    return Previous(layout, num_agents) if reads else None


def on_device(sent: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Return copies of what is sent, as tensors."""
    return {key: torch.from_numpy(each).to(device, copy=True) for key, each in sent.items()}
