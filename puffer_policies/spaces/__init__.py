"""Gymnasium spaces: those of an env, the kind of each, and the layout of actions.

Gymnasium's own names can be imported from here as well, as from ``pufferlib.spaces``.
"""

from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from puffer_policies.spaces.layout import (
    ActionLayout,
    Image,
    Spaces,
    action_layout,
    at_part,
    described,
    image_layout,
    image_size,
    observation_kind,
    require_kinds,
    sorted_keys,
    spaces_of,
    with_four_names,
)

__all__ = [
    "ActionLayout",
    "Box",
    "Dict",
    "Discrete",
    "Image",
    "MultiBinary",
    "MultiDiscrete",
    "Spaces",
    "Tuple",
    "action_layout",
    "at_part",
    "described",
    "image_layout",
    "image_size",
    "observation_kind",
    "require_kinds",
    "sorted_keys",
    "spaces_of",
    "with_four_names",
]
