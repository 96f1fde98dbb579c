"""Snapshots of the version before, which held the trainer's memory as a graph of Python objects.

A node refers to others as ``[n]``, and always to later ones, as they were written: so each is made
once, from the last to the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from puffer_policies.runs.snapshot_data import dtype_of, number_of, unpack
from puffer_policies.structure import (
    Anything,
    Integer,
    ListOf,
    MapOf,
    OneOf,
    Optional,
    Structure,
    StructureError,
    Table,
    Text,
)

_ATOM = Anything()
_COUNT = Integer(0)
_NODES: dict[str, dict[str, Structure]] = {
    "array": {"dtype": Text(), "shape": ListOf(_COUNT, longest=32), "start": _COUNT},
    "scalar": {"dtype": Text(), "hex": Text()},
    "object": {"values": MapOf(_ATOM)},
    "dict": {"pairs": ListOf(ListOf(_ATOM, longest=2))},
    **{kind: {"items": ListOf(_ATOM)} for kind in ("list", "tuple", "deque")},
}
_STRUCTURES = {kind: Table(keys, others=Anything()) for kind, keys in _NODES.items()}

GRAPH = Table(
    {
        "memory": ListOf(Table({"kind": OneOf(tuple(_NODES))}, others=Anything())),
        "epoch": _COUNT,
        "global_step": _COUNT,
        "optimizer": Anything(),
        "batch_size": _COUNT,
        "num_agents": _COUNT,
        "optimizer_name": Text(100),
        "no_envs": Optional(Text(100_000)),
    },
    others=Anything(),
)
"""What such a file says of its trainer; its envs are left out, as their form is gone."""

_ROOT = Table(
    {
        "episodes": Table(
            dict.fromkeys(("_returns", "_lengths", "returns", "lengths", "num_finished"), _ATOM),
            others=_ATOM,
        ),
        "reward_scale": Table(dict.fromkeys(("gathered", "count", "mean", "squares"), _ATOM)),
        "python": _ATOM,
        "numpy": _ATOM,
    }
)


def fields_of_graph(data: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of the snapshot in a file of that version, without its envs.

    Raises:
        StructureError: the data are not of such a file.
    """
    # The outer form first: the nodes are found by what it holds.
    GRAPH.check(data, "trainer")
    if "memory" not in tensors or "random.trainer" not in tensors:
        raise StructureError("tensors", "those named memory and random.trainer", [*tensors])
    # All arrays stand in one tensor, and a node says where each begins.
    memory = tensors["memory"].numpy().tobytes()
    root = _root_of(data["memory"], memory)
    _ROOT.check(root, "trainer.memory")
    episodes, scale = root["episodes"], root["reward_scale"]
    generators = _named("random.", tensors)
    trainer = {
        "epoch": data["epoch"],
        "global_step": data["global_step"],
        "generator": generators.pop("trainer"),
        "optimizer": unpack(data["optimizer"], dict(tensors), "trainer.optimizer"),
        "collector": {
            "episodes": {
                "running_returns": episodes["_returns"],
                "running_lengths": episodes["_lengths"],
                **{name: episodes[name] for name in ("returns", "lengths", "num_finished")},
            },
            "next_step": {
                name.replace("sent.", "extras.", 1): each
                for name, each in _named("here.", tensors).items()
            },
        },
        "reward_scale": {
            **{name: scale[name] for name in ("count", "mean", "squares")},
            "running_returns": scale["gathered"],
        },
        # Such files do not say which alarms were reported: those that last are reported again.
        "alarms": {"reported": []},
    }
    return {
        "trainer": trainer,
        "policy": _named("policy.", tensors),
        "plan": {
            "batch_size": data["batch_size"],
            "num_agents": data["num_agents"],
            "optimizer": data["optimizer_name"],
        },
        "generators": {**generators, "python": root["python"], "numpy": root["numpy"]},
        "envs": None,
        "missing_envs": data["no_envs"]
        or "an earlier version of puffer-policies wrote the file and saved them in another form",
    }


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): each for k, each in tensors.items() if k.startswith(prefix)}


def _root_of(nodes: Sequence[Mapping[str, Any]], memory: bytes) -> Any:
    """Return the object of the first node, as plain data."""
    values: dict[int, Any] = {}
    for place in reversed(range(len(nodes))):
        values[place] = _value_of(nodes[place], values, memory, f"trainer.memory[{place}]")
    return values.get(0)


def _value_of(node: Mapping[str, Any], values: Mapping[int, Any], memory: bytes, path: str) -> Any:
    """Return the object of a node; `values` has those of later ones."""
    kind = node["kind"]
    _STRUCTURES[kind].check(node, path)

    def value(link: Any) -> Any:
        if not isinstance(link, list):
            return link
        if len(link) != 1 or type(link[0]) is not int or link[0] not in values:
            raise StructureError(path, "the number of a later node", link)
        return values[link[0]]

    match kind:
        case "array":
            dtype = dtype_of(node["dtype"], path)
            count = math.prod(node["shape"])
            if node["start"] + count * dtype.itemsize > len(memory):
                raise StructureError(path, f"at most {len(memory):,} bytes", node)
            array = np.frombuffer(memory, dtype, count, min(node["start"], len(memory)))
            return array.reshape(node["shape"]).copy()
        case "scalar":
            return number_of(node["dtype"], node["hex"], path)
        case "object":
            return {name: value(each) for name, each in node["values"].items()}
        case "dict":
            pairs = node["pairs"]
            if not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
                raise StructureError(path, "pairs of a text and a value", pairs)
            return {key: value(each) for key, each in pairs}
    items = [value(each) for each in node["items"]]
    return tuple(items) if kind == "tuple" else items
