"""Spaces as plain data: equal spaces come back, and nothing else is built from others' data."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)

from puffer_policies.spaces import Image
from puffer_policies.spaces.data import default_text, space_from_data, space_to_data
from puffer_policies.structure import StructureError

INF = np.inf
FLOATS = np.asarray([0.1, 4.8, 1 / 3], dtype=np.float32)

SPACES = [
    Box(-1, 1, (3,)),
    Box(-INF, INF, (2, 3), dtype=np.float64),
    Box(np.asarray([-4.8, -INF, 0], np.float32), np.asarray([4.8, INF, 1], np.float32)),
    Box(-FLOATS, FLOATS),
    Box(0, 255, (4, 84, 84), dtype=np.uint8),
    Box(0, 2**64 - 1, (2,), dtype=np.uint64),
    Box(-(2**63), 2**63 - 1, (1,), dtype=np.int64),
    Box(-1, 1, (2,), dtype=np.float16),
    Box(-1, 1, ()),
    Image(np.zeros((3, 3, 3), np.uint8), 255, layout="HWC", dtype=np.uint8),
    Discrete(2),
    Discrete(5, start=-3),
    MultiDiscrete([3, 2]),
    MultiDiscrete([[3, 2], [4, 4]], dtype=np.int32),
    MultiBinary(4),
    MultiBinary([4]),
    MultiBinary((2, 3)),
    Tuple([Discrete(2), Box(0, 1, (1,))]),
    Tuple([]),
    Dict([("z", Discrete(2)), ("a", Tuple([Dict({"x": MultiBinary(2)}), Discrete(3)]))]),
]
if "start" in inspect.signature(MultiDiscrete).parameters:
    SPACES += [MultiDiscrete([3, 2], start=[1, -1]), MultiDiscrete([3, 3], start=[2, 2])]
if "dtype" in inspect.signature(Discrete).parameters:
    SPACES += [Discrete(3, dtype=np.int32)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_from_its_data(space):
    data = json.loads(json.dumps(space_to_data(space), allow_nan=False))
    again = space_from_data(data)
    assert again == space
    assert type(again) is type(space)
    assert str(again) == str(space)  # also the order of keys, and dtypes
    assert space_to_data(again) == data


class Angle(Box):
    pass


@pytest.mark.parametrize(
    "space",
    [
        Angle(-1, 1, (1,)),
        Text(5),
        Sequence(Discrete(2)),
        Graph(Discrete(2), None),
        Dict({"a": Text(3)}),
        Tuple([Angle(-1, 1, (1,))]),
    ],
    ids=str,
)
def test_a_space_that_others_must_build_has_no_data(space):
    assert space_to_data(space) is None


def box(**changes):
    return {"kind": "box", "low": 0, "high": 1, "shape": [2], "dtype": "float32"} | changes


def nested(depth):
    data = {"kind": "discrete", "n": 2, "start": 0, "dtype": "int64"}
    for _ in range(depth):
        data = {"kind": "tuple", "spaces": [data]}
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"kind": []},
        {"kind": "graph"},
        box(kind="image"),
        box(shape=[2**40]),
        box(shape=[2**20, 2**20]),
        box(shape=[-1]),
        box(shape=[2.0]),
        box(shape=[True]),
        box(dtype="object"),
        box(dtype="<V8"),
        box(low=[0]),
        box(low="nan"),
        box(low=float("nan")),
        box(low=10**400),
        box(low=2, high=1),
        box(low="inf", high="inf"),
        box(dtype="uint8", high=256),
        box(dtype="uint8", high=0.5),
        box(extra=1),
        {"kind": "discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"kind": "discrete", "n": 2**63 - 1, "start": 2**62, "dtype": "int64"},
        {"kind": "discrete", "n": 2, "start": 0, "dtype": "float32"},
        {"kind": "multidiscrete", "nvec": 0, "start": 0, "shape": [2], "dtype": "int64"},
        {"kind": "multidiscrete", "nvec": 2, "start": 0, "shape": [], "dtype": "int64"},
        {"kind": "multibinary", "shape": [0], "flat": True},
        {"kind": "multibinary", "shape": [2, 2], "flat": True},
        {"kind": "multibinary", "shape": [10**5, 10**5], "flat": False},
        {"kind": "dict", "spaces": [["a", nested(0)], ["a", nested(0)]]},
        {"kind": "dict", "spaces": [["a"]]},
        {"kind": "tuple", "spaces": [box(shape=[2**23])] * 3},
        nested(100),
        {"kind": "tuple", "spaces": [nested(0)] * 20_000},
    ],
    ids=lambda data: str(data)[:60],
)
def test_other_data_are_refused_before_anything_is_built(data):
    with pytest.raises(StructureError):
        space_from_data(data)


def test_images_of_different_layouts_differ():
    pixels = np.zeros((3, 3, 3), np.uint8)
    first, last = (
        Image(pixels, pixels + 255, layout=each, dtype=np.uint8) for each in ("CHW", "HWC")
    )
    assert first != last
    assert first == Image(pixels, pixels + 255, layout="CHW", dtype=np.uint8)
    frame = Box(0, 255, (8, 8, 3), np.uint8)
    assert frame == Image(frame.low, frame.high, layout="HWC", dtype=np.uint8)
    assert frame != Image(frame.low, frame.high, layout="CHW", dtype=np.uint8)


@pytest.mark.parametrize("options", [{"precision": 3}, {"sign": "+"}, {"linewidth": 20}])
@pytest.mark.parametrize("space", [Box, Angle, lambda *bounds: Dict({"a": Angle(*bounds)})])
def test_the_text_of_a_space_does_not_depend_on_print_options(space, options):
    expected = str(space(-FLOATS, FLOATS))
    with np.printoptions(**options):
        assert default_text(space(-FLOATS, FLOATS)) == expected
