"""Observation spaces that hold a set of entities, recognized by their shape and their keys.

A set has at most `E` entities of `F` numbers each. It is a Box (E, F), or a Dict with such a Box
under ``entities``. The Dict may have a ``mask`` (E,), which is 1 where there is an entity and 0
elsewhere. Its other keys describe what the entities have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from gymnasium.spaces import Box, Dict, MultiBinary

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.spaces import described, observation_kind

KIND = "entities"
"""The kind of such spaces, by which a record declares that its policy reads them."""

ENTITIES, MASK = "entities", "mask"
"""The keys of a Dict that hold the entities, and the mask of those that exist."""


@dataclass(frozen=True, slots=True, eq=False)
class EntityLayout:
    """Where an observation has its entities, and how many of which size."""

    num_entities: int
    """E, the largest number of entities."""
    num_features: int
    """F, the numbers of one entity."""
    key: str = ""
    """The key of the entities; empty if the observation is itself their tensor."""
    masked: bool = False
    """Whether the observation has a mask."""
    common: Dict | None = None
    """The space of what the entities have in common; None if there is nothing."""


def observation_kinds(space: Any) -> tuple[str, ...]:
    """Return the kinds of an observation space: its own, and ``entities`` if it holds a set.

    Raises:
        IncompatibleSpace: no encoder reads the space.
    """
    kind = observation_kind(space)
    return (kind,) if find_entities(space) is None else (kind, KIND)


@singledispatch
def find_entities(space: Any) -> EntityLayout | None:
    """Return the layout of the set of entities in a space; None if it holds none."""
    return None


# A matrix of another meaning counts as a set as well. That costs nothing, as `array` remains its
# first kind, and only policies that declare `entities` read it as one.
@find_entities.register
def _(space: Box) -> EntityLayout | None:
    return EntityLayout(*space.shape) if len(space.shape) == 2 and all(space.shape) else None


@find_entities.register
def _(space: Dict) -> EntityLayout | None:
    layout = find_entities(space.spaces.get(ENTITIES))
    # A Dict under the key could hold a set of its own, but not one of this space.
    if layout is None or layout.key:
        return None
    masked = MASK in space.spaces
    if masked and not is_mask(space.spaces[MASK], layout.num_entities):
        return None
    common = {name: each for name, each in space.spaces.items() if name not in (ENTITIES, MASK)}
    return EntityLayout(
        layout.num_entities,
        layout.num_features,
        key=ENTITIES,
        masked=masked,
        common=Dict(common) if common else None,
    )


@singledispatch
def is_mask(space: Any, num_entities: int) -> bool:
    """Return whether a space has a 0 or 1 for each entity: MultiBinary, or a Box from 0 to 1."""
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
    """Return the layout of the set of entities in a space, or refuse the space.

    Raises:
        IncompatibleSpace: with the space, what a set looks like, and a policy that fits.
    """
    layout = find_entities(space)
    if layout is None:
        raise IncompatibleSpace(
            f"{policy!r} does not fit the observation space {described(space)}: it is of kind "
            f"{observation_kind(space)!r}, and {policy!r} wants {KIND!r}: a Box (E, F), or a Dict "
            f"with one as {ENTITIES!r}, whose {MASK!r}, if it has one, is (E,) zeros and ones.",
            fix="'MultiInput' fits this space.",
        )
    return layout
