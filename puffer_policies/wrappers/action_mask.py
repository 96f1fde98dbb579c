"""Action masks around any structured policy: forbidden options get probability exactly 0.

Huang and Ontañón 2020, https://arxiv.org/abs/2006.14171: the logits of invalid actions are replaced
before the softmax, in the rollout as in the update, and the gradient is that of the valid ones. It
differs from the paper in that they are replaced by minus infinity, not by -1e8, which leaves a
probability that only float32 rounds to 0. `N` rows, B or B*T; `A` options of all choices together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.contract import ACTION_MASK, NEEDS_MASK, State
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.nn.observations import leaf_spaces, members_of, require_tensor, without_key
from puffer_policies.spaces import Spaces, action_layout, described
from puffer_policies.wrappers.base import Actor, PolicyWrapper

_OBSERVED = "observed_action_mask"
"""State key of the mask that the observation held, for the length of one pass."""


class ActionMaskWrapper(PolicyWrapper):
    """A policy that never takes an action which the env forbids.

    The mask is ``state["action_mask"]``: (B, A) or (B, T, A), true where an option is allowed. A is
    n for Discrete and the sum of nvec for several choices, 2 each for MultiBinary, side by side as
    in sb3-contrib. In a Dict or Tuple it spans the choices of all parts, in the order of
    `ActionLayout.leaves`; real numbers have no options. A choice without an allowed option raises
    an error on CPU. Elsewhere, and under ``torch.compile``, the test would cost a wait, and its
    log-probabilities are NaN.

    Args:
        env: the env of the policy, with the mask in the observation if `key` is set.
        policy: built for the spaces that `wrapped_spaces` returns.
        key: the key of a Dict observation that holds the mask, for a state without one. The wrapped
            policy does not see it.

    Raises:
        IncompatibleSpace: continuous actions, or no mask under `key`.
    """

    needs_mask = True

    def __init__(self, env: Any, policy: nn.Module, *, key: str | None = None) -> None:
        super().__init__(env, policy)
        if any(isinstance(each, ActionMaskWrapper) for each in policy.modules()):
            raise BuildError(
                f"{type(policy).__name__!r} has an action mask already.",
                fix="Use one ActionMaskWrapper.",
            )
        self.wrapped_spaces(self.spaces, key=key)
        self.key = key
        self.nvec = list(action_layout(self.spaces.action).nvec)

    @staticmethod
    def wrapped_spaces(spaces: Spaces, *, key: str | None = None) -> Spaces:
        """Return the spaces of the wrapped policy, without the mask."""
        layout = action_layout(spaces.action)
        if not layout.nvec:
            raise IncompatibleSpace(
                f"'ActionMaskWrapper' does not fit the action space {described(spaces.action)}: "
                "continuous actions have no options to forbid.",
                fix="Leave the wrapper out.",
            )
        if key is None:
            return spaces
        reduced = without_key(spaces.observation, key)
        _require_mask_space(leaf_spaces(spaces.observation)[key], key, sum(layout.nvec))
        return Spaces(reduced, spaces.action)

    def actor_alone(self) -> Actor:
        """Return what acts: the mask is for the actor, and stays in what it sees."""
        alone = super().actor_alone()
        if not alone.is_part or self.key is None:
            return alone
        members = dict(members_of(alone.spaces.observation))
        members[self.key] = members_of(self.spaces.observation)[self.key]
        spaces = Spaces(gym_spaces.Dict(members), self.spaces.action)
        twin: Any = alone.policy
        twin.spaces = spaces
        return replace(alone, spaces=spaces)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """Take the mask out of the observation, if it is there."""
        if self.key is None:
            return observations
        if state is not None:
            state[_OBSERVED] = observations[self.key]
        return {key: each for key, each in observations.items() if key != self.key}

    def transform_logits(self, logits: Any, state: State | None) -> Any:
        """Forbid the options that the mask does not allow."""
        return mask_logits(logits, self._mask(state or {}))

    def _mask(self, state: State) -> Tensor:
        """Return the mask as bool (N, A)."""
        observed: Tensor | None = state.pop(_OBSERVED, None)
        # A mask in the state wins: it is the trainer's, and may be newer than the observation's.
        mask: Tensor | None = state.get(ACTION_MASK)
        mask = observed if mask is None else mask
        if mask is None:
            raise ContractError(
                f"'ActionMaskWrapper' found no action mask: state has no {ACTION_MASK!r}.",
                fix="The env gives one in info['action_mask'], by a method action_masks(), or in a "
                "Dict observation: ActionMaskWrapper(key='action_mask'). Or leave the wrapper out.",
            )
        require_tensor(mask, f"state[{ACTION_MASK!r}]")
        if mask.shape[-1] != sum(self.nvec):
            raise ContractError(
                f"The action mask has shape {tuple(mask.shape)}; expected (B, {sum(self.nvec)}) or "
                f"(B, T, {sum(self.nvec)}): one for each option of {self.nvec}.",
            )
        mask = mask.reshape(-1, mask.shape[-1]).to(torch.bool)  # (N, A)
        # Reading a value back from an accelerator would wait for all of its pending work.
        if mask.device.type == "cpu" and not torch.compiler.is_compiling():
            _require_options(mask, self.nvec)
        return mask


def mask_keys(policy: nn.Module) -> set[str | None]:
    """Return where modules read a mask: under a key of the observation, or None for the state."""
    readers = [each for each in policy.modules() if getattr(each, NEEDS_MASK, False)]
    return {each.key if isinstance(each, ActionMaskWrapper) else None for each in readers}


@singledispatch
def mask_logits(logits: Any, mask: Tensor) -> Any:
    """Return logits of the same type whose forbidden options have probability 0.

    A Tensor (N, n), or a tuple of K of them, with `mask` (N, A). In a dict, or a tuple of other
    logits, the masks of the parts are side by side, and a Normal has none. A package with logits of
    its own registers them: ``mask_logits.register``, and ``num_options.register`` beside it.

    Raises:
        ContractError: logits without options, or another number of them than the mask has.
    """
    raise _no_options(logits)


def _no_options(logits: Any) -> ContractError:
    return ContractError(
        f"Logits of type {type(logits).__name__!r} have no options that a mask could forbid.",
        fix="Register the type with puffer_policies.wrappers.action_mask.mask_logits.register.",
    )


@mask_logits.register
def _(logits: Tensor, mask: Tensor) -> Tensor:
    if logits.shape != mask.shape:
        raise ContractError(
            f"The action mask has {tuple(mask.shape)} rows and options, the logits "
            f"{tuple(logits.shape)}.",
            fix="Send one mask with each observation: (B, A) with a step, (B, T, A) with B*T rows.",
        )
    return logits.masked_fill(~mask, -math.inf)


@mask_logits.register
def _(logits: Normal, mask: Tensor) -> Normal:
    if mask.shape[-1]:
        raise _no_options(logits)
    return logits


@mask_logits.register(tuple)
@mask_logits.register(list)
def _(logits: Any, mask: Tensor) -> Any:
    parts = torch.split(mask, [num_options(each) for each in logits], -1)
    return type(logits)(mask_logits(each, part) for each, part in zip(logits, parts, strict=True))


@mask_logits.register
def _(logits: dict, mask: Tensor) -> dict[Any, Any]:  # type: ignore[type-arg]
    keys = sorted(logits, key=str)
    parts = mask_logits(tuple(logits[key] for key in keys), mask)
    return dict(zip(keys, parts, strict=True))


@singledispatch
def num_options(logits: Any) -> int:
    """Return how many options logits have, of all choices together: those that a mask spans."""
    return 0


num_options.register(Tensor, lambda logits: logits.shape[-1])
num_options.register(tuple, lambda logits: sum(map(num_options, logits)))
num_options.register(list, lambda logits: sum(map(num_options, logits)))
num_options.register(dict, lambda logits: sum(map(num_options, logits.values())))


def _require_options(mask: Tensor, nvec: list[int]) -> None:
    allowed = torch.stack([part.any(-1) for part in torch.split(mask, nvec, -1)], -1)  # (N, K)
    if not allowed.all():
        row, choice = torch.nonzero(~allowed)[0].tolist()
        where = f", choice {choice}," if len(nvec) > 1 else ""
        raise ContractError(
            f"Row {row} of the action mask{where} allows no option.",
            fix="The env allows at least one option of each choice, also where nothing matters.",
        )


def _require_mask_space(space: Any, key: str, options: int) -> None:
    shape = getattr(space, "shape", None)
    if shape != (options,):
        raise IncompatibleSpace(
            f"The observation's {key!r} is {described(space)}; a mask of these actions has shape "
            f"{(options,)}.",
            fix="Name the key that holds the action mask.",
        )
