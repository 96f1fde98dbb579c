"""Families of envs that other packages bring: known by id, imported when one of them is made.

Packages that register their envs only when imported need no import by the user here. Which package
that is stands in ``families.toml`` beside this file, never in a config: a config or a checkpoint
may come from a stranger, and to import what it names would be to run code that it chose.
"""

from __future__ import annotations

import logging
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType

import gymnasium

from puffer_policies.errors import EnvError, MissingDependency, did_you_mean


@dataclass(frozen=True, slots=True)
class Family:
    """Envs of one package."""

    name: str
    """What the envs are called together: ``Atari``."""
    package: str
    """The module whose import, and what `_AFTER_IMPORT` adds, makes the ids known to gymnasium."""
    extra: str
    """The extra of this package that installs it."""
    prefixes: tuple[str, ...]
    """Beginnings that only ids of this family have; none where gymnasium registers the ids."""
    ids: tuple[str, ...]
    """Ids of the newest versions, sorted, known without the package."""

    @property
    def installed(self) -> bool:
        """Whether the package can be found; it is not imported."""
        return find_spec(self.package) is not None

    def claims(self, env_id: str) -> bool:
        """Return whether an id belongs to the family, whether or not such an env exists."""
        return env_id in self.ids or env_id.startswith(self.prefixes)


@cache
def families() -> tuple[Family, ...]:
    """Return the families that we know, sorted by name."""
    text = (files("puffer_policies.envs") / "families.toml").read_text(encoding="utf-8")
    return tuple(
        Family(
            name,
            table["package"],
            table["extra"],
            tuple(table["prefixes"]),
            tuple(table["ids"]),
        )
        for name, table in sorted(tomllib.loads(text).items())
    )


def family_of(env_id: str) -> Family | None:
    """Return the family that an id belongs to, or None for gymnasium's own and for strangers'."""
    return next((each for each in families() if each.claims(env_id)), None)


def known_ids() -> list[str]:
    """Return the ids of all families, installed or not, for listings and for near names."""
    return [env_id for family in families() for env_id in family.ids]


def bring_env(name: str) -> str:
    """Make an id known to gymnasium, by importing its family's package, and return the id.

    Args:
        name: an env id. A module before it, as in ``ale_py:ALE/Pong-v5``, must be its family's.

    Raises:
        EnvError: the name says what module to import.
        MissingDependency: the package of the id's family is not installed.
    """
    env_id = _without_module(name)
    family = family_of(env_id)
    if family is not None:
        _import(family, env_id)
    return env_id


def _without_module(name: str) -> str:
    module, colon, env_id = name.rpartition(":")
    if not colon:
        return name
    family = family_of(env_id)
    if family is not None and module == family.package:
        return env_id
    raise EnvError(
        f"{name!r} names a module to import. The name of an env may come from a stranger's config "
        "or checkpoint, and importing runs code.",
        fix=f"Import {module!r} in a program of your own, and train {env_id!r} from there.",
    )


def _import(family: Family, env_id: str) -> None:
    try:
        with _quiet_import():
            package = import_module(family.package)
    except ModuleNotFoundError as error:
        near = "" if env_id in family.ids else did_you_mean(env_id, family.ids)
        raise MissingDependency(
            f"{env_id!r} is one of the {family.name} envs, which need {error.name}: it is not "
            f"installed. {near}".rstrip(),
            fix=f'pip install "puffer-policies[{family.extra}]"',
        ) from error
    _AFTER_IMPORT.get(family.name, _nothing)(package)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep back what packages say while they are imported, and no one can act on.

    Box2D's bindings are deprecated by Python itself; MinAtar misses drawing tools that training
    does not need, through ``logging.warning``, which would also set up the root logger.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.manager.disable
    root.addHandler(silent)
    logging.disable(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(level)
        root.removeHandler(silent)


def _nothing(package: ModuleType) -> None:
    """Importing was enough."""


def _register_minatar(package: ModuleType) -> None:
    if "MinAtar/Breakout-v1" not in gymnasium.registry:
        with _quiet_import():
            import_module("minatar.gym").register_envs()


def _log_for_mujoco(package: ModuleType) -> None:
    """Send MuJoCo's warnings to ``logging``: by itself it writes MUJOCO_LOG.TXT where one works."""
    package.set_mju_user_warning(_log_mujoco)


def _log_mujoco(message: str) -> None:
    # Gymnasium's models are older than MuJoCo 4: what that deprecates is not for users to mend.
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    logging.getLogger("mujoco").log(level, message)


_AFTER_IMPORT = {"MinAtar": _register_minatar, "MuJoCo": _log_for_mujoco}
"""What a family needs besides the import."""
