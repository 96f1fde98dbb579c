"""The leaves of an observation space: which there are, which hold real numbers, one left out.

A leaf is a space whose observations are one array; Dict and Tuple spaces are trees of leaves. A
package with a space of its own registers it: ``leaf_spaces.register``, ``holds_reals.register``.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.batching import sorted_keys
from puffer_policies.spaces import described, image_layout

Space = gymnasium.Space[Any]


@singledispatch
def leaf_spaces(space: Any) -> Any:
    """Return the leaves of a space in dicts and tuples, as its observations are; keys sorted."""
    return space


@leaf_spaces.register
def _(space: gym_spaces.Dict) -> dict[Any, Any]:
    return {key: leaf_spaces(space.spaces[key]) for key in sorted_keys(space)}


@leaf_spaces.register(gym_spaces.Tuple)
def _(space: gym_spaces.Tuple[Any]) -> tuple[Any, ...]:
    return tuple(leaf_spaces(member) for member in space.spaces)


def space_of_leaves(tree: Any) -> Any:
    """Return the space whose leaves these are: what `leaf_spaces` takes apart."""
    if isinstance(tree, dict):
        return gym_spaces.Dict({key: space_of_leaves(branch) for key, branch in tree.items()})
    if isinstance(tree, tuple):
        return gym_spaces.Tuple([space_of_leaves(branch) for branch in tree])
    return tree


@singledispatch
def holds_reals(leaf: Any) -> bool:
    """Whether a leaf holds real numbers: a Box of floats that is no image."""
    return False


@holds_reals.register
def _(leaf: gym_spaces.Box) -> bool:
    return np.issubdtype(leaf.dtype, np.floating) and not image_layout(leaf)


@singledispatch
def without_key(space: Any, key: str) -> Space:
    """Return a Dict space without one of its keys.

    Raises:
        IncompatibleSpace: the space is no Dict, lacks the key, or has no other.
    """
    raise IncompatibleSpace(
        f"The observation space {described(space)} is no Dict, so it has no key {key!r}.",
        fix="Leave the key out.",
    )


@without_key.register
def _(space: gym_spaces.Dict, key: str) -> Space:
    rest = {name: member for name, member in space.spaces.items() if name != key}
    if key not in space.spaces or not rest:
        found = f"has the keys {list(space.spaces)}"
        raise IncompatibleSpace(
            f"The observation space {found}: "
            + (f"there is no {key!r}." if key not in space.spaces else f"none beside {key!r}."),
            fix="Name the key that holds the action mask, beside others that the policy sees.",
        )
    return gym_spaces.Dict(rest)
