"""The state of an env as plain data, found by walking its objects: no vector API hands it out.

Nothing is pickled. Numbers, strings, arrays, random generators and the containers of these are
written down; objects of Python classes are walked along their attributes, functions along what they
close over. Whatever else is met, such as the world of a physics engine or a process, is refused
with the path that led to it. What a module or a class holds for all its objects is not looked at.
"""

from __future__ import annotations

import enum
import functools
import random
import struct
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from puffer_policies.errors import EnvError

ATOMS = (type(None), bool, int, float, str)
"""What JSON holds as it is."""
FOREIGN = (
    *("asyncio", "concurrent", "ctypes", "io", "multiprocessing"),
    *("socket", "subprocess", "threading"),
)
"""Packages whose objects look like plain data, but stand for something of the system's."""
_HEAP_TYPE = 1 << 9
_POINTER = struct.calcsize("P")

Node = dict[str, Any]
"""An object as JSON: its ``kind``, and what it holds. ``[n]`` in there is node n."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `capture` found; `restore` puts it back."""

    nodes: list[Node]
    """The objects, the first one captured in front."""
    memory: np.ndarray
    """(bytes,) uint8: what the arrays hold, one behind the other."""


def capture(root: Any, *, name: str = "env") -> Snapshot:
    """Return the state of `root`; `name` begins the paths in errors.

    Raises:
        EnvError: something in it is no plain data; says what, and where.
    """
    walk = _Walk()
    try:
        walk.value(root, name)
    except RecursionError as error:
        raise EnvError(f"{name} is nested too deeply.") from error
    return Snapshot(walk.nodes, np.frombuffer(bytes(walk.memory), dtype=np.uint8))


def name_of(thing: Any) -> str:
    """Return the full name of a class, a function or a module."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or str(thing)
    return f"{module}.{name}" if module else str(name)


def attributes(thing: Any) -> dict[str, Any]:
    """Return what an object of a Python class holds, in ``__dict__`` and in slots."""
    pairs = members(type(thing))
    slots = {name: member.__get__(thing) for name, member in pairs if _is_set(thing, member)}
    return {**slots, **getattr(thing, "__dict__", {})}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the name and the descriptor of each slot of a class."""
    for base in cls.__mro__:
        if "__slots__" in vars(base):
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    yield name, member


def cells(function: types.FunctionType) -> dict[str, Any]:
    """Return what a function closes over, by name."""
    pairs = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in pairs if _is_filled(cell)}


class _Walk:
    """Gathers nodes; an object that is met twice is one node."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.memory = bytearray()
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is free for others once its object is gone

    def value(self, value: Any, path: str) -> Any:
        """Return `value` itself, or the number of its node in a list."""
        if type(value) in ATOMS:
            return value
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.nodes)
            self._alive.append(value)
            self.nodes.append({})
            # By type(): a proxy may claim to be of another class.
            self.nodes[number] = node_of.dispatch(type(value))(value, self, path)
        return [number]

    def values(self, values: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {name: self.value(each, f"{path}.{name}") for name, each in values.items()}

    def items(self, values: Any, path: str) -> list[Any]:
        return [self.value(each, f"{path}[{i}]") for i, each in enumerate(values)]

    def key(self, value: Any, path: str) -> Any:
        """Return a key of a dict or a member of a set, which must be told by its value."""
        saved = self.value(value, path)
        if isinstance(saved, list) and self.nodes[saved[0]]["kind"] in ("object", "function"):
            raise refused(value, path)
        return saved

    def keep(self, array: np.ndarray) -> int:
        """Write down what an array holds, in the order of its memory, and return where."""
        start = len(self.memory)
        self.memory += array.tobytes()
        return start


def refused(value: Any, path: str) -> EnvError:
    """Return the error about something that is no plain data."""
    return EnvError(f"{path} is a {name_of(type(value))}, which is no plain data.")


@functools.singledispatch
def node_of(value: Any, walk: _Walk, path: str) -> Node:
    """Return the node of an object: of a Python class, if no function is registered for it."""
    cls = type(value)
    package = str(getattr(cls, "__module__", "")).split(".")[0]
    if package in FOREIGN or not _is_plain(cls):
        raise refused(value, path)
    return {
        "kind": "object",
        "name": name_of(cls),
        "values": walk.values(attributes(value), path),
    }


def _is_plain(cls: type) -> bool:
    """Whether a class's objects hold nothing but Python's attributes: no memory of C's."""
    pointers = len(list(members(cls))) + (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
    size = object.__basicsize__ + _POINTER * pointers
    return bool(cls.__flags__ & _HEAP_TYPE) and (cls.__basicsize__, cls.__itemsize__) == (size, 0)


def _is_set(thing: Any, member: Any) -> bool:
    try:
        member.__get__(thing)
    except AttributeError:
        return False
    return True


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@node_of.register(types.BuiltinFunctionType)
@node_of.register(types.ModuleType)
@node_of.register(type)
@node_of.register(np.dtype)
@node_of.register(np.ufunc)
def _constant(value: Any, walk: _Walk, path: str) -> Node:
    if not isinstance(getattr(value, "__self__", None), types.ModuleType | type | None):
        raise refused(value, path)  # a method of something that `restore` may make anew
    return {"kind": "constant", "name": name_of(value)}


@node_of.register
def _function(value: types.FunctionType, walk: _Walk, path: str) -> Node:
    return {"kind": "function", "name": name_of(value), "values": walk.values(cells(value), path)}


@node_of.register
def _method(value: types.MethodType, walk: _Walk, path: str) -> Node:
    owner = walk.value(value.__self__, f"{path}.__self__")
    return {"kind": "method", "name": name_of(value.__func__), "owner": owner}


@node_of.register
def _member_of_enum(value: enum.Enum, walk: _Walk, path: str) -> Node:
    return {"kind": "enum", "name": name_of(type(value)), "member": value.name}


@node_of.register(list)
@node_of.register(tuple)
def _sequence(value: Any, walk: _Walk, path: str) -> Node:
    _require_exactly(value, path, list, tuple)
    return {"kind": type(value).__name__, "items": walk.items(value, path)}


@node_of.register(set)
@node_of.register(frozenset)
def _set(value: Any, walk: _Walk, path: str) -> Node:
    _require_exactly(value, path, set, frozenset)
    return {"kind": type(value).__name__, "items": [walk.key(each, path) for each in value]}


@node_of.register
def _deque(value: deque, walk: _Walk, path: str) -> Node:  # type: ignore[type-arg]
    _require_exactly(value, path, deque)
    return {"kind": "deque", "items": walk.items(value, path), "maxlen": value.maxlen}


@node_of.register
def _dict(value: dict, walk: _Walk, path: str) -> Node:  # type: ignore[type-arg]
    _require_exactly(value, path, dict, OrderedDict)
    pairs = [
        [walk.key(key, path), walk.value(each, f"{path}[{key!r}]")] for key, each in value.items()
    ]
    return {"kind": type(value).__name__, "pairs": pairs}


@node_of.register(bytes)
@node_of.register(bytearray)
def _bytes(value: Any, walk: _Walk, path: str) -> Node:
    return {"kind": type(value).__name__, "hex": value.hex()}


@node_of.register
def _scalar(value: np.generic, walk: _Walk, path: str) -> Node:
    _require_numbers(value, path)
    return {"kind": "scalar", "dtype": value.dtype.str, "hex": value.tobytes().hex()}


@node_of.register
def _array(value: np.ndarray, walk: _Walk, path: str) -> Node:
    _require_exactly(value, path, np.ndarray)
    _require_numbers(value, path)
    told = {"dtype": value.dtype.str, "shape": value.shape, "writeable": value.flags.writeable}
    owner = _owner(value)
    if owner.base is not None and value.flags.writeable:
        raise refused(owner.base, f"the memory of {path}")
    if owner is value or owner.base is not None or not value.size:
        # Kept in the order of the memory, on which the rounding of sums depends.
        axes = sorted(range(value.ndim), key=lambda axis: -value.strides[axis])
        start = walk.keep(value.transpose(axes))
        return {"kind": "array", **told, "axes": axes, "start": start}
    of = walk.value(owner, f"the memory of {path}")
    offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return {"kind": "view", **told, "of": of, "offset": offset, "strides": value.strides}


def _owner(array: np.ndarray) -> np.ndarray:
    """Return the array whose memory `array` shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@node_of.register
def _generator(value: np.random.Generator, walk: _Walk, path: str) -> Node:
    bits: Any = value.bit_generator
    seed = bits.seed_seq
    saved = seed.state if isinstance(seed, np.random.SeedSequence) else {"entropy": 0}
    return {
        "kind": "generator",
        "bits": type(bits).__name__,
        "seed": walk.value(saved, path),
        "state": walk.value(bits.state, path),
    }


@node_of.register
def _random_state(value: np.random.RandomState, walk: _Walk, path: str) -> Node:
    return {"kind": "random_state", "state": walk.value(value.get_state(legacy=False), path)}


@node_of.register
def _random(value: random.Random, walk: _Walk, path: str) -> Node:
    _require_exactly(value, path, random.Random)
    return {"kind": "random", "state": walk.value(value.getstate(), path)}


def _require_exactly(value: Any, path: str, *classes: type) -> None:
    # A subclass may hold more than its base shows.
    if type(value) not in classes:
        raise refused(value, path)


def _require_numbers(value: Any, path: str) -> None:
    if value.dtype.hasobject or value.dtype.names is not None:
        raise EnvError(f"{path} is an array of {value.dtype}, which is no plain data.")
