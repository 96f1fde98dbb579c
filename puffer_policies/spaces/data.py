"""Spaces as plain data, from which equal spaces are built, and the texts of older files.

The data of a space are those of its constructor. A Box has a number for a bound that is the same
everywhere, else a flat list; infinities are the texts "inf" and "-inf", which JSON has no number
for. The keys of a Dict keep their order, by which encoders put them side by side.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from puffer_policies.spaces.layout import Image
from puffer_policies.structure import (
    BOOLEAN,
    MAX_DEPTH,
    Anything,
    Integer,
    ListOf,
    OneOf,
    Structure,
    StructureError,
    Table,
    Text,
)

Space = gymnasium.Space[Any]
Data = dict[str, Any]

MAX_ELEMENTS = 2**24
"""Elements of a space, over all of its parts: a file must not fill the memory with bounds."""
MAX_BOUNDS = 2**18
"""Numbers that are written for a bound that is not the same everywhere."""
MAX_PARTS = 10_000
"""Spaces inside a Dict or a Tuple."""

INFINITIES = {"inf": math.inf, "-inf": -math.inf}

_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_INTEGER = OneOf(_INTEGERS)
_NUMBER = OneOf((*_INTEGERS, "float16", "float32", "float64", "bool"))
_SHAPE = ListOf(Integer(0, MAX_ELEMENTS), longest=32)
_COUNT = Integer(1)


_KINDS: dict[str, dict[str, Structure]] = {
    "box": {"low": Anything(), "high": Anything(), "shape": _SHAPE, "dtype": _NUMBER},
    "image": {
        "low": Anything(),
        "high": Anything(),
        "shape": _SHAPE,
        "dtype": _NUMBER,
        "layout": OneOf(("CHW", "HWC")),
    },
    "discrete": {"n": _COUNT, "start": Integer(), "dtype": _INTEGER},
    "multidiscrete": {"nvec": Anything(), "start": Anything(), "shape": _SHAPE, "dtype": _INTEGER},
    "multibinary": {"shape": ListOf(Integer(1, MAX_ELEMENTS), longest=32), "flat": BOOLEAN},
    "dict": {"spaces": ListOf(ListOf(Anything(), longest=2), longest=MAX_PARTS)},
    "tuple": {"spaces": ListOf(Anything(), longest=MAX_PARTS)},
}
_STRUCTURES = {kind: Table({"kind": Text(20), **structure}) for kind, structure in _KINDS.items()}


# -- writing ---------------------------------------------------------------------------------------


def space_to_data(space: Space) -> Data | None:
    """Return a space as plain data, or None if no equal space could be built from them.

    That is the case for classes of others, also for subclasses of gymnasium's, as nobody else knows
    what they add.
    """
    data = _data_of(space)
    return data if data is not None and _twin(data) == space else None


def _twin(data: Data) -> Space | None:
    """Return the space of data, or None if it is larger than a file may declare."""
    try:
        return space_from_data(data)
    except StructureError:
        return None


def _data_of(space: Any, *, is_exact: bool = True) -> Data | None:
    """Return the data of a space, or None.

    Args:
        space: any space.
        is_exact: take a subclass for a stranger; else one that is printed as its base is taken for
            that.
    """
    base = next((cls for cls in type(space).__mro__ if cls in _WRITERS), None)
    if base is None:
        return None
    same = type(space) is base if is_exact else type(space).__repr__ is base.__repr__
    return _WRITERS[base](space, is_exact) if same else None


def _box_data(space: Box, is_exact: bool) -> Data:
    return {
        "kind": "box",
        "low": _numbers(space.low),
        "high": _numbers(space.high),
        "shape": list(map(int, space.shape)),
        "dtype": str(np.dtype(space.dtype).name),
    }


def _image_data(space: Image, is_exact: bool) -> Data:
    return {**_box_data(space, is_exact), "kind": "image", "layout": space.layout}


def _discrete_data(space: Discrete, is_exact: bool) -> Data:
    return {
        "kind": "discrete",
        "n": int(space.n),
        "start": int(space.start),
        "dtype": str(np.dtype(space.dtype).name),
    }


def _multidiscrete_data(space: MultiDiscrete, is_exact: bool) -> Data:
    # `start` came after gymnasium 0.29.
    start = getattr(space, "start", np.zeros_like(space.nvec))
    return {
        "kind": "multidiscrete",
        "nvec": _numbers(space.nvec),
        "start": _numbers(start),
        "shape": list(map(int, space.nvec.shape)),
        "dtype": str(np.dtype(space.dtype).name),
    }


def _multibinary_data(space: MultiBinary, is_exact: bool) -> Data:
    # MultiBinary(3) and MultiBinary([3]) are not equal.
    return {
        "kind": "multibinary",
        "shape": list(map(int, space.shape)),
        "flat": isinstance(space.n, int | np.integer),
    }


def _dict_data(space: Dict, is_exact: bool) -> Data | None:
    parts = [[key, _data_of(each, is_exact=is_exact)] for key, each in space.spaces.items()]
    complete = all(isinstance(key, str) and data is not None for key, data in parts)
    return {"kind": "dict", "spaces": parts} if complete else None


def _tuple_data(space: Tuple[Any], is_exact: bool) -> Data | None:
    parts = [_data_of(each, is_exact=is_exact) for each in space.spaces]
    return {"kind": "tuple", "spaces": parts} if None not in parts else None


_WRITERS: dict[type, Callable[[Any, bool], Data | None]] = {
    Box: _box_data,
    Image: _image_data,
    Discrete: _discrete_data,
    MultiDiscrete: _multidiscrete_data,
    MultiBinary: _multibinary_data,
    Dict: _dict_data,
    Tuple: _tuple_data,
}


def _numbers(array: np.ndarray) -> Any:
    """Return one number if all are the same, else a flat list of them."""
    flat = array.reshape(-1)
    same = flat.size > 0 and bool((flat == flat[0]).all())
    values = [_number(each) for each in (flat[:1] if same else flat).tolist()]
    return values[0] if same else values


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and math.isinf(value) else value


# -- reading ---------------------------------------------------------------------------------------


def space_from_data(data: Any, path: str = "space") -> Space:
    """Build the space that `space_to_data` made data of.

    Raises:
        StructureError: these are not the data of a space, or of one that is too large.
    """
    return _Reader().space(data, path, MAX_DEPTH)


class _Reader:
    """Builds a space and its parts, which have an allowance of elements together."""

    def __init__(self) -> None:
        self.elements = MAX_ELEMENTS
        self.parts = MAX_PARTS

    def space(self, data: Any, path: str, depth: int) -> Space:
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in _STRUCTURES:
            raise StructureError(path, f"a space of a kind in {[*_STRUCTURES]}", data)
        _STRUCTURES[kind].check(data, path)
        self.parts -= 1
        if not depth or self.parts < 0:
            raise StructureError(path, f"at most {MAX_PARTS:,} spaces, {MAX_DEPTH} deep", data)
        if kind in ("dict", "tuple"):
            return self.parts_of(kind, data["spaces"], f"{path}.spaces", depth - 1)
        shape = tuple(data.get("shape", ()))
        self.elements -= math.prod(shape)
        if self.elements < 0:
            raise StructureError(f"{path}.shape", f"at most {MAX_ELEMENTS:,} elements", data)
        dtype = np.dtype(data.get("dtype", "int8"))
        build: Callable[..., Space] = getattr(self, kind)
        return build(data, shape, dtype, path)

    def parts_of(self, kind: str, parts: list[Any], path: str, depth: int) -> Space:
        if kind == "tuple":
            return Tuple([self.space(each, f"{path}[{i}]", depth) for i, each in enumerate(parts)])
        for i, pair in enumerate(parts):
            if len(pair) != 2:
                raise StructureError(f"{path}[{i}]", "a key and a space", pair)
            Text().check(pair[0], f"{path}[{i}]")
        if len({key for key, _ in parts}) < len(parts):
            raise StructureError(path, "each key once", [key for key, _ in parts])
        # In pairs, as gymnasium sorts the keys of a dict.
        return Dict([(key, self.space(each, f"{path}.{key}", depth)) for key, each in parts])

    def box(self, data: Data, shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> Box:
        low, high = self.bounds(data, shape, dtype, path)
        return Box(low, high, dtype=dtype.type)

    def image(self, data: Data, shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> Box:
        low, high = self.bounds(data, shape, dtype, path)
        return Image(low, high, layout=data["layout"], dtype=dtype.type)

    def discrete(self, data: Data, shape: Any, dtype: np.dtype[Any], path: str) -> Discrete:
        limits = np.iinfo(dtype)
        last = data["start"] + data["n"] - 1
        Integer(int(limits.min), int(limits.max)).check(data["start"], f"{path}.start")
        Integer(int(limits.min), int(limits.max)).check(last, f"{path}: start + n - 1")
        kwargs = _with_dtype(Discrete, dtype, path)
        return Discrete(data["n"], start=data["start"], **kwargs)

    def multidiscrete(
        self, data: Data, shape: tuple[int, ...], dtype: np.dtype[Any], path: str
    ) -> MultiDiscrete:
        nvec = _array(data["nvec"], shape, dtype, f"{path}.nvec")
        start = _array(data["start"], shape, dtype, f"{path}.start")
        if not shape or (nvec < 1).any():
            raise StructureError(f"{path}.nvec", "counts of at least 1", data["nvec"])
        takes_start = "start" in inspect.signature(MultiDiscrete).parameters
        if start.any() and not takes_start:
            raise StructureError(f"{path}.start", "zeros, before gymnasium 1.0", data["start"])
        kwargs: dict[str, Any] = {"start": start} if takes_start else {}
        return MultiDiscrete(nvec, dtype=dtype.type, **kwargs)

    def multibinary(
        self, data: Data, shape: tuple[int, ...], dtype: np.dtype[Any], path: str
    ) -> MultiBinary:
        if not shape or (data["flat"] and len(shape) != 1):
            raise StructureError(f"{path}.shape", "at least one axis, one if it is flat", data)
        return MultiBinary(shape[0] if data["flat"] else list(shape))

    def bounds(
        self, data: Data, shape: tuple[int, ...], dtype: np.dtype[Any], path: str
    ) -> tuple[np.ndarray, np.ndarray]:
        low, high = (_array(data[name], shape, dtype, f"{path}.{name}") for name in ("low", "high"))
        if (low > high).any() or (low == math.inf).any() or (high == -math.inf).any():
            raise StructureError(path, "lower bounds below the upper ones", data)
        return low, high


def _array(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> np.ndarray:
    """Return numbers of a space as an array: one for all elements, or a flat list."""
    items = values if isinstance(values, list) else [values]
    size = math.prod(shape)
    if isinstance(values, list) and (len(items) != size or size > MAX_BOUNDS):
        raise StructureError(
            path, f"a number, or a list of {size:,} (up to {MAX_BOUNDS:,})", values
        )
    numbers = [_checked(each, dtype, path) for each in items]
    if not isinstance(values, list):
        return np.full(shape, numbers[0], dtype=dtype)
    return np.array(numbers, dtype=dtype).reshape(shape)


def _checked(value: Any, dtype: np.dtype[Any], path: str) -> Any:
    """Return a number that the dtype can hold."""
    if dtype.kind == "f":
        if isinstance(value, str) and value in INFINITIES:
            return INFINITIES[value]
        largest = float(np.finfo(dtype).max)
        if type(value) not in (int, float) or not -largest <= value <= largest:
            raise StructureError(path, f"a number of {dtype}", value)
        return value
    if dtype.kind == "b":
        BOOLEAN.check(value, path)
        return value
    limits = np.iinfo(dtype)
    Integer(int(limits.min), int(limits.max)).check(value, path)
    return value


def _with_dtype(cls: Any, dtype: np.dtype[Any], path: str) -> dict[str, Any]:
    """Return the argument for a dtype; older versions of gymnasium have int64 alone."""
    if "dtype" in inspect.signature(cls).parameters:
        return {"dtype": dtype.type}
    if dtype != np.int64:
        raise StructureError(f"{path}.dtype", "int64, before gymnasium 1.2", dtype.name)
    return {}


# -- comparing -------------------------------------------------------------------------------------


def default_text(space: Space) -> str:
    """Return ``str(space)`` as NumPy's default print options make it."""
    with np.printoptions(
        edgeitems=3,
        threshold=1000,
        floatmode="maxprec",
        precision=8,
        suppress=False,
        linewidth=75,
        nanstr="nan",
        infstr="inf",
        sign="-",
        formatter=None,
        legacy=False,
    ):
        data = _data_of(space, is_exact=False)
        # A new one, as a Box keeps the text of its bounds from the moment when it was made.
        twin = None if data is None else _twin(data)
        return str(space if twin is None else twin)
