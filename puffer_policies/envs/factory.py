"""Making envs by id: registering ours, importing the packages of others, adding preprocessing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from puffer_policies.envs.families import bring_env, family_of, known_ids, preprocessing
from puffer_policies.errors import EnvError, nearest

NATIVE = "vector_entry_point"
"""Gymnasium's name of the mode in which an env's own vector class runs the copies."""

OWN_ENVS: dict[str, tuple[str, str, int | None]] = {
    "Breakout-v0": ("breakout:BreakoutEnv", "breakout:BreakoutVectorEnv", 2000),
    "CartPoleNoVel-v0": ("no_velocity:CartPoleNoVel", "no_velocity:CartPoleNoVelVector", 500),
    "MountainCarContinuousNoVel-v0": ("no_velocity:MountainCarContinuousNoVel", "", 999),
    "PendulumNoVel-v0": ("no_velocity:PendulumNoVel", "", 200),
    "RepeatPrevious-v0": ("recall:RepeatPreviousEnv", "recall:RepeatPreviousVectorEnv", None),
    "MaskedRecall-v0": ("recall:MaskedRecallEnv", "recall:MaskedRecallVectorEnv", None),
    "Chain-v0": ("known_values:ChainEnv", "known_values:ChainVectorEnv", 32),
    "Countdown-v0": ("known_values:CountdownEnv", "known_values:CountdownVectorEnv", None),
}
"""By name: the env, its vector env if it has one of its own, and its time limit in steps.

The limits of gymnasium's classic control are those of the ids CartPole-v1, Pendulum-v1 and
MountainCarContinuous-v0.
"""


def register_envs() -> None:
    """Make our ids known to gymnasium. May be called again: the second time does nothing."""
    for name, (env, vector_env, limit) in OWN_ENVS.items():
        if f"puffer_policies/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"puffer_policies/{name}",
                entry_point=f"puffer_policies.envs.{env}",
                vector_entry_point=f"puffer_policies.envs.{vector_env}" if vector_env else None,
                max_episode_steps=limit,
            )


def find_env(name: str) -> str:
    """Make an env known to gymnasium, ours and those of other packages alike, and return its id.

    Raises:
        EnvError: the name says what module to import.
        MissingDependency: the package that brings the env is not installed.
    """
    register_envs()
    return bring_env(name)


def make_envs(
    name: str,
    num_envs: int = 1,
    *,
    mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make copies of an env with `gymnasium.make_vec`, as our policies are trained on it.

    Args:
        name: an id of gymnasium, of ours, or of a family.
        num_envs: number of copies.
        mode: gymnasium's name of how they run; the env's own vector class, else sync, if None.
        env_kwargs: the [env] section of a config, options of the preprocessing among them.

    Raises:
        EnvError: the name says what module to import, or an option of the preprocessing is wrong.
        MissingDependency: the package that brings the env is not installed.
        gymnasium.error.Error: gymnasium can't make it.
    """
    env_id = find_env(name)
    mode = mode or best_mode(env_id)
    native = mode == NATIVE
    options, wrappers = preprocessing(env_id, env_kwargs or {}, native=native)
    # The rollout copies observations at once: a second copy inside the env is waste.
    vector_kwargs = {} if native else {"copy": False}
    return gymnasium.make_vec(
        env_id, num_envs, mode, vector_kwargs=vector_kwargs, wrappers=wrappers, **options
    )


def make_for_spaces(name: str) -> Any:
    """Make one env, or a vector of one, that has the spaces of `make_envs`.

    Raises:
        EnvError: as `make_envs`, or gymnasium can't make it; near names are in the error.
        MissingDependency: the package that brings the env is not installed.
    """
    try:
        env_id = find_env(name)
        # Gymnasium before 1.1, which can't train, can make single envs all the same.
        return gymnasium.make(env_id) if family_of(env_id) is None else make_envs(env_id)
    except gymnasium.error.Error as error:
        raise env_not_found(name, error) from error
    except ImportError as error:
        raise EnvError(f"Making {name!r} failed: {error}.") from error


def env_not_found(env_id: str, error: Exception, *, configs: Collection[str] = ()) -> EnvError:
    """Return an error that explains gymnasium's refusal of an env id, with near names.

    Args:
        env_id: the id that gymnasium refused.
        error: gymnasium's error, whose reason is quoted.
        configs: names of configs, where the user could have meant one of them.
    """
    reason = str(error).rstrip(".") or type(error).__name__
    end = "" if reason.endswith("?") else "."
    if env_id in gymnasium.registry:
        # The id exists, so it was refused for another reason, such as a missing package.
        return EnvError(f"Gymnasium can't make {env_id!r}: {reason}{end}")
    start = f"No config is called {env_id!r}, and gymnasium" if configs else "Gymnasium"
    env = "it" if configs else repr(env_id)
    return EnvError(f"{start} can't make {env}: {reason}{end}", fix=_suggestion(env_id, configs))


def _suggestion(env_id: str, configs: Collection[str]) -> str:
    neighbors = {
        "env": nearest(env_id, {*gymnasium.registry, *known_ids()}),
        "config": nearest(env_id, configs),
    }
    options = [
        f"the {kind} {' or '.join(map(repr, names))}" for kind, names in neighbors.items() if names
    ]
    if options:
        return f"Did you mean {', or '.join(options)}?"
    return "'puffer-policies configs' lists the configs." if configs else ""


def best_mode(env_id: str) -> str:
    """Return the env's own vector class where it has one, else copies in this process."""
    spec = gymnasium.spec(env_id)
    native = spec.vector_entry_point is not None and not spec.additional_wrappers
    return NATIVE if native else "sync"
