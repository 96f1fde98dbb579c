"""The one file from which a run goes on: a `Snapshot` as JSON and tensors, written at once.

A resumed run equals the uninterrupted one bit for bit on a CPU, where the envs offer their state;
elsewhere the envs start new episodes, and the run says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from puffer_policies.assembly.checkpoint import header_of
from puffer_policies.assembly.header import (
    Header,
    naming_file,
    require_same_spaces,
    require_same_stack,
)
from puffer_policies.assembly.tensorfile import (
    digest_of,
    read_tensors,
    require_intact,
    write_tensors,
)
from puffer_policies.assembly.tensortable import MAX_HEADER
from puffer_policies.errors import CheckpointError
from puffer_policies.registry import Registry
from puffer_policies.runs.snapshot import Snapshot, put_snapshot
from puffer_policies.runs.snapshot_data import pack, unpack
from puffer_policies.runs.snapshot_graph import fields_of_graph
from puffer_policies.runs.snapshot_structure import SNAPSHOT
from puffer_policies.spaces import spaces_of
from puffer_policies.structure import Anything, Integer, Table, Text, read_json
from puffer_policies.train.trainer import Trainer

METADATA_KEY = "puffer_policies_trainer"
FORMAT_VERSION = 3
GRAPH_VERSION = 2
"""The format that held the trainer's memory, and its envs, as a graph of Python objects."""

_CONTENT = Table({}, optional={"format_version": Integer()}, others=Anything())
_FILE = Table(
    {"format_version": Integer(), "header": Text(MAX_HEADER), "trainer": Anything()},
    optional={"run": Anything()},  # the earlier version wrote it
)


def write_snapshot(path: Path | str, snapshot: Snapshot, header: Header) -> Path:
    """Write `snapshot` with the header of its policy to `path`, at once or not at all."""
    tensors: dict[str, Tensor] = {}
    tree = {each.name: getattr(snapshot, each.name) for each in fields(snapshot)}
    packed = {name: pack(value, name, tensors) for name, value in tree.items()}
    content = {
        "format_version": FORMAT_VERSION,
        "header": replace(header, digest=digest_of(tensors)).to_json(),
        "trainer": packed,
    }
    return write_tensors(path, tensors, header=json.dumps(content), key=METADATA_KEY)


def read_snapshot(path: Path | str) -> tuple[Snapshot, Header]:
    """Read a file of `write_snapshot`, or one of the version before.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another version.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    with naming_file(path):
        content = read_json(text, _CONTENT)
        reader = _READERS.get(content.get("format_version"))
        if reader is None:
            raise CheckpointError(
                f"{path} was written by another version of puffer-policies.",
                fix="Go on with the version that wrote it, or load the weights with load_policy.",
            )
        _FILE.check(content, "")
        header = Header.from_json(content["header"], path)
        require_intact(header, tensors, path)
        snapshot = reader(content["trainer"], tensors)
        SNAPSHOT.check(snapshot, "trainer")
    return Snapshot(**snapshot), header


def resume_trainer(trainer: Trainer, path: Path, *, registry: Registry | None = None) -> str:
    """Let a new trainer go on from a file.

    Returns:
        Why the envs start new episodes; empty if they go on with those under way.

    Raises:
        CheckpointError: the file can't be read, or is of another env, policy, optimizer, kind of
            device or batch, or of a policy with other arguments.
    """
    snapshot, header = read_snapshot(path)
    require_same_spaces(header, spaces_of(trainer.vecenv), path)
    current = header_of(trainer.policy, env=trainer.vecenv, registry=registry)
    require_same_stack(header, current, path)
    return put_snapshot(trainer, snapshot, path=path, owner=header.spec)


def _fields(trainer: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of a snapshot; whatever `pack` has not made is refused."""
    names = [each.name for each in fields(Snapshot)]
    Table(dict.fromkeys(names, Anything())).check(trainer, "trainer")
    left = dict(tensors)
    return {name: unpack(value, left, f"trainer.{name}") for name, value in trainer.items()}


_READERS = {FORMAT_VERSION: _fields, GRAPH_VERSION: fields_of_graph}
