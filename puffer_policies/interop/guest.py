"""A policy of ours in the trainer of another library: what every adapter does with it.

`N` rows of a batch, `B` envs or sequences, `T` steps, `S` numbers of the state of a row, `A`
options of all choices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.assembly.factory import get_policy
from puffer_policies.contract import (
    ACTION_MASK,
    EPISODE_START,
    NEEDS_PREVIOUS,
    PREV_ACTION,
    any_module_has,
)
from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.errors import BuildError
from puffer_policies.interop.heads import device_of, one_action
from puffer_policies.nn.distributions import Distribution, distribution
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.nn.packed_state import PackedState
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import map_nested
from puffer_policies.wrappers.action_mask import mask_keys, mask_logits
from puffer_policies.wrappers.base import PolicyWrapper
from puffer_policies.wrappers.frame_stack import FrameStackWrapper
from puffer_policies.wrappers.separate_critic import SeparateCriticWrapper


class Guest:
    """A policy, and what a trainer of others asks of it.

    Args:
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class; or
            what it has built.
        spaces: of the env, as the library leaves them.
        library: its name, for errors.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the actions are a Dict or a Tuple.
    """

    policy: nn.Module
    """As `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    packed: PackedState
    """The order of its state in one tensor (B, S), where a library carries tensors of its own."""

    def __init__(self, policy: PolicyLike | nn.Module, spaces: Spaces, *, library: str) -> None:
        self.layout = one_action(spaces.action, library)
        self.policy = policy if isinstance(policy, nn.Module) else get_policy(policy, spaces)
        self.spaces, self.library = spaces, library
        self.packed = PackedState.of(self._initial(1))
        self._leaves = leaf_spaces(spaces.observation)
        self._seen: list[Any] | None = [] if _keeps_statistics(self.policy) else None
        self._has_learned = False

    # -- what a library has to send ----------------------------------------------------------------

    @property
    def reads_mask(self) -> bool:
        """Whether the policy reads a mask from its state."""
        return None in mask_keys(self.policy)

    def require_no_memory(self, algorithm: str, *, fix: str) -> None:
        """Raise `BuildError` where the policy has a memory, which `algorithm` does not carry."""
        if self.packed.size:
            problem = f"{self.policy.spec} has a memory, and {algorithm} carries none."
            raise BuildError(problem, fix=fix)

    def require_no_previous(self) -> None:
        """Raise `BuildError` where the policy reads the last action and reward."""
        if any_module_has(self.policy, NEEDS_PREVIOUS):
            raise BuildError(
                f"{self.policy.spec} reads {PREV_ACTION}, and {self.library} does not send it.",
                fix="Put the last action and reward into the observation, in a wrapper of the env.",
            )

    def require_mask_observed(self, other: str = "") -> None:
        """Raise `BuildError` where the policy reads a mask that is not in the observation.

        Args:
            other: another way to have masks there, as a sentence.
        """
        if self.reads_mask:
            fix = "Give it in a Dict observation: ActionMaskWrapper(key='action_mask')."
            raise BuildError(
                f"{self.policy.spec} reads an {ACTION_MASK}, and {self.library} sends none.",
                fix=f"{fix} {other}".strip(),
            )

    def require_reset_in_step(self, envs: Any) -> None:
        """Raise `BuildError` where a memory would see the last observation of another episode.

        Such libraries take the observation after an end as the first of the next episode, and envs
        that reset in a step of their own show the last observation there.
        """
        mode = (getattr(envs, "metadata", None) or {}).get("autoreset_mode")
        if self.packed.size and mode == AutoresetMode.NEXT_STEP:
            raise BuildError(
                f"These envs reset in the step after the end, and {self.library} starts an episode "
                "at the end: the memory would begin with the last observation of another episode.",
                fix="Make them with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP.",
            )

    def require_no_statistics(self, *, fix: str) -> None:
        """Raise `BuildError` where the policy keeps statistics, which the library never updates."""
        if self._seen is not None:
            raise BuildError(
                f"{self.policy.spec} keeps statistics of its observations, and {self.library} has "
                "no moment between an update and the next rollout to update them.",
                fix=fix,
            )

    # -- memory ------------------------------------------------------------------------------------

    def initial_state(self, rows: int) -> Tensor:
        """Return the state (B, S) in which an episode starts."""
        return self.packed.pack(self._initial(rows)) if self.packed.size else torch.empty(rows, 0)

    def step(
        self, obs: Any, packed: Tensor, episode_start: Tensor, mask: Tensor | None = None
    ) -> tuple[Any, Tensor, Tensor]:
        """Take a step of B envs -> logits, values (B, 1) and the next state (B, S).

        Args:
            obs: (B, *obs).
            packed: (B, S).
            episode_start: (B,), where the memory of a row begins anew before this step.
            mask: (B, A), true where an option is allowed. A policy that reads masks gets it in its
                state; of any other it is applied to the logits.
        """
        state = self._state(packed, episode_start, mask)
        logits, values = self.policy.forward_eval(obs, state)  # type: ignore[operator]
        after = self.packed.pack(state) if self.packed.size else packed
        return self._allowed(logits, mask), values, after

    def sequences(
        self, obs: Any, packed: Tensor, episode_start: Tensor, mask: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """Return the logits of B * T rows, where row b * T + t is step t, and values (B * T, 1).

        Args:
            obs: (B * T, *obs), in the same order.
            packed: (B, S), before the first step.
            episode_start: (B, T).
            mask: (B * T, A), as of `step`.
        """
        return self._sequences(obs, packed, episode_start, mask)[:2]

    def _sequences(
        self, obs: Any, packed: Tensor, starts: Tensor, mask: Tensor | None
    ) -> tuple[Any, Tensor, Tensor]:
        state = self._state(packed, starts, mask)
        if self.packed.size:
            batch = starts.shape
            obs = map_nested(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), obs)
            if ACTION_MASK in state:
                state[ACTION_MASK] = state[ACTION_MASK].reshape(*batch, -1)
        logits, values = self.policy(obs, state)
        after = self.packed.pack(state) if self.packed.size else packed
        return self._allowed(logits, mask), values.reshape(-1, 1), after

    def _state(self, packed: Tensor, starts: Tensor, mask: Tensor | None) -> dict[str, Any]:
        state = dict[str, Any]()
        if self.packed.size:
            state = {**self.packed.unpack(packed), EPISODE_START: starts > 0}
        if mask is not None and self.reads_mask:
            state[ACTION_MASK] = mask
        return state

    def _allowed(self, logits: Any, mask: Tensor | None) -> Any:
        return logits if mask is None or self.reads_mask else mask_logits(logits, mask)

    # -- a memory that the library begins with zeros -----------------------------------------------
    #
    # Zeros are not the beginning of every memory. So the tensor that such a library carries has one
    # number more, in front: the steps since the episode started. 0 resets the memory.

    @property
    def carry_size(self) -> int:
        """1 + S: the width of the tensor that a library carries which begins with zeros."""
        return 1 + self.packed.size

    def carry_step(
        self, obs: Any, carry: Tensor, episode_start: Tensor, mask: Tensor | None = None
    ) -> tuple[Any, Tensor, Tensor]:
        """Take a `step` with (B, 1 + S) -> logits, values (B, 1) and the next (B, 1 + S)."""
        starts = (episode_start > 0) | (carry[:, 0] == 0)
        logits, values, packed = self.step(obs, carry[:, 1:], starts, mask)
        steps = torch.where(starts, 0, carry[:, 0]) + 1
        return logits, values, torch.cat([steps.unsqueeze(1), packed], 1)

    def carry_sequences(
        self, obs: Any, carry: Tensor, episode_start: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """Run `sequences` from (B, 1 + S) -> logits, values (B * T, 1) and the next (B, 1 + S)."""
        starts = episode_start > 0
        starts = torch.cat([starts[:, :1] | (carry[:, :1] == 0), starts[:, 1:]], 1)  # (B, T)
        logits, values, packed = self._sequences(obs, carry[:, 1:], starts, None)
        time = starts.shape[1]
        begun = torch.arange(time, device=starts.device) * starts  # (B, T), the steps of starts
        steps = torch.where(starts.any(1), 0, carry[:, 0]) + time - begun.amax(1)
        return logits, values, torch.cat([steps.unsqueeze(1), packed], 1)

    def _initial(self, rows: int) -> dict[str, Tensor]:
        initial_state = getattr(self.policy, "initial_state", None)
        return initial_state(rows, device_of(self.policy)) if callable(initial_state) else {}

    # -- statistics --------------------------------------------------------------------------------

    def see(self, obs: Any) -> None:
        """Keep observations of a rollout, (N, *obs), where the policy keeps statistics of them."""
        if self._seen is not None:
            self._seen.append(map_nested(torch.clone, obs))

    def switch(self, *, learning: bool) -> None:
        """Tell whether an update or a rollout goes on, as often as it is known.

        Where a rollout follows an update, the policy takes over its statistics.
        """
        if self._has_learned and not learning:
            self.update_statistics()
        self._has_learned = learning

    def update_statistics(self) -> None:
        """Let the policy take over the statistics of what it has seen since the last time.

        To be called between an update and the next rollout: in the midst of either, the ratio of
        PPO would not be 1 for an unchanged policy.
        """
        if self._seen:
            together = map_nested(lambda *rows: torch.cat(rows), *self._seen)
            self._seen = []
            with torch.no_grad():
                self.policy.update_statistics(together)  # type: ignore[operator]

    # -- observations and actions ------------------------------------------------------------------

    def allowing(self, obs: Any) -> Any:
        """Return observations (N, *obs) whose masks allow something: those of padding do not."""
        for key in mask_keys(self.policy) - {None}:
            mask = obs[key]
            obs = {**obs, key: torch.where((mask > 0).any(-1, keepdim=True), mask, 1)}
        return obs

    def rows(self, obs: Any) -> Any:
        """Return observations as (N, *obs), where a library adds axes or takes them away."""
        return map_nested(lambda own, leaf: leaf.reshape(-1, *own.shape), self._leaves, obs)

    def members(self, actions: Tensor) -> Tensor:
        """(N, ...) actions of the policy -> (N, *shape) members of the action space."""
        members = actions.reshape(-1, *self.layout.shape)
        if self.layout.is_continuous:
            return members  # the library clips them, and stores the unclipped ones
        return members + self._start(members.device)

    def actions(self, members: Tensor) -> Tensor:
        """Return the actions of the policy: the inverse of `members`, of any dtype."""
        shape = (len(members), *self.layout.policy_shape)
        if self.layout.is_continuous:
            return members.reshape(shape)
        # Buffers hold choices as float32.
        choices = members.reshape(-1, *self.layout.shape).long()
        return (choices - self._start(members.device)).reshape(shape)

    def _start(self, device: torch.device) -> Tensor:
        return torch.as_tensor(np.array(self.layout.start), device=device)

    def choose(self, logits: Any, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Return the members (N, *shape) that were chosen, and their log-probabilities (N,)."""
        chances = distribution(logits)
        actions = chances.mode() if deterministic else chances.sample()
        return self.members(actions), chances.log_prob(actions)

    def judge(self, logits: Any, members: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities (N,) of members, and the entropies (N,)."""
        chances: Distribution = distribution(logits)
        return chances.log_prob(self.actions(members)), chances.entropy()


DELEGATING = (PolicyWrapper, FrameStackWrapper, SeparateCriticWrapper)
"""Wrappers that hand the observations on, and keep no statistics of their own."""


def _keeps_statistics(policy: nn.Module) -> bool:
    """Whether a module does more with observations than to hand them on."""
    delegating = (None, *(each.update_statistics for each in DELEGATING))
    updates = [getattr(type(each), "update_statistics", None) for each in policy.modules()]
    return any(each not in delegating for each in updates)
