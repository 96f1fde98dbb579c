"""Gymnasium spaces read once: the pair of an env, the kind of each, and the layout of actions.

Every dispatch on the type of a space is here or in `puffer_policies.nn.features`. A package with a
space of its own registers it there: ``action_layout.register(MySpace)``. Gymnasium's names stand
here too, as in ``pufferlib.spaces``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pkgutil import resolve_name
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from puffer_policies.errors import EnvError, IncompatibleSpace

MAKER = "puffer_policies.envs.factory:make_for_spaces"
"""What makes the env of an id, as a target like those of records. Envs stand above spaces, so their
maker is named here and loaded when somebody asks for the spaces of an id."""

MAX_INTEGER_CHOICES = 4096
"""Largest range of an integer Box that becomes one categorical choice per element."""


@dataclass(frozen=True, slots=True)
class Spaces:
    """A single agent's observation and action space. It serves wherever an env is asked for."""

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]

    @property
    def single_observation_space(self) -> gymnasium.Space[Any]:
        """The name that vector envs and PufferLib use."""
        return self.observation

    @property
    def single_action_space(self) -> gymnasium.Space[Any]:
        """The name that vector envs and PufferLib use."""
        return self.action


def spaces_of(env: Any, *, make: Callable[[str], Any] | None = None) -> Spaces:
    """Return one agent's spaces of a `Spaces`, an Env, a vector env, a PufferLib env or an env id.

    Args:
        env: what has the spaces.
        make: makes the env of an id; if None, the maker that `MAKER` names, which also knows our
            own ids and those of the packages in `puffer_policies.envs.families`.

    Raises:
        EnvError: there is no such env id, or the object has no spaces.
    """
    if isinstance(env, Spaces):
        return env
    if isinstance(env, str):
        instance = (make or resolve_name(MAKER))(env)
        try:
            return spaces_of(instance)
        finally:
            instance.close()
    # Before 1.0, gymnasium's wrappers warn when asked for what only vector envs have.
    for prefix in ("",) if isinstance(env, gymnasium.Wrapper) else ("single_", ""):
        observation = getattr(env, f"{prefix}observation_space", None)
        action = getattr(env, f"{prefix}action_space", None)
        if observation is not None and action is not None:
            return Spaces(observation, action)
    raise EnvError(
        f"{env!r} has no observation and action space.",
        fix="Give a gymnasium env, a vector env, an env id, or Spaces(observation, action).",
    )


@singledispatch
def described(space: Any) -> str:
    """Return a space in a few words, for messages: a Box without its bounds."""
    return str(space)


@described.register
def _(space: Box) -> str:
    return f"Box(shape={space.shape}, dtype={space.dtype})"


@singledispatch
def observation_kind(space: Any) -> str:
    """Return the kind of an observation space.

    One of ``vector``, ``array``, ``image``, ``discrete``, ``multidiscrete``, ``multibinary``,
    ``dict``, ``tuple``.
    """
    raise IncompatibleSpace(
        f"Observation space {described(space)} is of a kind that no encoder reads.",
        fix="Known are Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple; register others "
        "with puffer_policies.nn.features.make_features.register.",
    )


@observation_kind.register
def _(space: Box) -> str:
    if len(space.shape) == 1:
        return "vector"
    return "image" if image_layout(space) else "array"


for _kind, _space_type in {
    "discrete": Discrete,
    "multidiscrete": MultiDiscrete,
    "multibinary": MultiBinary,
    "dict": Dict,
    "tuple": Tuple,
}.items():
    observation_kind.register(_space_type, lambda space, kind=_kind: kind)


class Image(Box):
    """A Box (C, h, w) or (h, w, C) that says which: for images whose shape does not show it."""

    def __init__(self, low: Any, high: Any, *, layout: str, dtype: Any) -> None:
        if layout not in ("CHW", "HWC"):
            raise IncompatibleSpace(f"An Image's layout is {layout!r}.", fix="Use 'CHW' or 'HWC'.")
        super().__init__(low, high, dtype=dtype)
        self.layout = layout

    def __repr__(self) -> str:
        """Show what a Box shows, and the layout."""
        return f"Image({self.shape}, {self.dtype}, {self.layout})"


def image_layout(space: Box) -> str:
    """Return ``CHW`` or ``HWC`` for a Box that can be an image, else an empty string.

    An image has three axes; its channels are the axis that is smaller than both others, and the
    last one if both ends are. Ambiguous sizes such as (3, 3, 3) count as no image, unless the space
    is an `Image`.
    """
    if isinstance(space, Image):
        return space.layout
    if len(space.shape) != 3:
        return ""
    first, middle, last = space.shape
    if last < first and last < middle:
        return "HWC"
    return "CHW" if first < middle and first < last else ""


def image_size(space: Any) -> tuple[int, int]:
    """Return height and width in pixels of a space whose kind is ``image``."""
    height, width = space.shape[:2] if image_layout(space) == "HWC" else space.shape[1:]
    return int(height), int(width)


def require_kinds(
    spaces: Spaces,
    policy: str,
    *,
    observations: tuple[str, ...] = (),
    actions: tuple[str, ...] = (),
    instead: str = "Default",
) -> None:
    """Refuse spaces that `policy` is not made for; `instead` fits. An empty tuple means any.

    Raises:
        IncompatibleSpace: with the policy, the space, the kinds it reads and the other policy.
    """
    if observations:
        kind = observation_kind(spaces.observation)
        _require(policy, f"observation space {spaces.observation}", kind, observations, instead)
    if actions:
        kind = action_layout(spaces.action).kind
        _require(policy, f"action space {spaces.action}", kind, actions, instead)


def _require(policy: str, space: str, kind: str, wanted: tuple[str, ...], instead: str) -> None:
    if kind not in wanted:
        raise IncompatibleSpace(
            f"{policy!r} does not fit the {space}: it is of kind {kind!r}, and {policy!r} wants "
            f"{' or '.join(map(repr, wanted))}.",
            fix=f"{instead!r} fits this space.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActionLayout:
    """How an action space is parametrised, and how samples become its members.

    A policy's action is (N,) int64 for one choice, (N, K) int64 for several, and
    (N, *shape) float32 for Box.
    """

    kind: str
    """``discrete``, ``multidiscrete``, ``multibinary`` or ``box``."""
    shape: tuple[int, ...]
    """Shape of one member of the space."""
    dtype: np.dtype[Any]
    """Dtype of a member."""
    nvec: tuple[int, ...] = ()
    """Number of options of each choice; empty if continuous."""
    start: np.ndarray | None = None
    """First option of each choice, shaped like a member."""
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def is_continuous(self) -> bool:
        """Whether the policy draws real numbers."""
        return not self.nvec

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """Shape of one action as a policy draws it."""
        if self.is_continuous:
            return self.shape
        return () if self.kind == "discrete" else (len(self.nvec),)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """(N, ...) actions of the policy -> (N, *shape) members of the space. Boxes are clipped."""
        members = actions.reshape(len(actions), *self.shape)
        if self.is_continuous:
            members = np.clip(members, self.low, self.high)
        else:
            members = members + self.start
        return np.asarray(members, dtype=self.dtype)


@singledispatch
def action_layout(space: Any) -> ActionLayout:
    """Return how actions of `space` are parametrised.

    Raises:
        IncompatibleSpace: no head serves the space.
    """
    raise IncompatibleSpace(
        f"Action space {described(space)} is of a kind that no head serves.",
        fix="Known are Discrete, MultiDiscrete, MultiBinary and Box; flatten others in the env, or "
        "register them with puffer_policies.spaces.action_layout.register.",
    )


@action_layout.register
def _(space: Discrete) -> ActionLayout:
    start = np.asarray(space.start, dtype=np.int64)
    return ActionLayout("discrete", (), space.dtype, (int(space.n),), start)


@action_layout.register
def _(space: MultiDiscrete) -> ActionLayout:
    # `start` came after gymnasium 0.29.
    start = np.broadcast_to(np.asarray(getattr(space, "start", 0), dtype=np.int64), space.shape)
    nvec = tuple(int(n) for n in space.nvec.reshape(-1))
    return ActionLayout("multidiscrete", space.shape, space.dtype, nvec, start)


@action_layout.register
def _(space: MultiBinary) -> ActionLayout:
    start = np.zeros(space.shape, dtype=np.int64)
    return ActionLayout("multibinary", space.shape, space.dtype, (2,) * start.size, start)


@action_layout.register
def _(space: Box) -> ActionLayout:
    if np.issubdtype(space.dtype, np.integer):
        return _integer_layout(space)
    low, high = space.low, space.high
    return ActionLayout("box", space.shape, space.dtype, low=low, high=high)


def _integer_layout(space: Box) -> ActionLayout:
    # In floats first: the width of the whole int64 overflows int64.
    options = space.high.astype(np.float64) - space.low.astype(np.float64) + 1
    if not space.is_bounded() or options.max(initial=1) > MAX_INTEGER_CHOICES:
        raise IncompatibleSpace(
            f"Action space {described(space)} has over {MAX_INTEGER_CHOICES} integers in one "
            "element: too many for a choice, and no continuous head draws integers.",
            fix="Use a float Box, or Discrete or MultiDiscrete with fewer options.",
        )
    nvec = tuple(int(n) for n in options.reshape(-1))
    start = space.low.astype(np.int64)
    return ActionLayout("multidiscrete", space.shape, space.dtype, nvec, start)
