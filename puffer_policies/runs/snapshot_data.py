"""Nested data with tensors and arrays, as JSON and a flat dict of tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.structure import (
    Anything,
    Integer,
    Items,
    ListOf,
    OneOf,
    Plain,
    Structure,
    StructureError,
    Text,
)

MAX_DEPTH = 100
"""How deep data may stand inside one another; those of envs are the deepest, at about 20."""

_NODES: dict[str, Structure] = {
    "tensor": Text(100_000),
    "array": Items((Text(100_000), Text(20), ListOf(Integer(0), longest=32))),
    "number": Items((Text(20), Text(100))),
    "dict": ListOf(Anything()),
    "list": ListOf(Anything()),
    "tuple": ListOf(Anything()),
}
_CODES = f"?{np.typecodes['AllInteger']}{np.typecodes['AllFloat']}"
_NUMBERS = {each.str for code in _CODES for each in (np.dtype(code), np.dtype(code).newbyteorder())}
"""The names of NumPy's numbers. Objects would make addresses in this process's memory of bytes."""
_KIND = OneOf(tuple(_NODES))
_ATOM = Plain(depth=0, length=10_000_000)


def pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return plain data with tensors as JSON; tensors and arrays move to `tensors` by their path.

    JSON has neither tuples nor keys that are numbers, both of which optimizers use.
    """
    while path in tensors:  # the keys "a.b" and "b" in "a" have one path
        path += "'"
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, np.ndarray):
        # As bytes: torch lacks some of NumPy's dtypes.
        content = np.frombuffer(tree.tobytes(), dtype=np.uint8)
        tensors[path] = torch.from_numpy(content.copy())
        return {"array": [path, tree.dtype.str, list(tree.shape)]}
    if isinstance(tree, np.generic):
        return {"number": [tree.dtype.str, tree.tobytes().hex()]}
    if isinstance(tree, Mapping):
        return {"dict": [[k, pack(each, f"{path}.{k}", tensors)] for k, each in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [pack(each, f"{path}.{i}", tensors) for i, each in enumerate(tree)]
        return {type(tree).__name__: items}
    return tree


def unpack(tree: Any, tensors: dict[str, Tensor], path: str = "", depth: int = MAX_DEPTH) -> Any:
    """Return what `pack` made JSON of. The tensors that it holds are taken out of `tensors`.

    Each is used once, so that no text makes more of a file than it holds.

    Raises:
        StructureError: `pack` does not make such JSON.
    """
    if not isinstance(tree, dict):
        _ATOM.check(tree, path)
        return tree
    if len(tree) != 1 or not depth:
        raise StructureError(path, f"one kind of value, {MAX_DEPTH} deep at most", tree)
    ((kind, content),) = tree.items()
    _KIND.check(kind, path)
    _NODES[kind].check(content, path)
    match kind:
        case "tensor":
            return _taken(content, tensors, path)
        case "array":
            name, dtype, shape = content
            return _array(_taken(name, tensors, path), dtype_of(dtype, path), shape, path)
        case "number":
            dtype, digits = content
            return number_of(dtype, digits, path)
        case "dict":
            return _dict(content, tensors, path, depth)
    items = [unpack(each, tensors, f"{path}[{i}]", depth - 1) for i, each in enumerate(content)]
    return tuple(items) if kind == "tuple" else items


def _dict(
    pairs: list[Any], tensors: dict[str, Tensor], path: str, depth: int
) -> dict[str | int, Any]:
    table: dict[str | int, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise StructureError(path, "pairs of a key and a value", pair)
        key, value = pair
        table[key] = unpack(value, tensors, f"{path}.{key}", depth - 1)
    return table


def _taken(name: str, tensors: dict[str, Tensor], path: str) -> Tensor:
    if name not in tensors:
        raise StructureError(path, "a tensor of the file that nothing else uses", name)
    return tensors.pop(name)


def _array(content: Tensor, dtype: np.dtype[Any], shape: list[int], path: str) -> np.ndarray:
    data = content.contiguous().view(torch.uint8).numpy().tobytes() if content.numel() else b""
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise StructureError(path, f"{shape} of {dtype}", f"{len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def number_of(dtype: str, text: str, path: str) -> Any:
    """Return one of NumPy's numbers from its bytes in hexadecimal."""
    kind = dtype_of(dtype, path)
    is_hex = len(text) == 2 * kind.itemsize and all(each in "0123456789abcdef" for each in text)
    if not is_hex:
        raise StructureError(path, f"{kind.itemsize} bytes in hexadecimal", text)
    return np.frombuffer(bytes.fromhex(text), kind)[0]


def dtype_of(name: str, path: str) -> np.dtype[Any]:
    """Return the dtype of numbers with this name."""
    if name not in _NUMBERS:
        raise StructureError(path, "a dtype of numbers", name)
    return np.dtype(name)
