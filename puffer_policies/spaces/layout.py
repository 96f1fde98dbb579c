"""Gymnasium spaces: those of an env, the kind of each, and the layout of actions.

Every dispatch on the type of a space is here or in `puffer_policies.nn.features`. A package with a
space of its own registers it with these functions: ``action_layout.register(MySpace)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import singledispatch
from pkgutil import resolve_name
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from puffer_policies.errors import ContractError, EnvError, IncompatibleSpace

MAKER = "puffer_policies.envs.factory:make_for_spaces"
"""What makes the env of an id, as a target like those of records. Envs stand above spaces, so their
maker is named here and loaded when somebody asks for the spaces of an id."""

MAX_INTEGER_CHOICES = 4096
"""Largest range of an integer Box that becomes one categorical choice per element. A head has an
output for each option, so a larger one would be all output layer."""


class _FourNames:
    """The four names under which constructors look for the spaces of one agent.

    Vector envs and PufferLib have ``single_observation_space`` and ``single_action_space``, single
    envs the two without the prefix. PufferLib's own policies read both pairs.
    """

    __slots__ = ()

    @property
    def single_observation_space(self) -> gymnasium.Space[Any]:
        """The observation space."""
        return self._spaces.observation

    @property
    def single_action_space(self) -> gymnasium.Space[Any]:
        """The action space."""
        return self._spaces.action

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """The observation space."""
        return self._spaces.observation

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The action space."""
        return self._spaces.action

    @property
    def _spaces(self) -> Spaces:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Spaces(_FourNames):
    """A single agent's observation and action space. It can be passed wherever an env can."""

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]

    @property
    def _spaces(self) -> Spaces:
        return self


class _EnvView(_FourNames):
    """An env as constructors get it where it lacks some of the four names; all else is its own."""

    def __init__(self, env: Any, spaces: Spaces) -> None:
        self.env, self._of_agent = env, spaces

    @property
    def _spaces(self) -> Spaces:
        return self._of_agent

    # An env has attributes that nobody can list, such as those that PufferLib's policies read.
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("env", "_of_agent"):  # a copy has none of them yet
            raise AttributeError(name)
        return getattr(self.env, name)


def with_four_names(env: Any) -> Any:
    """Return what a policy's constructor gets: the env, or a view of it, with all four names.

    The names are ``single_observation_space``, ``single_action_space``, ``observation_space`` and
    ``action_space``. What has them all, such as a vector env, stays as it is.
    """
    names = ("observation_space", "action_space", "single_action_space")
    if isinstance(env, Spaces | _EnvView):
        return env
    if _has_single_names(env) and all(hasattr(env, name) for name in names):
        return env
    return _EnvView(env, spaces_of(env))


def _has_single_names(env: Any) -> bool:
    """Whether an env has the names of vector envs; a gymnasium wrapper warns when it is asked."""
    return not isinstance(env, gymnasium.Wrapper) and hasattr(env, "single_observation_space")


def spaces_of(env: Any, *, make: Callable[[str], Any] | None = None) -> Spaces:
    """Return the spaces of one agent of an env.

    Args:
        env: an Env, a vector env, a PufferLib env, an env id, or `Spaces`.
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
    # A vector env has both names, and the plain ones are of the whole batch. Before 1.0,
    # gymnasium's wrappers warn when they are asked for an attribute that only vector envs have.
    for prefix in ("single_", "") if _has_single_names(env) else ("",):
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
    """Return a space as text for messages. A Box comes without its bounds, which can be long."""
    return str(space)


@described.register
def _(space: Box) -> str:
    return f"Box(shape={space.shape}, dtype={space.dtype})"


@singledispatch
def observation_kind(space: Any) -> str:
    """Return the kind of an observation space.

    Kinds are ``vector``, ``array``, ``image``, ``discrete``, ``multidiscrete``, ``multibinary``,
    ``dict`` and ``tuple``.

    Raises:
        IncompatibleSpace: no encoder reads the space.
    """
    raise IncompatibleSpace(
        f"Observation space {described(space)} is of a kind that no encoder reads.",
        fix="Encoders read Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple. Register "
        "other spaces with puffer_policies.nn.features.make_features.register.",
    )


@observation_kind.register
def _(space: Box) -> str:
    if len(space.shape) == 1:
        return "vector"
    return "image" if image_layout(space) else "array"


# A lambda in a loop sees the last value of `_kind`, so each has its own as a default.
for _kind, _space_type in {
    "discrete": Discrete,
    "multidiscrete": MultiDiscrete,
    "multibinary": MultiBinary,
    "dict": Dict,
    "tuple": Tuple,
}.items():
    observation_kind.register(_space_type, lambda space, kind=_kind: kind)


class Image(Box):
    """A Box that is (C, h, w) or (h, w, C) by declaration, for shapes that leave it open."""

    def __init__(self, low: Any, high: Any, *, layout: str, dtype: Any) -> None:
        if layout not in ("CHW", "HWC"):
            raise IncompatibleSpace(
                f"An Image can't have the layout {layout!r}.", fix="Use 'CHW' or 'HWC'."
            )
        super().__init__(low, high, dtype=dtype)
        self.layout = layout

    def __repr__(self) -> str:
        """Return the shape, the dtype and the layout."""
        return f"Image({self.shape}, {self.dtype}, {self.layout})"

    def __eq__(self, other: object, /) -> bool:
        """Compare the layouts as well; that of a plain Box is the one that its shape implies."""
        return (
            super().__eq__(other) and isinstance(other, Box) and self.layout == image_layout(other)
        )


def image_layout(space: Box) -> str:
    """Return ``CHW`` or ``HWC`` for a Box that can be an image, else an empty string.

    An image has three axes. Its channels are the first or the last axis, whichever is smaller than
    both others, and the last if both are. A Box of an ambiguous shape such as (3, 3, 3) is not an
    image, unless it is an `Image`.
    """
    if isinstance(space, Image):
        return space.layout
    # An env that gives many frames as channels can have more of them than pixels along an axis, but
    # frames of such sizes are rare enough to be declared.
    if len(space.shape) != 3:
        return ""
    first, middle, last = space.shape
    if last < first and last < middle:
        return "HWC"
    return "CHW" if first < middle and first < last else ""


def image_size(space: Any) -> tuple[int, int]:
    """Return the height and the width in pixels of a space of the kind ``image``."""
    height, width = space.shape[:2] if image_layout(space) == "HWC" else space.shape[1:]
    return int(height), int(width)


@contextmanager
def at_part(key: object) -> Iterator[None]:
    """Name the part of a Dict or Tuple whose space is refused inside; '' is no part."""
    try:
        yield
    except IncompatibleSpace as error:
        if key == "":
            raise
        raise IncompatibleSpace(f"At {key!r}: {error.problem}", fix=error.fix) from error


def sorted_keys(space: Dict) -> tuple[Any, ...]:
    """Return the keys sorted as text, as an order that depends on neither the space nor the env.

    Gymnasium sorts the keys of some dicts and keeps the order of others, and a checkpoint is loaded
    for an env whose author may have written them in another order.
    """
    return tuple(sorted(space.spaces, key=str))


def require_kinds(
    spaces: Spaces,
    policy: str,
    *,
    observations: tuple[str, ...] = (),
    actions: tuple[str, ...] = (),
    instead: str = "Default",
) -> None:
    """Refuse spaces that `policy` can't read or serve.

    Args:
        spaces: those that it is built for.
        policy: its name.
        observations: the kinds that it reads; any if empty.
        actions: the kinds that it serves; any if empty.
        instead: the name of a policy that fits.

    Raises:
        IncompatibleSpace: with the space, its kind, the kinds of the policy, and `instead`.
    """
    if observations:
        kind = observation_kind(spaces.observation)
        _require(policy, f"observation space {spaces.observation}", kind, observations, instead)
    if actions:
        kind = action_layout(spaces.action).kind
        _require(policy, f"action space {spaces.action}", kind, actions, instead)


def _require(policy: str, space: str, kind: str, kinds: tuple[str, ...], instead: str) -> None:
    if kind not in kinds:
        raise IncompatibleSpace(
            f"{policy!r} does not fit the {space}: it is of kind {kind!r}, and {policy!r} wants "
            f"{' or '.join(map(repr, kinds))}.",
            fix=f"{instead!r} fits this space.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class ActionLayout:
    """How a policy acts in an action space, and how its actions become members of the space.

    A policy's actions are (N,) int64 for one choice, (N, K) int64 for K choices, and
    (N, *shape) float32 for a Box of real numbers. Those of a Dict or a Tuple are the actions of its
    parts side by side, (N, A): int64 if all of them are choices, else float32, which holds every
    integer up to 2^24. The parts of a Dict are in the order of its sorted keys.
    """

    kind: str
    """``discrete``, ``multidiscrete``, ``multibinary``, ``box``, ``dict`` or ``tuple``."""
    shape: tuple[int, ...]
    """Shape of one member of the space; of a Dict or Tuple, that of the policy's action, (A,)."""
    dtype: np.dtype[Any]
    """Dtype of a member; of a Dict or Tuple, that of the policy's action."""
    nvec: tuple[int, ...] = ()
    """Number of options of each choice, over all parts; empty for real numbers."""
    start: np.ndarray | None = None
    """First option of each choice, shaped like a member."""
    low: np.ndarray | None = None
    """Lower bounds of real numbers."""
    high: np.ndarray | None = None
    """Upper bounds of real numbers."""
    parts: dict[Any, ActionLayout] = field(default_factory=dict)
    """The layouts of a Dict's or a Tuple's parts, by key or place; empty for other spaces."""

    @property
    def is_continuous(self) -> bool:
        """Whether the space is a Box of real numbers, so that the policy's logits are a Normal."""
        return not self.nvec and not self.parts

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """Shape of one action as the policy returns it."""
        if self.parts or self.is_continuous:
            return self.shape
        return () if self.kind == "discrete" else (len(self.nvec),)

    @property
    def policy_dtype(self) -> type[np.generic]:
        """Dtype of an action as the policy returns it: int64 for choices, else float32."""
        return np.int64 if self.num_reals == 0 and self.nvec else np.float32

    @property
    def num_reals(self) -> int:
        """Number of real numbers of an action."""
        return sum(math.prod(each.shape) for _, each, _ in self.leaves() if each.is_continuous)

    def leaves(self) -> Iterator[tuple[str, ActionLayout, slice]]:
        """Yield every layout that has no parts, its path of keys, and its columns of an action.

        The path joins keys by dots and is empty for a space without parts.
        """
        first = 0
        for path, leaf in self._leaves():
            width = math.prod(leaf.policy_shape)
            yield path, leaf, slice(first, first + width)
            first += width

    def _leaves(self) -> Iterator[tuple[str, ActionLayout]]:
        if not self.parts:
            yield "", self
        for key, part in self.parts.items():
            for path, leaf in part._leaves():
                yield f"{key}.{path}" if path else str(key), leaf

    def flat_mask(self, mask: Any) -> np.ndarray:
        """Return a mask as bool (..., A), the options of all choices side by side.

        Args:
            mask: that already; or a tuple with the mask of each choice, nested if the choices are;
                or, for a Dict or Tuple, a dict or tuple with the mask of each part. A part that
                has None, or that a dict leaves out, may do everything.

        Raises:
            IncompatibleSpace: a part that the space does not have, or too few of them; a part or a
                choice whose mask has another number of options.
        """
        if not self.parts or not isinstance(mask, dict | tuple):
            pieces = [np.atleast_1d(_as_bools(each)) for each in _pieces(mask)]
            sizes = tuple(each.shape[-1] for each in pieces)
            # Sizes that are wrong twice could add up to the right number of options.
            if isinstance(mask, tuple) and sizes != self.nvec:
                raise IncompatibleSpace(
                    f"The action mask has {list(sizes)} options, the choices have "
                    f"{list(self.nvec)}.",
                    fix="Give one number for each option, true where it is allowed.",
                )
            return np.concatenate(pieces, -1) if pieces else np.ones(0, bool)
        masks = mask if isinstance(mask, dict) else dict(enumerate(mask))
        wrong = set(masks) - set(self.parts)
        if wrong or (self.kind == "tuple" and len(masks) < len(self.parts)):
            raise IncompatibleSpace(
                f"The action mask has the parts {sorted(masks, key=str)}, the action space has "
                f"{list(self.parts)}.",
                fix="Give a mask for each part that has choices, under its key.",
            )
        given = {key: self._part_mask(key, each) for key, each in masks.items() if each is not None}
        if len({each.shape[:-1] for each in given.values()}) > 1:
            shapes = {key: each.shape for key, each in given.items()}
            raise IncompatibleSpace(
                f"The masks of the parts have the shapes {shapes}.",
                fix="Give those of as many rows for each part.",
            )
        # A part that may do everything has as many rows as the others have.
        lead = next((each.shape[:-1] for each in given.values()), ())
        free = (
            given.get(key, np.ones((*lead, sum(part.nvec)), bool))
            for key, part in self.parts.items()
        )
        return np.concatenate(list(free), -1)

    def _part_mask(self, key: Any, mask: Any) -> np.ndarray:
        """Return the mask of a part, (..., its options)."""
        part = self.parts[key]
        with at_part(key):
            flat = part.flat_mask(mask)
            if flat.shape[-1] != sum(part.nvec):
                raise IncompatibleSpace(
                    f"The action mask has {flat.shape[-1]} options, the part has {sum(part.nvec)}.",
                    fix="n for Discrete, the sum of nvec for MultiDiscrete, 2 n for MultiBinary; "
                    "real numbers have none.",
                )
        return flat

    def to_env(self, actions: np.ndarray) -> Any:
        """(N, ...) actions of the policy -> (N, *shape) members of the space.

        Real numbers are clipped to the bounds, as a Gaussian has none. The members of a Dict or
        Tuple are a dict or a tuple of those of its parts, as vector envs take them.
        """
        if self.parts:
            return self._members(actions)
        members = actions.reshape(len(actions), *self.shape)
        if self.is_continuous:
            # Clipped here and not in the policy: log-probabilities are of the unclipped actions.
            members = np.clip(members, self.low, self.high)
        else:
            # A float32 of a mixed action holds every option, but not every option plus its start.
            start: Any = self.start
            members = members.astype(np.int64, copy=False) + start
        return np.asarray(members, dtype=self.dtype)

    def _members(self, actions: np.ndarray) -> Any:
        # A policy with other parts would give each part the columns of another one.
        if actions.shape[1:] != self.shape:
            raise ContractError(
                f"The policy's actions have {math.prod(actions.shape[1:])} columns, and the parts "
                f"{list(self.parts)} of the action space have {self.shape[0]}.",
                fix="Give logits for each part of the space, of its size, and for no other.",
            )
        members, first = {}, 0
        for key, part in self.parts.items():
            width = math.prod(part.policy_shape)
            members[key] = part.to_env(actions[:, first : first + width])
            first += width
        return members if self.kind == "dict" else tuple(members.values())


def _pieces(mask: Any) -> Iterator[Any]:
    """Yield the mask of each choice, out of nested tuples, or a mask of all choices."""
    if isinstance(mask, tuple) or (isinstance(mask, list) and not all(map(np.isscalar, mask))):
        for each in mask:
            yield from _pieces(each)
    else:
        yield mask


def _as_bools(mask: Any) -> np.ndarray:
    array = np.asarray(mask)
    if array.dtype.kind not in "biuf":
        raise IncompatibleSpace(
            f"An action mask holds {type(mask).__name__!r} where numbers are expected.",
            fix="Give one number for each option, true where it is allowed.",
        )
    return array.astype(bool)


@singledispatch
def action_layout(space: Any) -> ActionLayout:
    """Return the layout of an action space.

    Raises:
        IncompatibleSpace: no head serves the space.
    """
    raise IncompatibleSpace(
        f"Action space {described(space)} is of a kind that no head serves.",
        fix="Heads serve Discrete, MultiDiscrete, MultiBinary, Box, and Dict and Tuple of them. "
        "Turn other spaces into these in the env, or register them with "
        "puffer_policies.spaces.action_layout.register.",
    )


@action_layout.register
def _(space: Discrete) -> ActionLayout:
    start = np.asarray(space.start, dtype=np.int64)
    return ActionLayout("discrete", (), space.dtype, (int(space.n),), start)


@action_layout.register
def _(space: MultiDiscrete) -> ActionLayout:
    # Gymnasium 0.29 has no `start`.
    start = np.broadcast_to(np.asarray(getattr(space, "start", 0), dtype=np.int64), space.shape)
    nvec = tuple(int(n) for n in space.nvec.reshape(-1))
    return ActionLayout("multidiscrete", space.shape, space.dtype, nvec, start)


@action_layout.register
def _(space: MultiBinary) -> ActionLayout:
    start = np.zeros(space.shape, dtype=np.int64)
    # Two options a bit instead of a Bernoulli, so that trainers see categorical logits only.
    return ActionLayout("multibinary", space.shape, space.dtype, (2,) * start.size, start)


@action_layout.register
def _(space: Box) -> ActionLayout:
    if space.dtype.kind in "biu":
        return _integer_layout(space)
    low, high = space.low, space.high
    return ActionLayout("box", space.shape, space.dtype, low=low, high=high)


@action_layout.register
def _(space: Dict) -> ActionLayout:
    return _hybrid_layout("dict", space, {key: space[key] for key in sorted_keys(space)})


@action_layout.register(Tuple)
def _(space: Tuple[Any]) -> ActionLayout:
    return _hybrid_layout("tuple", space, dict(enumerate(space)))


def _hybrid_layout(kind: str, space: Any, spaces: dict[Any, Any]) -> ActionLayout:
    if not spaces:
        raise IncompatibleSpace(
            f"Action space {described(space)} has no parts, so that there is nothing to choose.",
            fix="Give it a part, or use Discrete(1).",
        )
    parts = {key: _part_layout(key, each) for key, each in spaces.items()}
    width = sum(math.prod(each.policy_shape) for each in parts.values())
    nvec = tuple(n for each in parts.values() for n in each.nvec)
    dtype = np.result_type(*(each.policy_dtype for each in parts.values()))
    # Of int64 and float32, NumPy makes float64, which no policy returns.
    numbers = np.dtype(np.int64 if dtype.kind == "i" else np.float32)
    return ActionLayout(kind, (width,), numbers, nvec, parts=parts)


def _part_layout(key: Any, space: Any) -> ActionLayout:
    with at_part(key):
        return action_layout(space)


def _integer_layout(space: Box) -> ActionLayout:
    # Python's integers, as the width of the whole range of int64 overflows int64.
    bounds = zip(space.low.reshape(-1), space.high.reshape(-1), strict=True)
    nvec = tuple(int(high) - int(low) + 1 for low, high in bounds)
    if not space.is_bounded() or max(nvec, default=1) > MAX_INTEGER_CHOICES:
        raise IncompatibleSpace(
            f"Action space {described(space)} has over {MAX_INTEGER_CHOICES} integers in one "
            "element, which are too many for a choice, and no continuous head draws integers.",
            fix="Use a float Box, or Discrete or MultiDiscrete with fewer options.",
        )
    start = space.low.astype(np.int64)
    return ActionLayout("multidiscrete", space.shape, space.dtype, nvec, start)
