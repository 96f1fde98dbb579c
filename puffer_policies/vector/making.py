"""Making N copies of an env by its name, in the way that a config asks for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from puffer_policies.config.presets import shipped_configs
from puffer_policies.envs.making import NATIVE, best_mode, find_env, make_envs
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.spaces import env_not_found
from puffer_policies.vector.envpool_envs import EnvPoolVectorEnv
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.protocol import VecEnv

VECTORIZATIONS = ("auto", "native", "sync", "async", "envpool")
"""How copies run: in its own vector class, in this process, in one process each, in EnvPool."""


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
    if vectorization == "envpool":
        return GymVecEnv(EnvPoolVectorEnv(env_id, num_envs, env_kwargs=env_kwargs))
    mode = _mode(env_id, vectorization)
    try:
        with _interrupts_ignored() if mode == "async" else nullcontext():
            env = make_envs(env_id, num_envs, mode=mode, env_kwargs=env_kwargs)
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
        return NATIVE if vectorization == "native" else vectorization
    try:
        return best_mode(find_env(env_id))
    except (gymnasium.error.Error, ImportError) as error:
        raise env_not_found(env_id, error, names=shipped_configs()) from error


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
