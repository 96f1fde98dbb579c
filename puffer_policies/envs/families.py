"""Families of envs that other packages bring: known by id, imported when one of them is made.

Packages that register their envs only when imported need no import by the user here. Which package
that is stands in ``families.toml`` beside this file, never in a config: a config or a checkpoint
may come from a stranger, and to import what it names would be to run code that it chose.

What the literature of a family does to its envs before a policy sees them is applied by id, too:

======== =========================================================================================
Atari    gray 84 x 84 pixels, 4 frames a step, 4 frames stacked, up to 30 no-ops at the start: the
         choices of Mnih et al. 2015 as Machado et al. 2018 (arXiv:1709.06009) list them, made by
         ALE's own vector env in C++, and by it alone.
MiniGrid the 7 x 7 view as codes: object, color and state of each cell, which encoders of choices
         make one-hot. The compass direction and the mission, a text, are dropped.
======== =========================================================================================

MinAtar's (10, 10, C) bool grids and the vectors of MuJoCo and Box2D are left as they are.
"""

from __future__ import annotations

import logging
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.errors import EnvError, MissingDependency, did_you_mean

Env = gymnasium.Env[Any, Any]
Wrapper = gymnasium.Wrapper[Any, Any, Any, Any]
Wrapping = Callable[[Env], Wrapper]
Options = dict[str, Any]

TRAINING_ONLY: dict[str, Options] = {"Atari": {"reward_clipping": False, "episodic_life": False}}
"""Options that help learning and falsify scores, by family, with their values in an evaluation."""

VIEWS = ("codes", "image")
"""``--env.view`` of MiniGrid: MultiDiscrete codes, or the same numbers as a uint8 image."""

OBJECTS, COLORS, STATES = 11, 6, 3
"""Codes of a MiniGrid cell: minigrid.core.constants, without the states that only agents have."""


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


def bring_family(env_id: str) -> None:
    """Make an id known to gymnasium, by importing the package of its family if it has one.

    Raises:
        MissingDependency: the package of the id's family is not installed.
    """
    family = family_of(env_id)
    if family is not None:
        # Also if gymnasium knows the id already: what `_AFTER_IMPORT` adds is needed all the same.
        _import(family, env_id)


def _import(family: Family, env_id: str) -> None:
    try:
        with _quiet_import():
            package = import_module(family.package)
    except ModuleNotFoundError as error:
        # Our list of ids serves where the package can't be asked.
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
    # `logging.warning` sets up a root logger that has no handlers: give it one for that time.
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


def preprocessing(
    env_id: str, env_kwargs: Mapping[str, Any], *, native: bool
) -> tuple[Options, list[Wrapping]]:
    """Return the arguments that are arguments for the env, and what to put around each copy of it.

    Args:
        env_id: any id; envs of no family get their arguments back and no wrapper.
        env_kwargs: the [env] section of a config.
        native: whether the env's own vector class runs the copies, around which nothing can be put.

    Raises:
        EnvError: Atari without ALE's vector env, or an option that does not exist.
    """
    family = family_of(env_id)
    name = family.name if family else ""
    if name == "Atari" and not native:
        raise EnvError(
            f"{env_id!r} was to run in gymnasium's vector envs, which would show raw frames.",
            fix="Leave vec.vectorization at 'auto': ALE's own vector env prepares the frames.",
        )
    if name == "MiniGrid":
        return _minigrid(env_kwargs)
    return dict(env_kwargs), []


def evaluation_kwargs(env_id: str, env_kwargs: Mapping[str, Any]) -> Options:
    """Return the env's arguments for an evaluation: whole games, and rewards as the game has them.

    Atari's clipped rewards and lost lives as ends of episodes are for training alone.
    """
    family = family_of(env_id)
    return {**env_kwargs, **TRAINING_ONLY.get(family.name if family else "", {})}


def _minigrid(env_kwargs: Mapping[str, Any]) -> tuple[Options, list[Wrapping]]:
    arguments = dict(env_kwargs)
    view = arguments.pop("view", VIEWS[0])
    if view not in VIEWS:
        raise EnvError(f"env.view is {view!r}.", fix=f"Use one of {', '.join(VIEWS)}.")
    return arguments, [_image if view == "image" else _codes]


def _image(env: Env) -> Wrapper:
    """Keep the view: (7, 7, 3) uint8, in a space that says 255 where codes end at 10."""
    return gymnasium.wrappers.TransformObservation(env, _image_of, _image_space(env))


def _codes(env: Env) -> Wrapper:
    """Keep the view as (7, 7, 3) int64 choices, in a space that says how many each has."""
    shape = _image_space(env).shape
    # The env's own space says 0 to 255 for each number, where codes end at 10.
    nvec = np.broadcast_to([OBJECTS, COLORS, STATES], shape)
    return gymnasium.wrappers.TransformObservation(env, _codes_of, spaces.MultiDiscrete(nvec))


def _image_space(env: Env) -> spaces.Box:
    return env.observation_space["image"]  # type: ignore[index, no-any-return]


def _image_of(observation: Mapping[str, Any]) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = observation["image"]
    return image


def _codes_of(observation: Mapping[str, Any]) -> NDArray[np.int64]:
    return _image_of(observation).astype(np.int64)
