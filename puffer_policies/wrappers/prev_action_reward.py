"""The last action and its reward beside the observation, from which a memory can learn to learn.

Duan et al. 2016, RL^2, https://arxiv.org/abs/1611.02779; Wang et al. 2016,
https://arxiv.org/abs/1611.05763. It has no flag for the start of an episode, as the
memory is reset there. `N` rows, `A` numbers that describe an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START, PREV_ACTION, PREV_REWARD, State
from puffer_policies.errors import BuildError, ContractError
from puffer_policies.nn.features import OneHotFeatures
from puffer_policies.nn.moments import RunningMoments
from puffer_policies.nn.observations import Shape, batch_layout, require_tensor
from puffer_policies.spaces import ActionLayout, Spaces, action_layout, observation_kind
from puffer_policies.spaces.nested import leaves
from puffer_policies.wrappers.base import PolicyWrapper, episode_starts

OBSERVATION = "observation"
"""Key of the observation in the Dict that a policy sees; the others are the state's keys."""


class PrevActionRewardWrapper(PolicyWrapper):
    """A policy that sees its last action and the reward of it.

    Choices are one-hot side by side, before real numbers as they were drawn; rewards as the env
    returned them. All are 0 where an episode starts, and where the state has no ``prev_action``.
    They are appended to a vector; every other observation becomes a Dict of it and them.

    Args:
        env: the env of the whole stack.
        policy: built for the spaces that `wrapped_spaces` returns.

    Raises:
        BuildError: the policy normalizes its observations, whose statistics lack the last rewards.
    """

    needs_previous = True
    columns: Tensor | None

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__(env, policy)
        if any(isinstance(each, RunningMoments) for each in policy.modules()):
            raise BuildError(
                "'PrevActionRewardWrapper' can't go around a policy that normalizes observations: "
                "its statistics are of the env's observations, which have no last actions.",
                fix="Normalize around it: "
                "NormalizeObservationWrapper(PrevActionRewardWrapper(...)).",
            )
        layout = action_layout(self.spaces.action)
        self._action_shape = layout.policy_shape
        self._size = _size(layout)
        self.one_hot = _one_hot(layout) if layout.nvec else None
        self._num_reals = layout.num_reals
        # Only an action that has both needs to be taken apart.
        columns = _columns(layout) if layout.nvec and layout.num_reals else None
        self.register_buffer("columns", columns, persistent=False)
        self._rows = batch_layout(self.spaces.observation)
        self._appended = observation_kind(self.spaces.observation) == "vector"

    @staticmethod
    def wrapped_spaces(spaces: Spaces) -> Spaces:
        """Return the spaces of the wrapped policy: a longer vector, or a Dict."""
        space: Any = spaces.observation
        action, reward = _action_box(action_layout(spaces.action)), _unbounded(1)
        if observation_kind(space) == "vector":
            return Spaces(_side_by_side((space, action, reward)), spaces.action)
        parts = {OBSERVATION: space, PREV_ACTION: action, PREV_REWARD: reward}
        return Spaces(gym_spaces.Dict(parts), spaces.action)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """(N, *obs) or (B, T, *obs) -> the same batch axes, with the last action and reward."""
        flat, batch = self._rows.flatten(observations)
        rows, device = math.prod(batch), next(leaves(flat)).device
        action, reward = self._previous({} if state is None else state, rows, device)  # (N, ...)
        action, reward = action.reshape(*batch, -1), reward.reshape(*batch, 1)
        if self._appended:
            return torch.cat([observations.float(), action, reward], -1)
        return {OBSERVATION: observations, PREV_ACTION: action, PREV_REWARD: reward}

    def _previous(self, state: State, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the last actions as numbers (N, A) and their rewards (N,)."""
        action, reward = state.get(PREV_ACTION), state.get(PREV_REWARD)
        if action is None or reward is None:
            return torch.zeros(rows, self._size, device=device), torch.zeros(rows, device=device)
        _require_rows(action, PREV_ACTION, (rows, *self._action_shape))
        _require_rows(reward, PREV_REWARD, (rows,))
        action = self._as_numbers(action.reshape(rows, *self._action_shape))
        reward = reward.reshape(rows).float()
        starts = self._starts(state, rows, device)
        if starts is None:
            return action.float(), reward
        # Filled, not multiplied by zero: the last reward of an episode may not be finite.
        return action.float().masked_fill(starts.unsqueeze(-1), 0), reward.masked_fill(starts, 0)

    def _as_numbers(self, action: Tensor) -> Tensor:
        """(N, ...) actions of the policy -> (N, A)."""
        if self.one_hot is None:
            return action.reshape(action.shape[0], -1)
        if self.columns is None:
            codes: Tensor = self.one_hot(action)
            return codes
        ordered = action.index_select(1, self.columns)
        choices, reals = ordered.tensor_split([ordered.shape[1] - self._num_reals], 1)
        return torch.cat([self.one_hot(choices), reals], -1)

    @staticmethod
    def _starts(state: State, rows: int, device: torch.device) -> Tensor | None:
        """Return the episode starts of N rows, (N,), or None if the state has none."""
        starts = state.get(EPISODE_START)
        if starts is None:
            return None
        # Inside a memory rows are B*T, and only the starts tell how many of them are one sequence.
        count = starts.shape[0]
        batch = (count, 1 if rows == count else rows // max(count, 1))
        starts = episode_starts(state, batch, device)
        return None if starts is None else starts.reshape(rows)


def _require_rows(values: Tensor, key: str, shape: Shape) -> None:
    require_tensor(values, f"state[{key!r}]")
    if values.numel() != math.prod(shape):
        raise ContractError(
            f"state[{key!r}] has shape {tuple(values.shape)}; expected one for each of {shape[0]} "
            f"observations, {shape[1:]} each.",
            fix="Send (B, ...) with a step and (B, T, ...) with a sequence.",
        )


def _size(layout: ActionLayout) -> int:
    """Return A."""
    return sum(layout.nvec) + layout.num_reals


def _one_hot(layout: ActionLayout) -> OneHotFeatures:
    # Policies count options from 0, whatever the space's start.
    start = np.zeros(len(layout.nvec), dtype=np.int64)
    shape = (len(layout.nvec),) if layout.parts else layout.policy_shape
    return OneHotFeatures(shape, layout.nvec, start)


def _columns(layout: ActionLayout) -> Tensor:
    """Return the columns of an action that are choices, and after them those of real numbers."""
    leaves = list(layout.leaves())
    # Stable, so that choices and real numbers each stay in the order of the layout.
    ordered = sorted(leaves, key=lambda each: each[1].is_continuous)
    return torch.cat([torch.arange(place.start, place.stop) for _, _, place in ordered])


def _action_box(layout: ActionLayout) -> gym_spaces.Box:
    """Return the space of actions as numbers: real ones are not clipped, so they have no bounds."""
    if not layout.num_reals:
        return gym_spaces.Box(0.0, 1.0, (_size(layout),), np.float32)
    reals = _unbounded(layout.num_reals)
    codes = gym_spaces.Box(0.0, 1.0, (sum(layout.nvec),), np.float32)
    return _side_by_side((codes, reals)) if layout.nvec else reals


def _unbounded(size: int) -> gym_spaces.Box:
    return gym_spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _side_by_side(boxes: Sequence[Any]) -> gym_spaces.Box:
    low, high = (
        np.concatenate([np.asarray(bound, np.float32) for bound in bounds])
        for bounds in zip(*((each.low, each.high) for each in boxes), strict=True)
    )
    return gym_spaces.Box(low, high, dtype=np.float32)
