"""Making envs by id: registering ours, importing the packages of others, adding preprocessing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from puffer_policies.envs.families import bring_family, family_of, known_ids, preprocessing
from puffer_policies.errors import EnvError, did_you_mean, nearest
from puffer_policies.registry import default_registry
from puffer_policies.registry.imports import import_env_module, user_imports

NATIVE = "vector_entry_point"
"""Gymnasium's name of the mode in which an env's own vector class runs the copies."""

OWN_ENVS: dict[str, tuple[str, str, int | None]] = {
    "Breakout-v0": ("breakout:BreakoutEnv", "breakout:BreakoutVectorEnv", 2000),
    "CartPoleNoVel-v0": ("no_velocity:CartPoleNoVel", "no_velocity:CartPoleNoVelVector", 500),
    "MountainCarContinuousNoVel-v0": ("no_velocity:MountainCarContinuousNoVel", "", 999),
    "PendulumNoVel-v0": ("no_velocity:PendulumNoVel", "", 200),
    "RepeatPrevious-v0": ("recall:RepeatPreviousEnv", "recall:RepeatPreviousVectorEnv", None),
    "RepeatFirst-v0": ("recall:RepeatFirstEnv", "recall:RepeatFirstVectorEnv", None),
    "MaskedRecall-v0": ("recall:MaskedRecallEnv", "recall:MaskedRecallVectorEnv", None),
    "Archery-v0": ("archery:ArcheryEnv", "archery:ArcheryVectorEnv", None),
    "NearestFriend-v0": ("friends:NearestFriendEnv", "friends:NearestFriendVectorEnv", None),
    "HiddenTide-v0": ("tide:HiddenTideEnv", "tide:HiddenTideVectorEnv", None),
    "Chain-v0": ("known_values:ChainEnv", "known_values:ChainVectorEnv", 32),
    "Countdown-v0": ("known_values:CountdownEnv", "known_values:CountdownVectorEnv", None),
}
"""By name: the env, its vector env if it has one of its own, and its time limit in steps.

The limits of gymnasium's classic control are those of the ids CartPole-v1, Pendulum-v1 and
MountainCarContinuous-v0.
"""

TENSOR_ENVS: dict[str, str] = {
    "TorchCartPole-v0": "cartpole:TorchCartPole",
    "TorchPendulum-v0": "pendulum:TorchPendulum",
    "TorchRepeatPrevious-v0": "repeat_previous:TorchRepeatPrevious",
}
"""By name: the vector env on a device. There is no single one, and the class has the time limit.

They stand above this module, as they need torch, which gymnasium imports when one is made.
"""


def register_envs() -> None:
    """Make our ids known to gymnasium. May be called again: the second time does nothing."""
    for name, vector_env in TENSOR_ENVS.items():
        if f"puffer_policies/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"puffer_policies/{name}",
                vector_entry_point=f"puffer_policies.vector.tensor.{vector_env}",
            )
    for name, (env, vector_env, limit) in OWN_ENVS.items():
        if f"puffer_policies/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"puffer_policies/{name}",
                entry_point=f"puffer_policies.envs.{env}",
                vector_entry_point=f"puffer_policies.envs.{vector_env}" if vector_env else None,
                max_episode_steps=limit,
            )


def find_env(name: str) -> str:
    """Make an env known to gymnasium, whoever brings it, and return its id.

    That of another package is known by its family, that of the user by the module which a
    registry.toml names for it.

    Raises:
        EnvError: the name says what module to import, and the user has not consented to that; or
            the module does not register the env.
        MissingDependency: the package that brings the env is not installed.
        TrustError, ConfigError, PluginError: as `import_env_module`.
    """
    register_envs()
    env_id = id_of(name)
    bring_family(env_id)
    if env_id not in gymnasium.registry:
        _bring_own(env_id)
    return env_id


def id_of(name: str) -> str:
    """Return an env's id without the module before it; nothing is imported.

    Args:
        name: an id. A module before it, as in ``ale_py:ALE/Pong-v5``, must be its family's, or one
            that the user has consented to.

    Raises:
        EnvError: it is another module.
    """
    module, colon, env_id = name.rpartition(":")
    if not colon:
        return name
    family = family_of(env_id)
    if family is not None:
        is_chosen = module == family.package
    else:
        entry = default_registry().envs.get(env_id)
        is_chosen = module in user_imports() or (entry is not None and entry.module == module)
    if is_chosen:
        return env_id
    raise EnvError(
        f"{name!r} names a module to import. The name of an env may come from a stranger's config "
        "or checkpoint, and importing runs code.",
        fix=f"If you trust it: --import {module}\n"
        f"In a program of yours: import {module}, and use {env_id!r}.",
    )


def _bring_own(env_id: str) -> None:
    """Import the module that a registry.toml names for an id, if one does."""
    entry = default_registry().envs.get(env_id)
    if entry is None:
        return
    before = set(gymnasium.registry)
    import_env_module(entry)
    if env_id not in gymnasium.registry:
        hint = did_you_mean(env_id, set(gymnasium.registry) - before)
        raise EnvError(
            f"{entry.module!r} ({entry.provenance.origin}) does not register {env_id!r}.",
            fix=hint or f"It should call gymnasium.register({env_id!r}, ...) when it is imported.",
        )


def make_envs(
    name: str,
    num_envs: int = 1,
    *,
    mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    worker: Callable[..., None] | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make copies of an env with `gymnasium.make_vec`, as our policies are trained on it.

    Args:
        name: an id of gymnasium, of ours, or of a family.
        num_envs: number of copies.
        mode: gymnasium's name of how they run; the env's own vector class, else sync, if None.
        env_kwargs: the [env] section of a config, options of the preprocessing among them.
        worker: what the processes of mode ``async`` run; gymnasium's own worker if None.

    Raises:
        EnvError, MissingDependency, TrustError, ConfigError, PluginError: as `find_env`, or an
            option of the preprocessing is wrong.
        gymnasium.error.Error: gymnasium can't make it.
    """
    env_id = find_env(name)
    mode = mode or best_mode(env_id)
    native = mode == NATIVE
    options, wrappers = preprocessing(env_id, env_kwargs or {}, native=native)
    # The rollout copies observations at once: a second copy inside the env is waste.
    vector_kwargs: dict[str, Any] = {} if native else {"copy": False}
    if mode == "async":
        vector_kwargs["worker"] = worker
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
        has_single = family_of(env_id) is None and not lacks_single_env(env_id)
        return gymnasium.make(env_id) if has_single else make_envs(env_id)
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
        "env": nearest(env_id, {*gymnasium.registry, *known_ids(), *default_registry().envs}),
        "config": nearest(env_id, configs),
    }
    options = [
        f"the {kind} {' or '.join(map(repr, names))}" for kind, names in neighbors.items() if names
    ]
    if options:
        first = f"Did you mean {', or '.join(options)}?"
    else:
        first = "'puffer-policies configs' lists the configs." if configs else ""
    step = "If it is an env of your own, name the module that registers it: --import MODULE."
    return f"{first}\n{step}".strip()


def best_mode(env_id: str) -> str:
    """Return the env's own vector class where it has one, else copies in this process."""
    spec = gymnasium.spec(env_id)
    native = spec.vector_entry_point is not None and not spec.additional_wrappers
    return NATIVE if native else "sync"


def lacks_single_env(env_id: str) -> bool:
    """Return whether gymnasium knows an env as a vector class alone, as those on a device are."""
    register_envs()
    spec = gymnasium.registry.get(env_id)
    return spec is not None and spec.entry_point is None


def takes_device(name: str) -> bool:
    """Return whether the vector class of an env has a parameter ``device``.

    Raises:
        Exception: as `find_env`, or whatever an import of the class raises.
    """
    entry = gymnasium.spec(find_env(name)).vector_entry_point
    maker = load_env_creator(entry) if isinstance(entry, str) else entry
    try:
        return maker is not None and "device" in inspect.signature(maker).parameters
    except ValueError:  # a class of C code without a signature
        return False
