"""The table in front of the tensors of a safetensors file, and our line of JSON in it; no torch."""

from __future__ import annotations

import json
import math
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from puffer_policies.errors import CheckpointError
from puffer_policies.files import user_path
from puffer_policies.structure import (
    Integer,
    ListOf,
    MapOf,
    OneOf,
    StructureError,
    Table,
    Text,
    read_json,
)

LENGTH = "<Q"
"""The first bytes of the file: how long the table is that follows."""
_ALIGNMENT = 8
"""Bytes at whose multiples the tensors begin, as safetensors writes them."""
MAX_HEADER = 2**26
"""Bytes of that table; a run's is rarely longer than a thousandth of it."""

DTYPES = (
    *("BOOL", "U8", "I8", "I16", "I32", "I64", "U16", "U32", "U64"),
    *("F16", "BF16", "F32", "F64", "C64", "F8_E4M3", "F8_E5M2"),
)
"""The dtypes of safetensors that torch has."""

_METADATA = "__metadata__"
_ENTRIES = Table(
    {},
    optional={_METADATA: MapOf(Text(MAX_HEADER))},
    others=Table(
        {
            "dtype": OneOf(DTYPES),
            "shape": ListOf(Integer(0), longest=64),
            "data_offsets": ListOf(Integer(0), longest=2),
        }
    ),
)
"""What safetensors writes; its own reader compares the sizes with those of the file."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the table says of a tensor."""

    dtype: str
    """Its name in safetensors, such as F32."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


def read_table(path: Path | str, *, key: str) -> tuple[str, dict[str, TensorEntry]]:
    """Read the line of JSON under `key` and the entries of all tensors, which stay on the disk.

    Raises:
        CheckpointError: the file is missing, damaged, or has no such line.
    """
    # With "numpy", safetensors maps the file once and touches no more than it is asked for.
    with explained(path), safetensors.safe_open(regular_file(path), framework="numpy") as file:
        metadata = file.metadata()
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        entries = {
            name: TensorEntry(each.get_dtype(), tuple(each.get_shape()))
            for name, each in slices.items()
        }
    return line_of(metadata, path, key), entries


def regular_file(path: Path | str) -> Path:
    """Return the path of a file; a pipe would keep its reader waiting, a device has no end."""
    path = user_path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is a folder" if path.is_dir() else "it is a device or a pipe")
    return path


def entries_of(data: bytes) -> dict[str, Any]:
    """Return the table in front of the tensors: their dtypes and places, and the metadata."""
    # https://huggingface.co/docs/safetensors: the length of the JSON in 8 bytes, and the JSON.
    start = struct.calcsize(LENGTH)
    (length,) = struct.unpack_from(LENGTH, data) if len(data) >= start else (0,)
    if length > MAX_HEADER:
        raise StructureError("", f"a header of at most {MAX_HEADER:,} bytes", length)
    text = data[start : start + length].decode("utf-8", errors="replace")
    entries: dict[str, Any] = read_json(text, _ENTRIES)
    return entries


def with_line(data: bytes, line: str, *, key: str) -> bytes:
    """Return the bytes of a safetensors file with another line of JSON under `key`."""
    table = entries_of(data)
    start = struct.calcsize(LENGTH)
    (length,) = struct.unpack_from(LENGTH, data)
    table["__metadata__"] = {**table.get("__metadata__", {}), key: line}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack(LENGTH, len(text)) + text + data[start + length :]


def line_of(metadata: Mapping[str, str] | None, path: Path | str, key: str) -> str:
    """Return our line of JSON among the metadata of a file.

    Raises:
        CheckpointError: it is not there.
    """
    metadata = metadata or {}
    if key not in metadata:
        is_ours = any(each.startswith(_OUR_KEYS) for each in metadata)
        raise CheckpointError(
            f"{path} is a safetensors file, but not of the kind asked for: no {key!r} header.",
            fix="latest.safetensors and best.safetensors of a run hold its policy."
            if is_ours
            else _FOREIGN,
        )
    return metadata[key]


_OUR_KEYS = "puffer_policies"
"""What the keys of all our lines begin with."""
_FOREIGN = (
    "Weights of another library can be put into a policy of get_policy by load_state_dict, and "
    "save_checkpoint(path, policy, env=env) writes it."
)

FORM = "a .safetensors file, or the folder of a run that holds one"
"""What is read where nothing else is asked for."""


@contextmanager
def explained(path: Path | str, *, expected: str = FORM) -> Iterator[None]:
    """Turn what reading a file raises into an error that names it, and what it is instead.

    Raises:
        CheckpointError: in place of an `OSError`, or of an error of safetensors or its structure.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error}.",
            fix=f"Give {expected}.",
        ) from error
    except (safetensors.SafetensorError, StructureError) as error:
        if kind := _other_kind(path):
            raise CheckpointError(
                f"{path} is {kind}, which is not read, as reading one can run code.",
                fix=f"Give a .safetensors file. {_FOREIGN}",
            ) from error
        problem = _early_end(path) or f"is damaged, or not a safetensors file: {error}"
        puffer = user_path(path).suffix == ".bin"
        raise CheckpointError(
            f"{path} {problem}.",
            fix="If PufferLib 5 wrote it, make a checkpoint of it: puffer-policies import FILE "
            "--env ENV."
            if puffer
            else "Copy or download it again, or use an earlier checkpoint. Ours are written at "
            "once or not at all.",
        ) from error


def _early_end(path: Path | str) -> str:
    """Return how much of a file of safetensors is missing at its end, or '' if nothing is."""
    start = struct.calcsize(LENGTH)
    try:
        size = user_path(path).stat().st_size
        with user_path(path).open("rb") as file:
            (length,) = struct.unpack(LENGTH, file.read(start))
            table = file.read(min(length, MAX_HEADER))
        whole = start + length
        if length > MAX_HEADER or not table.startswith(b"{"):
            return ""
        if size >= whole:
            entries = read_json(table.decode(), _ENTRIES)
            ends = [each["data_offsets"][1] for key, each in entries.items() if key != _METADATA]
            whole += max(ends, default=0)
    except (OSError, struct.error, UnicodeDecodeError, StructureError, IndexError):
        return ""
    return f"is damaged: it ends after {size:,} of at least {whole:,} bytes" if size < whole else ""


def _other_kind(path: Path | str) -> str:
    """Return what a file is instead of safetensors by its first bytes, or '' if nobody knows."""
    try:
        with user_path(path).open("rb") as file:
            start = file.read(struct.calcsize(LENGTH) + 1)
    except OSError:
        return ""
    if start.endswith(b"{"):
        return ""  # a damaged file of safetensors, whose length may begin with any bytes
    if start.startswith(b"PK"):
        return "a zip archive, such as torch.save and stable-baselines3 write"
    return "a pickle" if start.startswith(b"\x80") else ""
