"""EnvPool's pools of envs, which run in threads of C++, as gymnasium vector envs.

Measured with EnvPool 1.2.5: a pool restarts episodes as NEXT_STEP does (the step after an end
ignores its action, pays 0 and shows the first observation), rewards are float32, ends are bool.
An episode that terminates in the last step of its time limit is reported as truncated only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.errors import EnvError, MissingDependency, did_you_mean

_OURS = ("num_envs", "batch_size", "seed", "env_seed", "env_type", "max_num_players")
"""Options of a pool that no config's [env] section may set."""


if TYPE_CHECKING:
    _VectorEnv = VectorEnv[Any, Any, Any]
else:
    _VectorEnv = VectorEnv  # no generic class in a gymnasium that is too old to train


class EnvPoolVectorEnv(_VectorEnv):
    """A pool of `num_envs` envs. ``reset(seed=...)`` makes it anew: it is seeded in no other way.

    Args:
        env_id: EnvPool's id; ``envpool.list_all_envs()`` has them.
        num_envs: number of copies, all of which take every step.
        env_kwargs: options of EnvPool's config, such as ``num_threads`` or ``max_episode_steps``.

    Raises:
        MissingDependency: EnvPool is not installed.
        EnvError: no such env or option, or an env that several agents play.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, env_id: str, num_envs: int, *, env_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._envpool, self._env_id = _import(), env_id
        self._options = {**(env_kwargs or {}), "num_envs": num_envs}
        spec = _spec_of(self._envpool, env_id, env_kwargs or {})
        self.num_envs = num_envs
        with _quiet():
            self.single_observation_space = spec.gymnasium_observation_space
            self.single_action_space = spec.gymnasium_action_space
        self._pool: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start every env anew; with a seed, in a pool of its own."""
        if self._pool is None or seed is not None:
            # Threads of the old pool would run on.
            self.close_extras()
            self._pool = self._make(0 if seed is None else seed)
        observations, infos = self._pool.reset()
        return observations, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every env."""
        answer: tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
        answer = self._pool.step(actions)
        return answer

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads of the pool."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _make(self, seed: int) -> Any:
        with _quiet():
            pool = self._envpool.make(
                self._env_id, env_type="gymnasium", seed=seed, **self._options
            )
            # The pool describes its spaces, not without warnings, when they are first asked for.
            _ = pool.observation_space, pool.action_space
        return pool


def _import() -> Any:
    try:
        import envpool
    except ImportError as error:
        raise MissingDependency(
            f"vec.vectorization 'envpool' needs EnvPool, which can't be imported: {error}.",
            fix='pip install "puffer-policies[envpool]"',
        ) from error
    return envpool


def _spec_of(envpool: Any, env_id: str, env_kwargs: Mapping[str, Any]) -> Any:
    """Return EnvPool's description of an env, after its id and options were checked."""
    ids = envpool.list_all_envs()
    if env_id not in ids:
        raise EnvError(
            f"EnvPool has no env {env_id!r} among its {len(ids)}.",
            fix=did_you_mean(env_id, ids) or "envpool.list_all_envs() has their ids.",
        )
    spec = _make_spec(envpool, env_id, {})
    options = [each for each in spec.config._fields if each not in _OURS]
    for key in env_kwargs:
        if key not in options:
            raise EnvError(
                f"The [env] section sets {key!r}, which is not an option of EnvPool's {env_id!r}.",
                fix=did_you_mean(key, options) or f"It has {', '.join(options)}.",
            )
    if spec.config.max_num_players > 1:
        raise EnvError(
            f"EnvPool's {env_id!r} is for {spec.config.max_num_players} agents at once.",
            fix="EnvPool's envs of one agent can be trained; see PettingZoo's for several.",
        )
    return _make_spec(envpool, env_id, env_kwargs)


def _make_spec(envpool: Any, env_id: str, env_kwargs: Mapping[str, Any]) -> Any:
    try:
        with _quiet():
            return envpool.make_spec(env_id, **env_kwargs)
    except (ImportError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EnvError(
            f"EnvPool can't make {env_id!r} with {dict(env_kwargs)}: {error}.",
            fix="The [env] section holds options of EnvPool's config.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back gymnasium's warnings about the precision of the bounds that EnvPool gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
