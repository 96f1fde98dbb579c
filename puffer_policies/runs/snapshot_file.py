"""The one file from which a run goes on: a `Snapshot` as JSON and tensors, written at once.

A resumed run equals the uninterrupted one bit for bit on a CPU, where the envs offer their state;
elsewhere the envs start new episodes, and the run says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.assembly.header import Header, require_same_spaces
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors
from puffer_policies.errors import CheckpointError
from puffer_policies.runs.snapshot import Snapshot, put_snapshot
from puffer_policies.spaces import spaces_of
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.state import NUMBERS

METADATA_KEY = "puffer_policies_trainer"
FORMAT_VERSION = 3
GRAPH_VERSION = 2
"""The format that held the trainer's memory, and its envs, as a graph of Python objects."""


def write_snapshot(path: Path | str, snapshot: Snapshot, header: Header) -> Path:
    """Write `snapshot` with the header of its policy to `path`, at once or not at all."""
    tensors: dict[str, Tensor] = {}
    tree = {each.name: getattr(snapshot, each.name) for each in fields(snapshot)}
    content = {
        "format_version": FORMAT_VERSION,
        "header": header.to_json(),
        "trainer": {name: pack(value, name, tensors) for name, value in tree.items()},
    }
    return write_tensors(path, tensors, header=json.dumps(content), key=METADATA_KEY)


def read_snapshot(path: Path | str) -> tuple[Snapshot, Header]:
    """Read a file of `write_snapshot`, or one of the version before.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another version.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    try:
        content = json.loads(text)
        reader = {FORMAT_VERSION: _snapshot, GRAPH_VERSION: _snapshot_of_graph}.get(
            content.get("format_version")
        )
        if reader is None:
            raise CheckpointError(
                f"{path} was written by another version of puffer-policies.",
                fix="Go on with the version that wrote it, or load the weights with load_policy.",
            )
        return reader(content["trainer"], tensors), Header.from_json(content["header"], Path(path))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The header of {path} can't be read: {error!r}.") from error


def resume_trainer(trainer: Trainer, path: Path) -> str:
    """Let a new trainer go on from a file.

    Returns:
        Why the envs start new episodes; empty if they go on with those under way.

    Raises:
        CheckpointError: the file can't be read, or is of another env, policy, optimizer, kind of
            device or batch.
    """
    snapshot, header = read_snapshot(path)
    require_same_spaces(header, spaces_of(trainer.vecenv), path)
    return put_snapshot(trainer, snapshot, path=path, owner=header.spec)


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


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `pack` made JSON of."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            name, dtype, shape = content
            data = tensors[name].cpu().numpy().tobytes()
            return np.frombuffer(data, _dtype(dtype)).reshape(shape).copy()
        case "number":
            dtype, text = content
            return np.frombuffer(bytes.fromhex(text), _dtype(dtype))[0]
        case "dict":
            return {key: unpack(each, tensors) for key, each in content}
    items = [unpack(each, tensors) for each in content]
    return {"list": items, "tuple": tuple(items)}[kind]


def _dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in NUMBERS:
        # Objects would make addresses in this process's memory of a file's bytes.
        raise ValueError(f"dtype {name!r}")
    return dtype


def _snapshot(trainer: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    return Snapshot(**{name: unpack(value, tensors) for name, value in trainer.items()})


def _snapshot_of_graph(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
    """Return the snapshot in a file of version 2, without its envs, whose form is gone."""
    memory = tensors["memory"].numpy().tobytes()
    root = _graph_value([0], data["memory"], memory)
    episodes, scale = root["episodes"], root["reward_scale"]
    generators = _named("random.", tensors)
    trainer = {
        "epoch": data["epoch"],
        "global_step": data["global_step"],
        "generator": generators.pop("trainer"),
        "optimizer": unpack(data["optimizer"], tensors),
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
        "reward_scale": {**scale, "running_returns": scale["gathered"]},
        # Such files do not say which alarms were reported: those that last are reported again.
        "alarms": {"reported": []},
    }
    return Snapshot(
        trainer=trainer,
        policy=_named("policy.", tensors),
        plan={
            "batch_size": data["batch_size"],
            "num_agents": data["num_agents"],
            "optimizer": data["optimizer_name"],
        },
        generators={**generators, "python": root["python"], "numpy": root["numpy"]},
        missing_envs=data["no_envs"]
        or "an earlier version of puffer-policies wrote the file and saved them in another form",
    )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): each for k, each in tensors.items() if k.startswith(prefix)}


def _graph_value(link: Any, nodes: Sequence[Mapping[str, Any]], memory: bytes) -> Any:
    """Return an object of version 2, as plain data: ``[n]`` stands for node n."""
    if not isinstance(link, list):
        return link
    node = nodes[link[0]]
    match node["kind"]:
        case "array":
            dtype = _dtype(node["dtype"])
            count = int(np.prod(node["shape"], dtype=np.int64))
            array = np.frombuffer(memory, dtype, count, node["start"])
            return array.reshape(node["shape"]).copy()
        case "scalar":
            return np.frombuffer(bytes.fromhex(node["hex"]), _dtype(node["dtype"]))[0]
        case "object":
            values = node["values"].items()
            return {name: _graph_value(each, nodes, memory) for name, each in values}
        case "dict":
            return {key: _graph_value(each, nodes, memory) for key, each in node["pairs"]}
    items = [_graph_value(each, nodes, memory) for each in node["items"]]
    return {"list": items, "deque": items, "tuple": tuple(items)}[node["kind"]]
