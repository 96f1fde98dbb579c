"""PettingZoo's parallel envs by name: ``pettingzoo/pistonball_v6``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from puffer_policies.errors import EnvError, MissingDependency, did_you_mean

PREFIX = "pettingzoo/"
"""Begins the names of PettingZoo's envs, which gymnasium does not know."""


def make_parallel_env(name: str, env_kwargs: Mapping[str, Any]) -> Any:
    """Make a parallel env of PettingZoo.

    Args:
        name: ``pettingzoo/NAME_vN`` or ``pettingzoo/FAMILY/NAME_vN``.
        env_kwargs: arguments of its ``parallel_env()``.

    Raises:
        MissingDependency: PettingZoo, or what the env's family needs, is not installed.
        EnvError: no such env, one in which agents take turns, or wrong arguments.
    """
    pettingzoo = _import()
    family, env_id = _look_up(pettingzoo, name)
    try:
        return pettingzoo.make("parallel", f"{family}/{env_id}", **env_kwargs)
    except (ImportError, pettingzoo.env_registry.exceptions.FailedToImport) as error:
        raise MissingDependency(
            f"{name!r} needs a package that is not installed: {error.__cause__ or error}.",
            fix=f"pip install 'pettingzoo[{family}]'",
        ) from error
    except Exception as error:
        raise EnvError(
            f"Making {name!r} with {dict(env_kwargs)} failed: {type(error).__name__}: {error}.",
            fix="The [env] section holds the arguments of its parallel_env().",
        ) from error


def _import() -> Any:
    try:
        import_module("pettingzoo.env_registry.exceptions")
        return import_module("pettingzoo")
    except ImportError as error:
        raise MissingDependency(
            f"PettingZoo 1.27 or newer is needed: {error}.",
            fix='pip install "puffer-policies[pettingzoo]"',
        ) from error


def _look_up(pettingzoo: Any, name: str) -> tuple[str, str]:
    """Return the family and the id of an env in PettingZoo's registry."""
    wanted = name.removeprefix(PREFIX)
    parallel, by_turns = (
        _by_name(registry) for registry in (pettingzoo.parallel_registry, pettingzoo.aec_registry)
    )
    if wanted in parallel:
        return parallel[wanted]
    if wanted in by_turns:
        raise EnvError(
            f"In {name!r} the agents take turns; here they all act in every step.",
            fix="Train a parallel env, or turn it into one: pettingzoo.utils.aec_to_parallel.",
        )
    short = sorted(each for each in parallel if "/" not in each)
    raise EnvError(
        f"PettingZoo has no env {wanted!r}. {did_you_mean(wanted, short)}".rstrip(),
        fix=f"It has {', '.join(short)}.",
    )


def _by_name(registry: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return (family, id) by the names that one may use: ``pong_v3`` and ``atari/pong_v3``."""
    found = {}
    for spec in registry.values():
        name, env_id = f"{spec.name}_v{spec.version}", f"{spec.name}-v{spec.version}"
        for each in (name, f"{spec.namespace}/{name}"):
            found[each] = (spec.namespace, env_id)
    return found
