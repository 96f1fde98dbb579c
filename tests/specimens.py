"""Named spaces of every kind, and random observations and actions of any space as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from puffer_policies.spaces import Spaces

VECTOR = spaces.Box(-1.0, 1.0, (8,), np.float32)
FOUR = spaces.Discrete(4)
PIXELS = spaces.Box(0, 255, (4, 84, 84), np.uint8)

OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "vector": VECTOR,
    "scalar": spaces.Box(-2.0, 2.0, (), np.float32),
    "matrix": spaces.Box(-1.0, 1.0, (3, 5), np.float64),
    "half_bounded": spaces.Box(
        np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)
    ),
    "integers": spaces.Box(-5, 9, (3,), np.int32),
    "image_chw": spaces.Box(0, 255, (3, 9, 10), np.uint8),
    "image_hwc": spaces.Box(0, 255, (9, 10, 3), np.uint8),
    "discrete": spaces.Discrete(5),
    "discrete_start": spaces.Discrete(5, start=-2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multidiscrete_2d": spaces.MultiDiscrete(np.array([[3, 2], [4, 5]])),
    "multibinary": spaces.MultiBinary(6),
    "multibinary_2d": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict(
        {
            "where": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
            "inside": spaces.Dict({"b": spaces.Discrete(3, start=1), "a": spaces.MultiBinary(2)}),
            "members": spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (3,)))),
        }
    ),
    "tuple": spaces.Tuple(
        (spaces.Box(-1.0, 1.0, (4,)), spaces.Tuple((spaces.MultiDiscrete([2, 3]),)))
    ),
}

ACTIONS: dict[str, gymnasium.Space[Any]] = {
    "discrete": FOUR,
    "discrete_start": spaces.Discrete(3, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multidiscrete_equal": spaces.MultiDiscrete([3, 3]),
    "multidiscrete_one": spaces.MultiDiscrete([5]),
    "multidiscrete_2d": spaces.MultiDiscrete(np.array([[3, 2], [4, 5]])),
    "multibinary": spaces.MultiBinary(6),
    "multibinary_2d": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "box_scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "box_matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "box_half_bounded": spaces.Box(0.0, np.inf, (2,), np.float32),
    "box_float64": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "box_integers": spaces.Box(-3, 4, (2,), np.int64),
}

PAIRS = [
    *((observation, "discrete") for observation in OBSERVATIONS),
    *(("vector", action) for action in ACTIONS if action != "discrete"),
]
"""Every observation space once and every action space once: encoders and heads meet only in the
hidden features (N, H), so that more pairs prove no more."""

REFERENCE = Spaces(VECTOR, FOUR)


def samples(space: gymnasium.Space[Any], count: int, *, seed: int = 0) -> list[Any]:
    """`count` members of the space, as gymnasium draws them."""
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def batched(members: list[Any], *batch: int) -> Any:
    """Members of one space -> tensors (*batch, *obs) in the same nesting."""
    first = members[0]
    if isinstance(first, Mapping):
        return {key: batched([each[key] for each in members], *batch) for key in first}
    if isinstance(first, tuple):
        return tuple(batched(list(column), *batch) for column in zip(*members, strict=True))
    stacked = torch.from_numpy(np.stack([np.asarray(each) for each in members]))
    return stacked.reshape(*batch, *stacked.shape[1:])


def observation_batch(space: gymnasium.Space[Any], *batch: int, seed: int = 0) -> Any:
    """Random observations (*batch, *obs) as tensors."""
    return batched(samples(space, int(np.prod(batch)), seed=seed), *batch)


def map_tensors(function: Any, observations: Any) -> Any:
    """Apply a function to every tensor of nested observations."""
    if isinstance(observations, Mapping):
        return {key: map_tensors(function, each) for key, each in observations.items()}
    if isinstance(observations, tuple):
        return tuple(map_tensors(function, each) for each in observations)
    return function(observations)


def tensors_of(logits: Any) -> list[torch.Tensor]:
    """The tensors inside logits of any kind."""
    if isinstance(logits, torch.Tensor):
        return [logits]
    if isinstance(logits, tuple):
        return list(logits)
    return [logits.loc, logits.scale]


def assert_same_logits(first: Any, second: Any, *, atol: float = 1e-5) -> None:
    """Compare logits of any kind."""
    assert type(first) is type(second)
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-5)
