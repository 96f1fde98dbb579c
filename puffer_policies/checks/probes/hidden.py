"""Parameters that a module refers to and PyTorch does not know: in lists, dicts and closures."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

MAX_DEPTH = 5
MAX_OBJECTS = 20_000
FOREIGN = ("builtins", "torch", "numpy", "gymnasium", "pufferlib")
"""Packages whose objects are not looked into: an env may hold what it likes."""

INTERNAL = ("_modules", "_parameters", "_buffers")
"""What nn.Module registers; its hooks are looked into like any dict."""


def unregistered(policy: nn.Module) -> list[str]:
    """Return the path of every module with tensors, and every trainable tensor, that is hidden."""
    known = {id(each) for each in policy.modules()}
    known |= {id(each) for each in (*policy.parameters(), *policy.buffers())}
    found: dict[int, str] = {}
    for prefix, module in policy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in vars(module).items():
            if name not in INTERNAL:
                path = f"{prefix}.{name}" if prefix else name
                _search(value, path, known, found)
    return sorted(found.values())


def _search(root: Any, path: str, known: set[int], found: dict[int, str]) -> None:
    pending = [(root, path, 0)]
    seen: set[int] = set()
    while pending and len(seen) < MAX_OBJECTS:
        value, path, depth = pending.pop()
        if id(value) in seen or id(value) in known:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | Tensor):
            _judge(value, path, found)
        elif depth < MAX_DEPTH:
            pending += [(each, f"{path}{step}", depth + 1) for step, each in _members(value)]


def _judge(value: nn.Module | Tensor, path: str, found: dict[int, str]) -> None:
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            found[id(value)] = f"{path} is a trainable tensor of shape {tuple(value.shape)}"
    elif any(True for _ in (*value.parameters(), *value.buffers())):
        found[id(value)] = f"{path} is a {type(value).__name__}"


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield how to reach what `value` holds, and that."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", each) for i, each in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif hasattr(value, "__dict__") and _is_authors(value):
        yield from ((f".{name}", each) for name, each in vars(value).items())


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables that a function closes over, and its defaults."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield f" closes over {name}", cell.cell_contents
        except ValueError:  # the variable was never assigned
            continue
    yield from ((f" default {i}", each) for i, each in enumerate(function.__defaults__ or ()))


def _is_authors(value: Any) -> bool:
    """Whether `value` is an object of the policy's author, rather than of a library or a class."""
    module = type(value).__module__.partition(".")[0]
    return not isinstance(value, type | types.ModuleType) and module not in FOREIGN
