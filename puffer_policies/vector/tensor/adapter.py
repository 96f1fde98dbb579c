"""Envs that take and give tensors, as a `VecEnv` on their device.

They are recognized by what they have, and no library is imported for them: ``num_envs``,
``device``, ``single_observation_space``, ``single_action_space``, ``reset(seed=, options=)`` and
``step(actions)``. They restart finished episodes in three ways:

==========  ==============================================================================
NEXT_STEP   the step after an end ignores its action and returns the first observation: a ghost
SAME_STEP   the ending step returns the first observation; the final one is in the infos of
            ManiSkill's envs and of gymnasium's, and nowhere in those of Isaac Lab
DISABLED    we restart the finished rows ourselves, through ``options["reset_mask"]``
==========  ==============================================================================

Nothing here reads a tensor once the first step was taken, so that no step waits for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.nn.observations import (
    leaf_spaces,
    members_of,
    to_tensor,
    with_keys,
)
from puffer_policies.spaces import action_layout, described, observation_kind
from puffer_policies.spaces.nested import map_nested, names_of
from puffer_policies.vector.faults import Door, first_line
from puffer_policies.vector.masks import METHOD
from puffer_policies.vector.protocol import Step
from puffer_policies.vector.seeds import base_seed
from puffer_policies.vector.state import get_state, set_state
from puffer_policies.vector.tensor.actions import TensorActions
from puffer_policies.vector.tensor.masks import TensorMasks

NEEDED = ("num_envs", "device", "single_observation_space", "single_action_space")
"""What a vector env on a device has, besides ``reset`` and ``step``."""

POLICY = "policy"
"""The group of observations that Isaac Lab's envs have for the actor."""

FINAL = ("final_obs", "final_observation")
"""Keys of the final observations in infos: gymnasium's, and its older one, which ManiSkill uses."""


def is_tensor_env(env: Any) -> bool:
    """Return whether `env` has what a vector env on a device has."""
    return all(_attribute(env, name) is not None for name in (*NEEDED, "reset", "step"))


class TensorVecEnv:
    """A vector env that takes and gives tensors, as a `VecEnv` with a device.

    Where it restarts at once and shows no final observation, the value before a step stands in for
    the one after it: see `Step.lacks_final`.

    Args:
        env: Isaac Lab's, ManiSkill's, one of gymnasium's form, or one of yours.
        groups: keys of a Dict observation to show: one, whose observation is shown as it is, or
            several, which are a Dict. None shows the group ``policy`` of a Dict that has one, as
            Isaac Lab's envs do, and else all.
        autoreset_mode: how it restarts episodes, where neither its metadata nor its form say so.
        timeout: seconds that a call of the env may take; 0 is no limit.

    Raises:
        EnvError: it lacks something, or does not say how it restarts episodes.
        IncompatibleSpace: no head serves its action space, or it has no such group.
    """

    def __init__(
        self,
        env: Any,
        *,
        groups: str | Sequence[str] | None = None,
        autoreset_mode: AutoresetMode | None = None,
        timeout: float = 0.0,
    ) -> None:
        _require(env)
        self.env = env
        self.num_envs = int(_attribute(env, "num_envs"))
        self.device = _device_of(env)
        self.single_action_space: gymnasium.Space[Any] = _attribute(env, "single_action_space")
        self.single_observation_space: gymnasium.Space[Any]
        self.single_observation_space, self._group = _shown(
            _attribute(env, "single_observation_space"), groups
        )
        self._leaves = leaf_spaces(self.single_observation_space)
        self._layout = action_layout(self.single_action_space)
        self._actions = TensorActions(self._layout, self.device)
        self._finish = _FINISH[_mode_of(env, autoreset_mode)]
        self._door = Door(env, timeout=timeout)
        self._masks = TensorMasks(self.num_envs, self._layout, self.device, self._masks_of_env)
        self._nobody = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._finished = self._nobody
        """(N,) bool: rows that restart in the next step, in NEXT_STEP alone."""
        self._unchecked = {"step", "final"}
        """What of the env's answers has not been looked at yet."""

    @property
    def num_agents(self) -> int:
        """Number of rows."""
        return self.num_envs

    @property
    def driver_env(self) -> TensorVecEnv:
        """This object: it has the single-agent spaces."""
        return self

    @property
    def action_masks(self) -> Tensor | None:
        """(N, A) bool: the actions that are allowed next; None if the env gives no masks."""
        return self._masks.current

    @torch.no_grad()
    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs).

        Raises:
            EnvError: the env fails, or returns something else than tensors of its space.
        """
        answer = self._door.reset(seed=None if seed is None else base_seed(seed))
        first, infos = self._check_parts(answer, ("observations", "infos"), "reset()")
        observations = self._checked(first, "reset() returned observations")
        self._finished = self._nobody
        self._masks.start(observations, infos)
        return observations

    @torch.no_grad()  # a differentiable env would remember each step of an episode
    def step(self, actions: Tensor) -> Step:
        """Take the policy's actions, (N, ...) on the device; Box actions are clipped to the space.

        Raises:
            EnvError: the env fails, or returns something else than tensors of its space, which is
                looked at in the first step alone.
            ConfigError: the actions of the first step are on another device.
        """
        if is_first := "step" in self._unchecked:
            self._check_actions(actions)
        answer = self._door.step(self._actions.to_env(actions))
        if is_first:
            self._check_answer(answer)
        observations, rewards, terminated, truncated, infos = answer
        flags = terminated.bool(), truncated.bool()
        return self._finish(self, _Answer(observations, rewards.float(), *flags, infos))

    def get_state(self) -> dict[str, Any]:
        """Return the state of the env and of what is known of its episodes, as plain data.

        Raises:
            EnvError: the env does not offer its state.
        """
        return {
            "env": get_state(self.env),
            "num_steps": self._door.num_steps,
            "finished": self._finished.cpu().numpy(),
            "masks": self._masks.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned.

        Raises:
            EnvError: it belongs to another env.
        """
        set_state(self.env, state["env"])
        self._door.num_steps = state["num_steps"]
        self._finished = torch.tensor(state["finished"], device=self.device)
        self._masks.set_state(state["masks"])

    def close(self) -> None:
        """Close the env, if it can be closed.

        Raises:
            EnvError: it fails to close, or hangs.
        """
        if _attribute(self.env, "close") is not None:
            self._door.close()

    def _masks_of_env(self) -> Any:
        masks = _attribute(self.env, METHOD)
        return self._door.call(METHOD) if callable(masks) else masks

    def _in_group(self, observations: Any) -> Any:
        return observations if self._group is None else observations[self._group]

    def _seen(self, observations: Any) -> Any:
        """Return observations as policies see them: those of the space alone, in its order."""
        return map_nested(
            lambda _, leaf: to_tensor(leaf), self._leaves, self._in_group(observations)
        )

    def _final(self, infos: Mapping[str, Any]) -> Any:
        """Return the final observations in infos, valid where an episode ended, or None."""
        final = next((infos[key] for key in FINAL if infos.get(key) is not None), None)
        if final is None:
            return None
        if "final" not in self._unchecked:
            return self._seen(final)
        self._unchecked.discard("final")
        return self._checked(final, "infos hold final observations")

    def _check_actions(self, actions: Any) -> None:
        if not isinstance(actions, Tensor):  # NumPy's arrays have a device, too
            raise ConfigError(
                f"The actions are of type {type(actions).__name__}, and the envs on {self.device}.",
                fix="Pass a tensor there, or step on_host(vecenv) of vector.tensor.host.",
            )
        if actions.device != self.device:
            raise ConfigError(
                f"The policy's actions are on {actions.device}, the envs on {self.device}.",
                fix=f"Move the policy there: train.device {self.device}, or "
                f"policy.to({str(self.device)!r}).",
            )
        shape = (self.num_envs, *self._layout.policy_shape)
        if actions.shape != shape:
            raise EnvError(
                f"The policy's actions have shape {tuple(actions.shape)}, expected {shape}.",
                fix=f"Build the policy for this action space, {described(self.single_action_space)}"
                f", and act in all {self.num_envs} envs at once.",
            )

    def _check_answer(self, answer: Any) -> None:
        """Look at the form of a step's answer."""
        observations, *tensors, _ = self._check_parts(answer, _Answer._fields, "step()")
        for name, each in zip(_Answer._fields[1:4], tensors, strict=True):
            self._check_tensor(each, (self.num_envs,), f"step() returned {name}")
        self._checked(observations, "step() returned observations")
        self._unchecked.discard("step")

    def _check_parts(self, answer: Any, names: Sequence[str], call: str) -> Any:
        """Return what a call returned, which is as many parts as there are names, infos last."""
        if not isinstance(answer, tuple) or len(answer) != len(names):
            size = f" of {len(answer)}" if isinstance(answer, tuple) else ""
            raise EnvError(
                f"The env's {call} returned a {type(answer).__name__}{size}.",
                fix=f"Return ({', '.join(names)}).",
            )
        if not isinstance(answer[-1], Mapping):
            raise EnvError(
                f"The env's {call} returned infos of type {type(answer[-1]).__name__}.",
                fix="Return a dict, which may be empty.",
            )
        return answer

    def _checked(self, observations: Any, what: str) -> Any:
        """Return observations as policies see them, after a look at their form."""
        pairs: list[tuple[Any, Any]] = []
        try:
            # The leaves by the space, as observations may be nested where the space is not.
            map_nested(lambda *pair: pairs.append(pair), self._leaves, self._in_group(observations))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EnvError(
                f"The env's {what} of type {type(observations).__name__}, which are not those of "
                f"{described(self.single_observation_space)}: {type(error).__name__}: {error}.",
                fix="Return tensors, nested as the space is.",
            ) from error
        for (space, leaf), name in zip(pairs, names_of(self._leaves), strict=True):
            where = f"{what} at {name!r}" if name else what
            self._check_tensor(leaf, (self.num_envs, *space.shape), where)
            if leaf.is_floating_point() is not np.issubdtype(space.dtype, np.floating):
                raise EnvError(
                    f"The env's {where} of {leaf.dtype}, its space has {space.dtype}.",
                    fix="Return the space's dtype, or declare the one that you return.",
                )
        return self._seen(observations)

    def _check_tensor(self, value: Any, shape: tuple[int, ...], what: str) -> None:
        if not isinstance(value, Tensor):
            raise EnvError(
                f"The env's {what} of type {type(value).__name__}, and it has a device.",
                fix="Return torch tensors there, or leave out the attribute 'device' for NumPy.",
            )
        if value.device != self.device:
            raise EnvError(
                f"The env's {what} on {value.device}, and its device is {self.device}.",
                fix="Return all tensors on the env's device.",
            )
        if value.shape != shape:
            raise EnvError(
                f"The env's {what} of shape {tuple(value.shape)}, expected {shape}.",
                fix="Every row is one env.",
            )


class _Answer(NamedTuple):
    """What an env returned for a step."""

    observations: Any
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    infos: Mapping[str, Any]

    @property
    def outcome(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.rewards, self.terminated, self.truncated

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


def _next_step(env: TensorVecEnv, answer: _Answer) -> Step:
    observations, restarted, done = env._seen(answer.observations), env._finished, answer.done
    env._finished = done
    # A row that has ended ignores its next action.
    env._masks.advance(observations, answer.infos, idle=done)
    return Step(observations, *answer.outcome, starts=restarted, ghost=restarted)


def _same_step(env: TensorVecEnv, answer: _Answer) -> Step:
    observations, final = env._seen(answer.observations), env._final(answer.infos)
    env._masks.advance(observations, answer.infos)
    # Where an env gives them only in steps in which something ended, it lacks none in others.
    lacks_final = final is None
    return Step(observations, *answer.outcome, answer.done, env._nobody, final, lacks_final)


def _disabled(env: TensorVecEnv, answer: _Answer) -> Step:
    # Copies: the reset may write the first observations into the same memory, and clear the rest.
    final, done = map_nested(torch.clone, env._seen(answer.observations)), answer.done
    rewards, terminated, truncated = (each.clone() for each in answer.outcome)
    # In every step, also if nothing ended: only the device knows that.
    restarted, infos = env._door.reset(options={"reset_mask": done})
    observations = env._seen(restarted)
    env._masks.advance(observations, answer.infos, restarted=(done, infos))
    return Step(observations, rewards, terminated, truncated, done, env._nobody, final)


_FINISH: dict[AutoresetMode, Callable[[TensorVecEnv, _Answer], Step]] = {
    AutoresetMode.NEXT_STEP: _next_step,
    AutoresetMode.SAME_STEP: _same_step,
    AutoresetMode.DISABLED: _disabled,
}


def _mode_of(env: Any, mode: AutoresetMode | None) -> AutoresetMode:
    """Return how an env restarts episodes, by its metadata or its form."""
    metadata = _attribute(env, "metadata")
    if mode is None and isinstance(metadata, Mapping):
        mode = metadata.get("autoreset_mode")
    if mode is not None:
        with contextlib.suppress(ValueError):
            return AutoresetMode(mode)
    # ManiSkill's vector env has a switch; Isaac Lab's envs and those after its model are marked.
    elif _attribute(env, "auto_reset") is True or _attribute(env, "is_vector_env") is True:
        return AutoresetMode.SAME_STEP
    raise EnvError(
        f"{type(env).__name__} does not say how it restarts episodes: its mode is {mode!r}.",
        fix="Set metadata['autoreset_mode'] to one of gymnasium.vector.AutoresetMode, or pass "
        "TensorVecEnv(env, autoreset_mode=...). ManiSkill's envs restart in its "
        "ManiSkillVectorEnv(env, auto_reset=True).",
    )


def _require(env: Any) -> None:
    missing = [name for name in (*NEEDED, "reset", "step") if _attribute(env, name) is None]
    if missing:
        raise EnvError(
            f"{type(env).__name__} lacks {', '.join(missing)}.",
            fix=f"A vector env on a device has {', '.join(NEEDED)}, reset(seed=, options=) and "
            "step(actions).",
        )


def _device_of(env: Any) -> torch.device:
    """Return an env's device, with the index that tensors there have."""
    device = _attribute(env, "device")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:  # torch raises each of them for one
        raise EnvError(
            f"{type(env).__name__}'s device is {device!r}, which torch can't use here: "
            f"{first_line(error)}.",
            fix="Set it to the device of its tensors, as in torch.device('cpu'), or leave out the "
            "attribute for NumPy.",
        ) from error


def _shown(space: Any, groups: str | Sequence[str] | None) -> tuple[Any, str | None]:
    """Return the space of the observations that are shown, and the key that holds them, if any."""
    if groups is None:
        if observation_kind(space) != "dict" or POLICY not in members_of(space):
            return space, None
        groups = POLICY
    if not isinstance(groups, str):
        return with_keys(space, groups), None
    return members_of(with_keys(space, [groups]))[groups], groups


def _attribute(env: Any, name: str) -> Any:
    """Return an attribute of an env, or of one inside its wrappers; None if there is none."""
    # Gymnasium's wrappers pass on what they know, and Isaac Lab's envs are made in some.
    while (value := getattr(env, name, None)) is None and getattr(env, "unwrapped", env) is not env:
        env = getattr(env, "env", env.unwrapped)
    return value
