"""What a family's literature does to its envs before a policy sees them, applied by id.

======== =========================================================================================
Atari    grey 84 x 84 pixels, 4 frames a step, 4 frames stacked, up to 30 no-ops at the start: the
         choices of Mnih et al. 2015 as Machado et al. 2018 (arXiv:1709.06009) list them, made by
         ALE's own vector env in C++, and by it alone.
MiniGrid the 7 x 7 view as codes: object, colour and state of each cell, which encoders of choices
         make one-hot. The compass direction and the mission, a text, are dropped.
======== =========================================================================================

MinAtar's (10, 10, C) bool grids, MuJoCo's and Box2D's vectors are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.families import family_of
from puffer_policies.errors import EnvError

Env = gymnasium.Env[Any, Any]
Wrapper = gymnasium.Wrapper[Any, Any, Any, Any]
Wrapping = Callable[[Env], Wrapper]
Options = dict[str, Any]

TRAINING_ONLY: dict[str, Options] = {"Atari": {"reward_clipping": False, "episodic_life": False}}
"""Options that help learning and falsify scores, by family, with their values in an evaluation."""

VIEWS = ("codes", "image")
"""``--env.view`` of MiniGrid: MultiDiscrete codes, or the same numbers as a uint8 image."""

OBJECTS, COLOURS, STATES = 11, 6, 3
"""Codes of a MiniGrid cell: minigrid.core.constants, without the states that only agents have."""


def preprocessing(
    env_id: str, env_kwargs: Mapping[str, Any], *, native: bool
) -> tuple[Options, list[Wrapping]]:
    """Return the arguments that are left for the env, and what to put around each copy of it.

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
    left = dict(env_kwargs)
    view = left.pop("view", VIEWS[0])
    if view not in VIEWS:
        raise EnvError(f"env.view is {view!r}.", fix=f"Use one of {', '.join(VIEWS)}.")
    return left, [_image if view == "image" else _codes]


def _image(env: Env) -> Wrapper:
    """Keep the view: (7, 7, 3) uint8, in a space that says 255 where codes end at 10."""
    return gymnasium.wrappers.TransformObservation(env, _image_of, _image_space(env))


def _codes(env: Env) -> Wrapper:
    """Keep the view as (7, 7, 3) int64 choices, in a space that says how many each has."""
    shape = _image_space(env).shape
    nvec = np.broadcast_to([OBJECTS, COLOURS, STATES], shape)
    return gymnasium.wrappers.TransformObservation(env, _codes_of, spaces.MultiDiscrete(nvec))


def _image_space(env: Env) -> spaces.Box:
    return env.observation_space["image"]  # type: ignore[index, no-any-return]


def _image_of(observation: Mapping[str, Any]) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = observation["image"]
    return image


def _codes_of(observation: Mapping[str, Any]) -> NDArray[np.int64]:
    return _image_of(observation).astype(np.int64)
