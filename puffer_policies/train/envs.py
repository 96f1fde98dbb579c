"""Environments in batches: one small protocol, and gymnasium's vector envs behind it.

The three ways in which vector envs restart finished episodes differ only inside `GymVecEnv`
(https://farama.org/Vector-Autoreset-Mode):

==========  ==============================================================================
NEXT_STEP   the step after an end ignores its action and returns the first observation: a ghost
SAME_STEP   the ending step returns the first observation; the final one is in ``infos``
DISABLED    we restart the finished rows ourselves, through ``options["reset_mask"]``
==========  ==============================================================================
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from puffer_policies.config.presets import shipped_configs
from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.envs.breakout import register_envs
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.nested import leaves, map_nested
from puffer_policies.spaces import action_layout, env_not_found

VECTORIZATIONS = ("auto", "native", "sync", "async")
"""How copies of an env are run: its own vector entry point, one process, or one process each."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of N envs returned. Arrays are valid until the next step."""

    observations: Any
    """(N, *obs), nested as the space is: what the policy sees next."""
    rewards: np.ndarray
    """(N,) float, as the env gave them; 0 in ghosts."""
    terminated: np.ndarray
    """(N,) bool: the episode ended for a reason of its own."""
    truncated: np.ndarray
    """(N,) bool: the episode was cut, by a time limit say."""
    starts: np.ndarray
    """(N,) bool: `observations` is the first of an episode."""
    ghost: np.ndarray
    """(N,) bool: the action was ignored, the row only restarted."""
    final_observations: Any = None
    """(N, *obs), valid where an episode ended in this step; None if a ghost step will show them."""

    @property
    def done(self) -> np.ndarray:
        """(N,) bool: an episode ended in this step."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended


class VecEnv(Protocol):
    """N copies of an env that restart by themselves. Rows are agents."""

    num_envs: int
    single_observation_space: gymnasium.Space[Any]
    single_action_space: gymnasium.Space[Any]

    @property
    def num_agents(self) -> int:
        """Number of rows; PufferLib's name."""
        ...

    @property
    def driver_env(self) -> Any:
        """An object with the single-agent spaces, for building policies; PufferLib's name."""
        ...

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs)."""
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions: (N,), (N, K) int64 or (N, *shape) float32."""
        ...

    def close(self) -> None:
        """Release what the envs hold."""
        ...


class GymVecEnv:
    """A gymnasium `VectorEnv` in any autoreset mode as a `VecEnv`.

    Raises:
        EnvError: the env's metadata do not say how it restarts episodes.
        IncompatibleSpace: no head serves its action space.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self.env = env
        self.num_envs: int = env.num_envs
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self._layout = action_layout(env.single_action_space)
        self._finish = _finish_of(env)
        self._finished = np.zeros(env.num_envs, dtype=bool)

    @property
    def num_agents(self) -> int:
        """Number of rows."""
        return self.num_envs

    @property
    def driver_env(self) -> GymVecEnv:
        """This object: it has the single-agent spaces."""
        return self

    def reset(self, *, seed: int | None = None) -> Any:
        """Start every row anew and return observations (N, *obs)."""
        observations, _ = self.env.reset(seed=seed)
        self._finished = np.zeros(self.num_envs, dtype=bool)
        return observations

    def step(self, actions: np.ndarray) -> Step:
        """Take the policy's actions, (N, ...); Box actions are clipped to the space."""
        observations, rewards, terminated, truncated, infos = self.env.step(
            self._layout.to_env(actions)
        )
        ended = _Ended(observations, np.asarray(terminated), np.asarray(truncated), infos)
        step = self._finish(self.env, ended, np.asarray(rewards), self._finished)
        self._finished = ended.terminated | ended.truncated
        return step

    def close(self) -> None:
        """Close the envs."""
        self.env.close()


@dataclass(frozen=True, slots=True)
class _Ended:
    observations: Any
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Mapping[str, Any]


_Finish = Callable[[VectorEnv[Any, Any, Any], _Ended, np.ndarray, np.ndarray], Step]


def _next_step(
    env: VectorEnv[Any, Any, Any], ended: _Ended, rewards: np.ndarray, ghost: np.ndarray
) -> Step:
    return Step(ended.observations, rewards, ended.terminated, ended.truncated, ghost, ghost)


def _same_step(
    env: VectorEnv[Any, Any, Any], ended: _Ended, rewards: np.ndarray, finished: np.ndarray
) -> Step:
    done, ghost = ended.terminated | ended.truncated, np.zeros_like(finished)
    final = _final_observations(ended, done) if done.any() else None
    return Step(ended.observations, rewards, ended.terminated, ended.truncated, done, ghost, final)


def _disabled(
    env: VectorEnv[Any, Any, Any], ended: _Ended, rewards: np.ndarray, finished: np.ndarray
) -> Step:
    done, ghost = ended.terminated | ended.truncated, np.zeros_like(finished)
    observations, final = ended.observations, None
    if done.any():
        final = map_nested(np.copy, observations)
        observations, _ = env.reset(options={"reset_mask": done})
    return Step(observations, rewards, ended.terminated, ended.truncated, done, ghost, final)


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


def _final_observations(ended: _Ended, done: np.ndarray) -> Any:
    """Lay the final observations of the finished rows over a copy of the batch."""
    final = map_nested(np.copy, ended.observations)
    given = ended.infos.get("final_obs", ended.infos.get("final_observation"))
    if given is None:
        raise EnvError(
            "An episode ended, and the env's infos hold no 'final_obs'.",
            fix="A SAME_STEP vector env must give the final observations there.",
        )
    for row in np.flatnonzero(done).tolist():
        observation = given[row] if isinstance(given, np.ndarray) else _row(given, row)
        for target, source in zip(leaves(final), leaves(_like(final, observation)), strict=True):
            target[row] = source
    return final


def _row(batch: Any, row: int) -> Any:
    return map_nested(lambda leaf: leaf[row], batch)


def _like(tree: Any, observation: Any) -> Any:
    """Order the keys of `observation` as `tree` orders its own."""
    return map_nested(lambda _, leaf: leaf, tree, observation)


def make_vecenv(
    env_id: str,
    num_envs: int = 1,
    *,
    vectorization: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
) -> GymVecEnv:
    """Make `num_envs` copies of a gymnasium env, ours among them.

    ``auto`` takes the env's own vector entry point where it has one, else steps the copies in this
    process; ``async`` gives each copy a process, which pays only for envs slower than about 1 ms.

    Raises:
        ConfigError: an unknown backend, or fewer than one env.
        EnvError: gymnasium can't make the env.
    """
    if vectorization not in VECTORIZATIONS:
        raise ConfigError(
            f"vec.vectorization is {vectorization!r}.",
            fix=f"Use one of {', '.join(VECTORIZATIONS)}.",
        )
    if num_envs < 1:
        raise ConfigError(f"vec.num_envs is {num_envs}.", fix="At least one env is needed.")
    register_envs()
    mode = _mode(env_id, vectorization)
    # The rollout copies observations at once: a second copy inside the env is waste.
    vector_kwargs = {} if mode == "vector_entry_point" else {"copy": False}
    try:
        with _interrupts_ignored() if mode == "async" else nullcontext():
            env = gymnasium.make_vec(
                env_id, num_envs, mode, vector_kwargs=vector_kwargs, **(env_kwargs or {})
            )
    except gymnasium.error.Error as error:
        raise env_not_found(env_id, error, names=shipped_configs()) from error
    except (ImportError, MemoryError, TypeError, ValueError) as error:
        raise EnvError(
            f"Making {num_envs} of {env_id!r} with {dict(env_kwargs or {})} failed: {error}.",
            fix="The [env] section holds the arguments of the env; their number is vec.num_envs.",
        ) from error
    return GymVecEnv(env)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C, which a terminal sends to all: we end them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _mode(env_id: str, vectorization: str) -> str:
    if vectorization != "auto":
        return "vector_entry_point" if vectorization == "native" else vectorization
    try:
        spec = gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        raise env_not_found(env_id, error, names=shipped_configs()) from error
    native = spec.vector_entry_point is not None and not spec.additional_wrappers
    return "vector_entry_point" if native else "sync"


def as_vecenv(env: Any) -> VecEnv:
    """Return `env` as a `VecEnv`: one already, a gymnasium `VectorEnv`, or an env id."""
    if isinstance(env, str):
        return make_vecenv(env)
    if isinstance(env, VectorEnv):
        return GymVecEnv(env)
    if hasattr(env, "driver_env"):
        return env  # type: ignore[no-any-return]
    raise EnvError(
        f"{env!r} is no vector environment.",
        fix="Give a gymnasium.vector.VectorEnv, or make one with make_vecenv(env_id, num_envs).",
    )
