"""Which spaces and wrappers a policy is checked with, by what its record declares."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import cycle, islice

import gymnasium
import numpy as np
from gymnasium import spaces

from puffer_policies.assembly.fit import misfits, require_stack
from puffer_policies.checks.model import Scope
from puffer_policies.errors import BuildError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import Capabilities, PolicyRecord, WrapperRecord
from puffer_policies.spaces import Spaces, action_layout, observation_kind
from puffer_policies.spaces.entities import KIND

Space = gymnasium.Space[object]

SMALLEST_IMAGE = 8
"""Height and width of images, in pixels, unless a record asks for larger ones."""

# Sizes differ and are small: an axis that is taken for another shows, and checks take milliseconds.
_VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
_NESTED = spaces.Dict(
    {
        "where": _VECTOR,
        "inside": spaces.Dict(
            {"b": spaces.Discrete(3, start=1), "a": spaces.Box(-1.0, 1.0, (2, 2), np.float32)}
        ),
    }
)
# Both kinds of numbers, and keys that are not sorted: columns that are exchanged leave the space.
_PARTS = spaces.Dict(
    OrderedDict(
        tool=spaces.Discrete(3),
        arm=spaces.Tuple((spaces.Box(-2.0, 0.5, (2,), np.float32), spaces.MultiDiscrete([3, 2]))),
    )
)


def spaces_for(capabilities: Capabilities | None) -> list[Spaces]:
    """Return pairs of tiny spaces that cover every kind of observation and of action once.

    A policy without a record declares nothing, so it gets what every policy of the field can
    serve: vectors, with each kind of action that PufferLib 3.0 has.
    """
    if capabilities is None:
        return [Spaces(_VECTOR, action) for action in _actions()[:3]]
    actions = [space for space in _actions() if _serves(capabilities, space)]
    observations = [
        space
        for space in _observations(capabilities)
        if not misfits(capabilities, Spaces(space, actions[0]))
    ]
    # Each kind once: heads and encoders meet in hidden vectors only, so the product of both proves
    # no more, in ten times the time.
    number = max(len(observations), len(actions))
    pairs = zip(islice(cycle(observations), number), islice(cycle(actions), number), strict=True)
    return [Spaces(observation, action) for observation, action in pairs]


def spaces_for_memory() -> list[Spaces]:
    """Return two pairs for a memory, unlike in observations and in actions."""
    return [Spaces(_VECTOR, _actions()[0]), Spaces(_NESTED, _actions()[2])]


def wrappers_for(record: PolicyRecord, registry: Registry) -> list[str]:
    """Return the names of the wrappers whose traits let them go around the policy of `record`."""
    wrappers = {name: registry.get(name) for name in registry.names("wrapper")}
    return [
        name
        for name, wrapper in wrappers.items()
        if isinstance(wrapper, WrapperRecord) and _stacks(record, [wrapper])
    ]


def kinds(pair: Spaces) -> str:
    """Return the kinds of a pair of spaces, such as ``image/discrete``."""
    return f"{observation_kind(pair.observation)}/{action_layout(pair.action).kind}"


def likeness_of(pair: Spaces, scope: Scope, *, is_wrapped: bool) -> str:
    """Return what pairs of spaces share where one verdict of a check of `scope` is that of all."""
    if scope is Scope.SPACES:
        return repr(pair)
    layout = action_layout(pair.action)
    heads = "parts" if layout.parts else "reals" if layout.is_continuous else "choices"
    if scope is Scope.OBSERVATIONS:
        return f"{pair.observation!r} {heads}"
    return heads if scope is Scope.MODULES and not is_wrapped else ""


def _observations(capabilities: Capabilities) -> list[Space]:
    size = max(SMALLEST_IMAGE, capabilities.min_image_size)
    return [
        _VECTOR,
        spaces.Box(0, 255, (3, size, size), np.uint8),
        spaces.Discrete(5, start=-2),  # a value taken for an index fails at a negative start
        _NESTED,
        spaces.Box(-1.0, 1.0, (3, 2), np.float64),  # NumPy's default dtype, which few layers take
        spaces.Box(0, 255, (size, size, 3), np.uint8),  # channels last, as most envs have them
        spaces.MultiDiscrete([3, 2]),
        spaces.Tuple((spaces.MultiBinary(2), _VECTOR)),
        spaces.MultiBinary(3),
        *(_sets() if KIND in capabilities.observations else ()),
    ]


def _sets() -> list[Space]:
    """Return sets of entities, for policies that ask for them. To others they are plain Dicts."""
    rows, mask = spaces.Box(-1.0, 1.0, (3, 4), np.float32), spaces.Box(0, 1, (3,), np.int8)
    return [
        spaces.Dict({"mask": spaces.MultiBinary(3), "entities": rows}),
        spaces.Dict({"where": _VECTOR, "entities": rows, "mask": mask, "at": spaces.Discrete(2)}),
    ]


def _actions() -> list[Space]:
    return [
        spaces.Discrete(3),
        spaces.MultiDiscrete([3, 2]),
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        spaces.MultiBinary(3),
        spaces.Discrete(3, start=2),
        spaces.Box(-2.0, 0.5, (2, 3), np.float32),  # bounds that are not symmetric around 0
        spaces.Box(-1, 2, (2,), np.int64),  # choices, one for each element
        spaces.MultiDiscrete(np.array([[2, 3], [3, 2]])),
        spaces.Box(-1.0, 1.0, (), np.float32),
        _PARTS,
        spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(3, start=1))),  # choices alone
    ]


def _serves(capabilities: Capabilities, space: Space) -> bool:
    return not capabilities.actions or action_layout(space).kind in capabilities.actions


def _stacks(record: PolicyRecord, wrappers: Sequence[WrapperRecord]) -> bool:
    try:
        require_stack(record, wrappers)
    except BuildError:
        return False
    return True
