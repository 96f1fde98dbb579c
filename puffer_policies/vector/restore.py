"""Putting a captured state into a freshly made env of the same kind.

Containers, arrays and generators are made anew. Objects, functions and members of enums never are:
a file names no class to be imported. They are the fresh env's own, found at the same place.
"""

from __future__ import annotations

import enum
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from puffer_policies.errors import EnvError
from puffer_policies.vector.capture import Node, Snapshot, attributes, cells, members, name_of

_BITS = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}
_ABSENT = object()
"""Where the fresh env has nothing at a place."""


def restore(root: Any, snapshot: Snapshot, *, name: str = "env") -> Any:
    """Put a state of `capture` into the objects of `root`, and return it, containers made anew.

    Everything is compared before anything is changed.

    Raises:
        EnvError: `root` is not built like the env that was captured; `root` is as it was.
    """
    putting = _Restore(snapshot)
    try:
        restored = putting.value([0], root, name)
    except (LookupError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise EnvError(f"The saved state of {name} can't be read: {error!r}.") from error
    for write, values in putting.writes:
        write(values)
    return restored


class _Restore:
    """Makes the objects of nodes; what belongs into the fresh env waits in `writes`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.made: dict[int, Any] = {}
        self.owners: dict[int, np.ndarray] = {}
        self.writes: list[tuple[Callable[[Mapping[str, Any]], None], Mapping[str, Any]]] = []
        self._taken: set[int] = set()

    def value(self, saved: Any, like: Any, path: str) -> Any:
        """Return what `saved` stands for; `like` is what the fresh env has at its place."""
        if not isinstance(saved, list):
            return saved
        (number,) = saved
        if number not in self.made:
            node = self.snapshot.nodes[number]
            make = _MAKERS[node["kind"]]
            self.made[number] = make(self, number, like, path)
        return self.made[number]

    def node(self, number: int) -> Node:
        """Return a node."""
        return self.snapshot.nodes[number]

    def plain(self, saved: Any, path: str) -> Any:
        """Return data that needs nothing of the fresh env."""
        return self.value(saved, _ABSENT, path)

    def items(self, saved: Iterable[Any], like: Any, path: str) -> list[Any]:
        """Return the members of a sequence; `like` is the fresh env's."""
        fresh = list(like) if isinstance(like, list | tuple | deque) else []
        return [
            self.value(each, fresh[i] if i < len(fresh) else _ABSENT, f"{path}[{i}]")
            for i, each in enumerate(saved)
        ]

    def take(self, like: Any, path: str, *, found: str, expected: str) -> None:
        """Claim an object of the fresh env; one may not stand for two."""
        if like is _ABSENT or found != expected or id(like) in self._taken:
            there = "nothing of its own" if like is _ABSENT or found == expected else found
            raise _differs(path, then=f"a {expected}", now=there)
        self._taken.add(id(like))


def _differs(path: str, *, then: str, now: str) -> EnvError:
    return EnvError(f"{path} was {then}; the fresh env has {now} there.")


def _object(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    putting.take(like, path, found=name_of(type(like)), expected=node["name"])
    putting.made[number] = like
    putting.writes.append((_setter(like), _values(putting, node, attributes(like), path)))
    return like


def _values(
    putting: _Restore, node: Node, fresh: Mapping[str, Any], path: str
) -> Mapping[str, Any]:
    return {
        name: putting.value(saved, fresh.get(name, _ABSENT), f"{path}.{name}")
        for name, saved in node["values"].items()
    }


def _setter(target: Any) -> Callable[[Mapping[str, Any]], None]:
    def write(values: Mapping[str, Any]) -> None:
        # Past `__setattr__`: properties and frozen dataclasses would refuse.
        slots = dict(members(type(target)))
        for name, member in slots.items():
            if name in values:
                member.__set__(target, values[name])
        if hasattr(target, "__dict__"):
            kept = {name: each for name, each in values.items() if name not in slots}
            vars(target).clear()
            vars(target).update(kept)

    return write


def _function(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    found = name_of(like if isinstance(like, types.FunctionType) else type(like))
    # Several places may hold one function: what it closes over is compared, not claimed.
    if found != node["name"]:
        raise _differs(path, then=node["name"], now=found)
    putting.made[number] = like
    putting.writes.append((_cell_setter(like), _values(putting, node, cells(like), path)))
    return like


def _cell_setter(function: types.FunctionType) -> Callable[[Mapping[str, Any]], None]:
    def write(values: Mapping[str, Any]) -> None:
        pairs = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in pairs:
            if name in values:
                cell.cell_contents = values[name]

    return write


def _method(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    found = name_of(like.__func__ if isinstance(like, types.MethodType) else type(like))
    if found != node["name"]:
        raise _differs(path, then=node["name"], now=found)
    owner = putting.value(node["owner"], like.__self__, path)
    return types.MethodType(like.__func__, owner)


def _constant(putting: _Restore, number: int, like: Any, path: str) -> Any:
    expected = putting.node(number)["name"]
    if like is _ABSENT or name_of(like) != expected:
        raise _differs(path, then=expected, now="another value")
    return like


def _enum(putting: _Restore, number: int, like: Any, path: str) -> enum.Enum:
    node = putting.node(number)
    if not isinstance(like, enum.Enum) or name_of(type(like)) != node["name"]:
        raise _differs(path, then=f"a {node['name']}", now="another kind")
    return type(like)[node["member"]]


def _list(putting: _Restore, number: int, like: Any, path: str) -> list[Any]:
    made: list[Any] = []
    putting.made[number] = made  # before its members, which may hold the list
    made.extend(putting.items(putting.node(number)["items"], like, path))
    return made


def _tuple(putting: _Restore, number: int, like: Any, path: str) -> tuple[Any, ...]:
    return tuple(putting.items(putting.node(number)["items"], like, path))


def _deque(putting: _Restore, number: int, like: Any, path: str) -> deque[Any]:
    node = putting.node(number)
    made: deque[Any] = deque(maxlen=node["maxlen"])
    putting.made[number] = made
    made.extend(putting.items(node["items"], like, path))
    return made


def _set(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    fresh = like if isinstance(like, set | frozenset) else ()
    made = {_key(putting, each, fresh, path) for each in node["items"]}
    return made if node["kind"] == "set" else frozenset(made)


def _dict(putting: _Restore, number: int, like: Any, path: str) -> dict[Any, Any]:
    node = putting.node(number)
    made: dict[Any, Any] = OrderedDict() if node["kind"] == "OrderedDict" else {}
    putting.made[number] = made
    fresh = like if isinstance(like, dict) else {}
    for saved_key, saved in node["pairs"]:
        key = _key(putting, saved_key, fresh, path)
        made[key] = putting.value(saved, fresh.get(key, _ABSENT), f"{path}[{key!r}]")
    return made


def _key(putting: _Restore, saved: Any, fresh: Iterable[Any], path: str) -> Any:
    """Return a key; a member of an enum is found by the class of the fresh env's keys."""
    kind = putting.node(saved[0])["kind"] if isinstance(saved, list) else ""
    if kind not in ("enum", "constant"):
        return putting.plain(saved, path)
    expected = putting.node(saved[0])["name"]
    names = ((each, name_of(type(each) if kind == "enum" else each)) for each in fresh)
    like = next((each for each, name in names if name == expected), _ABSENT)
    return putting.value(saved, like, path)


def _bytes(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    made = bytes.fromhex(node["hex"])
    return made if node["kind"] == "bytes" else bytearray(made)


def _scalar(putting: _Restore, number: int, like: Any, path: str) -> Any:
    node = putting.node(number)
    return np.frombuffer(bytes.fromhex(node["hex"]), dtype=_numbers(node["dtype"]))[0]


def _array(putting: _Restore, number: int, like: Any, path: str) -> np.ndarray:
    node = putting.node(number)
    axes, dtype = node["axes"], _numbers(node["dtype"])
    made = np.empty([node["shape"][axis] for axis in axes], dtype)
    held = putting.snapshot.memory[node["start"] : node["start"] + made.nbytes]
    made[...] = np.frombuffer(held.tobytes(), dtype).reshape(made.shape)
    putting.owners[number] = made
    shaped = made if axes == sorted(axes) else made.transpose(np.argsort(axes))
    shaped.flags.writeable = node["writeable"]
    return shaped


def _view(putting: _Restore, number: int, like: Any, path: str) -> np.ndarray:
    node = putting.node(number)
    putting.plain(node["of"], path)
    owner, dtype = putting.owners[node["of"][0]], _numbers(node["dtype"])
    made = np.ndarray(node["shape"], dtype, owner, node["offset"], node["strides"])
    made.flags.writeable = node["writeable"]
    return made


def _numbers(text: str) -> np.dtype[Any]:
    """Return a dtype; one of objects would make addresses of a file's bytes."""
    dtype = np.dtype(text)
    if dtype.hasobject:
        raise ValueError(f"dtype {text!r}")
    return dtype


def _generator(putting: _Restore, number: int, like: Any, path: str) -> np.random.Generator:
    node = putting.node(number)
    seed = np.random.SeedSequence(**putting.plain(node["seed"], path))
    bits = _BITS[node["bits"]](seed)
    bits.state = putting.plain(node["state"], path)
    return np.random.Generator(bits)


def _random_state(putting: _Restore, number: int, like: Any, path: str) -> np.random.RandomState:
    made = np.random.RandomState()
    made.set_state(putting.plain(putting.node(number)["state"], path))
    return made


def _random(putting: _Restore, number: int, like: Any, path: str) -> random.Random:
    made = random.Random()
    made.setstate(putting.plain(putting.node(number)["state"], path))
    return made


_MAKERS: dict[str, Callable[[_Restore, int, Any, str], Any]] = {
    "object": _object,
    "function": _function,
    "method": _method,
    "constant": _constant,
    "enum": _enum,
    "list": _list,
    "tuple": _tuple,
    "deque": _deque,
    "set": _set,
    "frozenset": _set,
    "dict": _dict,
    "OrderedDict": _dict,
    "bytes": _bytes,
    "bytearray": _bytes,
    "scalar": _scalar,
    "array": _array,
    "view": _view,
    "generator": _generator,
    "random_state": _random_state,
    "random": _random,
}
