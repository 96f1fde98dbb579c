"""Gymnasium's vector envs behind our protocol.

The three ways in which vector envs restart finished episodes differ only here
(https://farama.org/Vector-Autoreset-Mode):

==========  ==============================================================================
NEXT_STEP   the step after an end ignores its action and returns the first observation: a ghost
SAME_STEP   the ending step returns the first observation; the final one is in ``infos``
DISABLED    we restart the finished rows ourselves, through ``options["reset_mask"]``
==========  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from puffer_policies.envs.autoreset import AutoresetMode, require_autoreset
from puffer_policies.errors import EnvError
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.vector.faults import Door
from puffer_policies.vector.masks import ActionMasks
from puffer_policies.vector.protocol import Step
from puffer_policies.vector.seeds import base_seed, spawn_seeds
from puffer_policies.vector.state import get_state, set_state


class GymVecEnv:
    """A gymnasium `VectorEnv` in any autoreset mode as a `VecEnv`.

    Args:
        env: the vector env.
        timeout: seconds that a call of the envs may take; 0 is no limit.

    Raises:
        EnvError: the env's metadata do not say how it restarts episodes.
        IncompatibleSpace: no head serves its action space.
        ConfigError: calls can't be limited outside of the main thread, nor on Windows.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, timeout: float = 0.0) -> None:
        require_autoreset()
        self.env = env
        self._door = Door(env, timeout=timeout)
        self.num_envs: int = env.num_envs
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self._layout = action_layout(env.single_action_space)
        self._finish = _finish_of(env)
        self._finished = np.zeros(env.num_envs, dtype=bool)
        self._masks = ActionMasks(env.num_envs, self._layout, door=self._door)

    @property
    def num_agents(self) -> int:
        """Number of rows."""
        return self.num_envs

    @property
    def driver_env(self) -> GymVecEnv:
        """This object: it has the single-agent spaces."""
        return self

    @property
    def action_masks(self) -> np.ndarray | None:
        """(N, A) bool: the actions that are allowed next; None if the envs give no masks."""
        return self._masks.current

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs)."""
        observations, infos = self._door.reset(seed=self._seeds(seed))
        self._finished = np.zeros(self.num_envs, dtype=bool)
        self._masks.start(observations, infos)
        return observations

    def _seeds(self, seed: int | None) -> int | list[int] | None:
        """Return a seed for each copy, or a single one if the env has its own way with copies."""
        if seed is None:
            return None
        # Given one seed, gymnasium would number its copies from there.
        if isinstance(self.env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            return spawn_seeds(seed, self.num_envs)
        return base_seed(seed)

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions, (N, ...); Box actions are clipped to the space."""
        observations, rewards, terminated, truncated, infos = self._door.step(
            self._layout.to_env(actions)
        )
        answer = _Answer(observations, np.asarray(terminated), np.asarray(truncated), infos)
        step, restarted = self._finish(self._door, answer, np.asarray(rewards), self._finished)
        self._finished = answer.done
        # A row that has ended, and does not show a first observation, ignores its next action.
        idle = self._finished & ~step.starts
        self._masks.advance(step.observations, infos, idle=idle, restarted=restarted)
        return step

    def get_state(self) -> dict[str, Any]:
        """Return the state of the envs and of what is known of their episodes, as plain data.

        Raises:
            EnvError: the envs do not offer their state.
        """
        return {
            "env": get_state(self.env),
            "num_steps": self._door.num_steps,
            "finished": self._finished.copy(),
            "masks": self._masks.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned.

        Raises:
            EnvError: it belongs to another env.
        """
        set_state(self.env, state["env"])
        self._door.num_steps, self._finished = state["num_steps"], state["finished"]
        self._masks.set_state(state["masks"])

    def close(self) -> None:
        """Close the envs.

        Raises:
            EnvError: an env fails to close, or hangs.
        """
        self._door.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the vector env returned for a step, but for the rewards."""

    observations: Any
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Mapping[str, Any]

    @property
    def done(self) -> np.ndarray:
        ends: np.ndarray = self.terminated | self.truncated
        return ends


_Finished = tuple[Step, Mapping[str, Any]]
"""A step, and the infos of the rows that were restarted apart from it."""

_Finish = Callable[[Door, _Answer, np.ndarray, np.ndarray], _Finished]
"""Makes a step of an answer, its rewards, and the rows that had ended in the step before."""


def _next_step(env: Door, answer: _Answer, rewards: np.ndarray, finished: np.ndarray) -> _Finished:
    # What a finished row is sent next only restarts it: a ghost, and the first of an episode.
    ends = answer.terminated, answer.truncated
    return Step(answer.observations, rewards, *ends, starts=finished, ghost=finished), {}


def _same_step(env: Door, answer: _Answer, rewards: np.ndarray, finished: np.ndarray) -> _Finished:
    done, ghost = answer.done, np.zeros_like(finished)
    final = _final_observations(answer, done) if done.any() else None
    ends = answer.terminated, answer.truncated
    return Step(answer.observations, rewards, *ends, done, ghost, final), {}


def _disabled(env: Door, answer: _Answer, rewards: np.ndarray, finished: np.ndarray) -> _Finished:
    done, ghost = answer.done, np.zeros_like(finished)
    observations, final = answer.observations, None
    terminated, truncated = answer.terminated, answer.truncated
    restarted: Mapping[str, Any] = {}
    if done.any():
        # Copies: the reset may write the first observations into the same memory, and clear the
        # rest.
        final = map_nested(np.copy, observations)
        rewards, terminated, truncated = rewards.copy(), terminated.copy(), truncated.copy()
        observations, restarted = env.reset(options={"reset_mask": done})
    return Step(observations, rewards, terminated, truncated, done, ghost, final), restarted


_FINISH: dict[AutoresetMode, _Finish] = {
    AutoresetMode.NEXT_STEP: _next_step,
    AutoresetMode.SAME_STEP: _same_step,
    AutoresetMode.DISABLED: _disabled,
}


def _finish_of(env: VectorEnv[Any, Any, Any]) -> _Finish:
    mode = env.metadata.get("autoreset_mode")
    try:
        return _FINISH[AutoresetMode(mode)]
    except ValueError as error:
        raise EnvError(
            f"{env} does not say how it restarts episodes: metadata['autoreset_mode'] is {mode!r}.",
            fix="Set it to gymnasium.vector.AutoresetMode.NEXT_STEP, SAME_STEP or DISABLED.",
        ) from error


def _final_observations(answer: _Answer, done: np.ndarray) -> Any:
    """Lay the final observations of the finished rows over a copy of the batch."""
    final = map_nested(np.copy, answer.observations)
    # Gymnasium 1.0 renamed "final_observation"; vector envs of others still use it.
    source = answer.infos.get("final_obs", answer.infos.get("final_observation"))
    if source is None:
        raise EnvError(
            "An episode ended, and the env's infos hold no 'final_obs'.",
            fix="A SAME_STEP vector env must give the final observations there.",
        )
    for row in np.flatnonzero(done).tolist():
        # An array of objects, one a row, or a batch that is nested as the space is.
        observation = source[row] if isinstance(source, np.ndarray) else _row(source, row)
        for target, leaf in zip(leaves(final), leaves(_like(final, observation)), strict=True):
            target[row] = leaf
    return final


def _row(batch: Any, row: int) -> Any:
    return map_nested(lambda leaf: leaf[row], batch)


def _like(tree: Any, observation: Any) -> Any:
    """Order the keys of `observation` as `tree` orders its own."""
    return map_nested(lambda _, leaf: leaf, tree, observation)
