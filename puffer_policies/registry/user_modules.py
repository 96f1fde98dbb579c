"""Policies and wrappers of the modules that a user imports, by the names of their classes.

PufferLib imports what ``package`` in a config says, and takes ``policy_name`` from there. Here the
user imports it, by ``--import my_package``: a config may come from a stranger.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from puffer_policies.errors import NameTaken, PolicyNotFound, did_you_mean
from puffer_policies.registry.decorators import register_class
from puffer_policies.registry.imports import import_module, module_offence, user_imports
from puffer_policies.registry.names import name_offence
from puffer_policies.registry.records import Kind
from puffer_policies.registry.registry import Registry


def use_module(name: str, registry: Registry) -> None:
    """Import the module of ``--import``, and register the policies and wrappers that it defines.

    A name that is taken keeps its meaning; `require_names` refuses a config that would mean the
    other.

    Raises:
        ConfigError: there is no such module.
        PluginError: importing it failed.
    """
    import_module(name)
    origin = f"--import {name}"
    for label, cls in _classes_in(sys.modules[name]).items():
        if any(each.is_record_of(cls) for each in registry.records()):
            continue  # with keywords, by a decorator
        kind: Kind = "wrapper" if goes_around_policy(cls) else "policy"
        with suppress(NameTaken):
            register_class(kind, cls, {}, name=label, origin=origin, registry=registry)


def require_names(
    policy: str,
    wrapper: str | None,
    *,
    package: str | None,
    registry: Registry,
    note: Callable[[str], object] = lambda text: None,
) -> None:
    """Refuse names of a config that lead nowhere, or to another class than its package defines.

    Args:
        policy: a name or an expression.
        wrapper: the name of a wrapper around it, or None.
        package: the module that the config names, which is not imported here.
        registry: where the names are looked up.
        note: is told where a name leads elsewhere than to a package that exists.

    Raises:
        PolicyError: as of `get_policy`, with near names, or with the step that imports the package.
        NameTaken: the package defines a class of this name, and the name means another.
    """
    spec = registry.spec(policy)
    wrappers = (*(each.name for each in spec.wrappers), wrapper)
    names: list[tuple[str, Kind]] = [(spec.name, "policy")]
    names += [(each, "wrapper") for each in wrappers if each is not None]
    for name, kind in names:
        try:
            record = registry.get(name, kind=kind)
        except PolicyNotFound as error:
            if package is None or module_offence(package):
                raise
            raise _not_found(error, name, package) from error
        if package is None:
            continue
        rival = _classes_of(package).get(name)
        if rival is not None and not record.is_record_of(rival):
            raise NameTaken(
                f"The config names the package {package!r}, which defines {name!r}, but the name "
                f"means {record.qualified_name!r} ({record.target}).",
                fix="Rename yours, or put @register_policy(override=True) above it.",
            )
        is_own = record.target.partition(":")[0].partition(".")[0] == package.partition(".")[0]
        if kind == "policy" and not is_own and package not in user_imports() and _exists(package):
            note(
                f"{name!r} is {record.qualified_name!r}. The config names the package {package!r}, "
                f"which is not imported without --import {package}."
            )


def goes_around_policy(cls: type[Any]) -> bool:
    """Whether a class takes ``(env, policy, ...)``, as PufferLib's wrappers do."""
    return "policy" in constructor_parameters(cls)[1:2]


def constructor_parameters(cls: type[Any]) -> list[str]:
    """Return the names of a constructor's parameters, without ``self``; empty if unknown."""
    try:
        return list(inspect.signature(cls).parameters)
    except (TypeError, ValueError):
        return []


def _not_found(error: PolicyNotFound, name: str, package: str) -> PolicyNotFound:
    if package not in user_imports():
        return PolicyNotFound(
            f"{error.problem}\nThe config names the package {package!r}, which is not imported, as "
            "a config may come from a stranger.",
            fix=f"If you have the package and trust it: --import {package}\n"
            "In a program, import it and put @register_policy above the class.",
        )
    known = _classes_of(package)
    fix = did_you_mean(name, known) or (
        f"It defines {', '.join(known)}." if known else "A policy is a class with forward_eval."
    )
    return PolicyNotFound(
        f"{error.problem}\nThe config names the package {package!r}, which is imported and does "
        "not define it.",
        fix=fix,
    )


def _exists(package: str) -> bool:
    """Whether there is a package of this name, on the path or in the working folder."""
    top = package.partition(".")[0]  # to look for what is inside, Python would import it
    with suppress(ImportError, ValueError):
        if find_spec(top) is not None:
            return True
    return any(path.is_file() for path in (Path(f"{top}.py"), Path(top, "__init__.py")))


def _classes_of(package: str) -> dict[str, type[Any]]:
    """Return the policies and wrappers of a module that the user imported; empty of any other."""
    return _classes_in(sys.modules[package]) if package in user_imports() else {}


def _classes_in(module: ModuleType) -> dict[str, type[Any]]:
    torch = sys.modules.get("torch")
    if torch is None:  # nothing has defined a module of torch's
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
        and callable(getattr(value, "forward_eval", None))
        and not name_offence(name)
    }
