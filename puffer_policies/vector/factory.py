"""Making N copies of an env by its name, in the way that a config asks for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import gymnasium
import torch
from gymnasium.vector import SyncVectorEnv, VectorEnv

from puffer_policies.config.load import shipped_configs
from puffer_policies.envs.autoreset import require_autoreset
from puffer_policies.envs.factory import (
    NATIVE,
    best_mode,
    env_not_found,
    find_env,
    lacks_single_env,
    make_envs,
    takes_device,
)
from puffer_policies.errors import ConfigError, EnvError, PolicyError
from puffer_policies.vector.envpool_envs import EnvPoolVectorEnv
from puffer_policies.vector.faults import FAULTS, first_line
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.machine import require_memory
from puffer_policies.vector.parallel_envs import PREFIX as PETTINGZOO
from puffer_policies.vector.parallel_envs import ParallelVecEnv, is_parallel, make_parallel_env
from puffer_policies.vector.protocol import VecEnv
from puffer_policies.vector.puffer_envs import PufferVecEnv, is_pufferlib
from puffer_policies.vector.tensor.adapter import NEEDED, TensorVecEnv, is_tensor_env
from puffer_policies.vector.worker import work

_SIZES = {NATIVE: 100, "envpool": 100, "sync": 2_000, "async": 10_000_000}
"""Bytes of a copy of the smallest env: a row of its vector class, an object, or a process."""

VECTORIZATIONS = ("auto", "native", "sync", "async", "envpool")
"""How copies run: in its own vector class, in this process, in one process each, in EnvPool."""


def make_vecenv(
    env_id: str,
    num_envs: int = 1,
    *,
    vectorization: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    timeout: float = 0.0,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Make `num_envs` copies of an env: gymnasium's, ours, EnvPool's or PettingZoo's.

    ``auto`` takes the env's own vector entry point where it has one, else steps the copies in this
    process; ``async`` gives each copy a process, which pays only for envs slower than about 1 ms.
    ``envpool`` looks the id up among EnvPool's. ``pettingzoo/NAME`` is a parallel env of
    PettingZoo's, whose copies run in this process. A step or a reset that takes longer than
    `timeout` seconds is an error that names the env; 0 is no limit. An env whose own vector class
    takes a ``device`` lives on `device`, with tensors in and out; for all others it has no meaning.

    Raises:
        ConfigError: an unknown backend, fewer than one env, more than fit into memory, a backend
            that can't run this env, or a timeout where there are no signals.
        EnvError: the env can't be made.
        MissingDependency: a package that it needs is not installed.
    """
    require_autoreset()
    if vectorization not in VECTORIZATIONS:
        raise ConfigError(
            f"vec.vectorization is {vectorization!r}.",
            fix=f"Use one of {', '.join(VECTORIZATIONS)}.",
        )
    if num_envs < 1:
        raise ConfigError(f"vec.num_envs is {num_envs}.", fix="At least one env is needed.")
    kwargs = dict(env_kwargs or {})
    if env_id.startswith(PETTINGZOO):
        _require_memory(num_envs, "sync")
        return _make_parallel(env_id, num_envs, vectorization, kwargs, timeout)
    if vectorization == "envpool":
        _require_memory(num_envs, vectorization)
        pool = EnvPoolVectorEnv(env_id, num_envs, env_kwargs=kwargs)
        return GymVecEnv(pool, timeout=timeout)
    mode = _mode(env_id, vectorization)
    _require_memory(num_envs, mode)
    env = _make_gymnasium(env_id, num_envs, mode, kwargs, device)
    if is_tensor_env(env):
        return TensorVecEnv(env, timeout=timeout)
    return GymVecEnv(env, timeout=timeout)


def _require_memory(num_envs: int, mode: str) -> None:
    """Refuse more copies than this machine can hold, before the first is made."""
    require_memory(
        num_envs * _SIZES[mode],
        f"{num_envs:,} envs (vec.num_envs)",
        fix="Use a smaller vec.num_envs.",
    )


def _make_gymnasium(
    env_id: str, num_envs: int, mode: str, env_kwargs: dict[str, Any], device: torch.device | str
) -> VectorEnv[Any, Any, Any]:
    try:
        if mode == NATIVE and takes_device(env_id):
            env_kwargs = {"device": str(device), **env_kwargs}
        with _processes_ended() if mode == "async" else nullcontext():
            return make_envs(env_id, num_envs, mode=mode, env_kwargs=env_kwargs, worker=work)
    except gymnasium.error.Error as error:
        raise env_not_found(env_id, error, configs=shipped_configs()) from error
    except PolicyError:
        raise
    except FAULTS as error:
        raise EnvError(
            f"Making {num_envs} of {env_id!r} with {env_kwargs} failed: {first_line(error)}.",
            fix="The [env] section holds the arguments of the env; their number is vec.num_envs.",
        ) from error


def _make_parallel(
    name: str, num_envs: int, vectorization: str, env_kwargs: dict[str, Any], timeout: float
) -> ParallelVecEnv:
    if vectorization not in ("auto", "sync"):
        raise ConfigError(
            f"vec.vectorization is {vectorization!r}, which can't run {name!r}.",
            fix="PettingZoo's envs are stepped in this process: use auto or sync.",
        )
    envs = [make_parallel_env(name, env_kwargs) for _ in range(num_envs)]
    return ParallelVecEnv(envs, timeout=timeout)


@contextmanager
def _processes_ended() -> Iterator[None]:
    """End the worker processes that were started here if making the envs fails."""
    # Where making an `AsyncVectorEnv` raises, nobody has the object that could end its workers.
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
            process.join()
        raise


def _mode(env_id: str, vectorization: str) -> str:
    if vectorization in ("sync", "async") and lacks_single_env(env_id):
        raise ConfigError(
            f"vec.vectorization is {vectorization!r}, and {env_id!r} has no single env to copy.",
            fix="Use auto or native, which run its own vector class.",
        )
    if vectorization != "auto":
        return NATIVE if vectorization == "native" else vectorization
    try:
        return best_mode(find_env(env_id))
    except (gymnasium.error.Error, ImportError) as error:
        raise env_not_found(env_id, error, configs=shipped_configs()) from error


def as_vecenv(env: Any, num_envs: int = 1) -> VecEnv:
    """Return `env` as a `VecEnv`.

    Args:
        env: a `VecEnv` already; a gymnasium `VectorEnv`; a vector env on a device, as Isaac Lab and
            ManiSkill have them (see `vector.tensor.adapter`); a vector env of PufferLib; a
            PettingZoo `ParallelEnv`; a function that makes a gymnasium or a parallel env; or an
            env's name.
        num_envs: how many copies to make of an env that is a name or a function.

    Raises:
        EnvError: it is none of these, or can't be made.
        ConfigError: fewer than one env, or copies of an env that exists already.
    """
    if isinstance(env, str):
        return make_vecenv(env, num_envs)
    if callable(env) and num_envs > 1:
        return _as_one([env() for _ in range(num_envs)])
    if num_envs != 1:
        raise ConfigError(
            f"{num_envs} copies of {env!r} are required, which exists once.",
            fix="Pass a function that makes one.",
        )
    env = env() if callable(env) else env
    if is_pufferlib(env):
        return PufferVecEnv(env)
    # A `VecEnv` by its shape: a runtime check of a Protocol with attributes differs by version.
    if hasattr(env, "driver_env"):
        return env  # type: ignore[no-any-return]
    if is_tensor_env(env):
        return TensorVecEnv(env)
    if isinstance(env, VectorEnv):
        return GymVecEnv(env)
    if all(hasattr(env, name) for name in NEEDED if name != "device"):
        return TensorVecEnv(env)  # which says what it lacks
    return _as_one([env])


def _as_one(envs: list[Any]) -> VecEnv:
    """Join single envs, all of a kind, into one `VecEnv`."""
    if all(isinstance(each, gymnasium.Env) for each in envs):
        return GymVecEnv(SyncVectorEnv([partial(_itself, each) for each in envs], copy=False))
    if all(is_parallel(each) for each in envs):
        return ParallelVecEnv(envs)
    turns = ": its agents take turns" if hasattr(envs[0], "agent_iter") else ""
    raise EnvError(
        f"{envs[0]!r} is not a vector environment{turns}.",
        fix="Pass a gymnasium Env or VectorEnv, a PettingZoo ParallelEnv, a vector env of "
        "PufferLib or on a device, or make one with make_vecenv(env_id, num_envs).",
    )


def _itself(env: Any) -> Any:
    return env
