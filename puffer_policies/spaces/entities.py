"""Observation spaces that hold a set of entities, told by their form and by the names of keys.

`E` entities at most, `F` numbers of each. A set is a Box (E, F), or a Dict with such a Box under
``entities``. The Dict may have a ``mask`` (E,), 1 where there is an entity and 0 where there is
none; its other keys describe what the entities have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from gymnasium.spaces import Box, Dict, MultiBinary

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.spaces import described, observation_kind

KIND = "entities"
"""What a record calls such spaces among the kinds of observation that it reads."""

ENTITIES, MASK = "entities", "mask"
"""The keys of a Dict that are read as entities, and as which of them are there."""


@dataclass(frozen=True, slots=True, eq=False)
class EntityLayout:
    """Where the entities of an observation are."""

    num_entities: int
    """E."""
    num_features: int
    """F."""
    key: str = ""
    """The key that holds the entities; empty if the observation is a tensor of them."""
    masked: bool = False
    """Whether there is a mask."""
    common: Dict | None = None
    """The space of what entities have in common."""


def observation_kinds(space: Any) -> tuple[str, ...]:
    """Return every kind of an observation space: its own, and ``entities`` if it holds a set.

    Raises:
        IncompatibleSpace: no encoder reads the space.
    """
    kind = observation_kind(space)
    return (kind,) if find_entities(space) is None else (kind, KIND)


@singledispatch
def find_entities(space: Any) -> EntityLayout | None:
    """Return where a space holds a set of entities; None if it holds none."""
    return None


@find_entities.register
def _(space: Box) -> EntityLayout | None:
    return EntityLayout(*space.shape) if len(space.shape) == 2 and all(space.shape) else None


@find_entities.register
def _(space: Dict) -> EntityLayout | None:
    found = find_entities(space.spaces.get(ENTITIES))
    masked = MASK in space.spaces
    if found is None or found.key:
        return None
    if masked and not is_mask(space.spaces[MASK], found.num_entities):
        return None
    common = {name: each for name, each in space.spaces.items() if name not in (ENTITIES, MASK)}
    return EntityLayout(
        found.num_entities,
        found.num_features,
        key=ENTITIES,
        masked=masked,
        common=Dict(common) if common else None,
    )


@singledispatch
def is_mask(space: Any, num_entities: int) -> bool:
    """Whether a space says of each entity whether it is there: MultiBinary, or a Box of 0 to 1."""
    return False


@is_mask.register
def _(space: MultiBinary, num_entities: int) -> bool:
    return tuple(space.shape) == (num_entities,)


@is_mask.register
def _(space: Box, num_entities: int) -> bool:
    return space.shape == (num_entities,) and bool(
        (space.low == 0).all() and (space.high == 1).all()
    )


def require_entities(space: Any, policy: str) -> EntityLayout:
    """Return where `space` holds a set of entities.

    Raises:
        IncompatibleSpace: with the policy, the space, what holds a set, and a policy that fits.
    """
    layout = find_entities(space)
    if layout is None:
        raise IncompatibleSpace(
            f"{policy!r} does not fit the observation space {described(space)}: it is of kind "
            f"{observation_kind(space)!r}, and {policy!r} wants {KIND!r}: a Box (E, F), or a Dict "
            f"with one as {ENTITIES!r} and, if it has a {MASK!r}, that of (E,) zeros and ones.",
            fix="'MultiInput' fits this space.",
        )
    return layout
