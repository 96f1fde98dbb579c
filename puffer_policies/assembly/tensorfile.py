"""Safetensors files with one line of JSON beside the tensors, written at once or not at all."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from puffer_policies.errors import CheckpointError
from puffer_policies.files import replace_file, user_path
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
MAX_HEADER = 2**26
"""Bytes of that table; a run's is rarely longer than a thousandth of it."""

DTYPES = (
    *("BOOL", "U8", "I8", "I16", "I32", "I64", "U16", "U32", "U64"),
    *("F16", "BF16", "F32", "F64", "C64", "F8_E4M3", "F8_E5M2"),
)
"""The dtypes of safetensors that torch has."""

_ENTRIES = Table(
    {},
    optional={"__metadata__": MapOf(Text(MAX_HEADER))},
    others=Table(
        {
            "dtype": OneOf(DTYPES),
            "shape": ListOf(Integer(0), longest=64),
            "data_offsets": ListOf(Integer(0), longest=2),
        }
    ),
)
"""What safetensors writes; its own reader compares the sizes with those of the file."""


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], *, header: str, key: str
) -> Path:
    """Write a safetensors file with `header` under metadata `key`, at once or not at all."""
    path = user_path(path)
    # Cloned, because safetensors refuses views of one tensor, such as tied weights in two shapes.
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        metadata={key: header},
    )
    write_at_once(path, data)
    return path


def write_at_once(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it there: a crash at any moment leaves a whole one.

    Raises:
        CheckpointError: the file can't be written; an older one is as it was.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be written: {error}.",
            fix="Check the free space and the permissions there. Files that were written before "
            "are whole.",
        ) from error


def read_tensors(path: Path | str, *, key: str) -> tuple[dict[str, Tensor], str]:
    """Read the tensors and the header of a file of `write_tensors`, from the same bytes.

    Raises:
        CheckpointError: the file is missing, damaged, or not one of `write_tensors`.
    """
    with _explained(path):
        # `safe_open` opens a file twice, once for the header and once for torch's storage: where
        # another process replaces it in between, they would be of two files.
        data = _regular(path).read_bytes()
        metadata = _entries(data).get("__metadata__")
        tensors = safetensors.torch.load(data)
    return tensors, _header(metadata, path, key)


def read_header_text(path: Path | str, *, key: str) -> str:
    """Read the header of a file of `write_tensors` and leave its tensors on the disk.

    Raises:
        CheckpointError: the file is missing, damaged, or not one of `write_tensors`.
    """
    # With "numpy", safetensors maps the file once and touches no more than it is asked for.
    with _explained(path), safetensors.safe_open(_regular(path), framework="numpy") as file:
        metadata = file.metadata()
    return _header(metadata, path, key)


def _regular(path: Path | str) -> Path:
    """Return the path of a file; a pipe would keep its reader waiting, a device has no end."""
    path = user_path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is a folder" if path.is_dir() else "it is a device or a pipe")
    return path


def _entries(data: bytes) -> dict[str, Any]:
    """Return the table in front of the tensors: their dtypes and places, and the metadata."""
    # https://huggingface.co/docs/safetensors: the length of the JSON in 8 bytes, and the JSON.
    start = struct.calcsize(LENGTH)
    (length,) = struct.unpack_from(LENGTH, data) if len(data) >= start else (0,)
    if length > MAX_HEADER:
        raise StructureError("", f"a header of at most {MAX_HEADER:,} bytes", length)
    text = data[start : start + length].decode("utf-8", errors="replace")
    entries: dict[str, Any] = read_json(text, _ENTRIES)
    return entries


def _header(metadata: Mapping[str, str] | None, path: Path | str, key: str) -> str:
    header = (metadata or {}).get(key)
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but not of the kind asked for: no {key!r} header.",
            fix="latest.safetensors and best.safetensors of a run hold its policy.",
        )
    return header


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error}.",
            fix="Give a .safetensors file, or the folder of a run that holds one.",
        ) from error
    except (safetensors.SafetensorError, StructureError) as error:
        if kind := _other_kind(path):
            raise CheckpointError(
                f"{path} is {kind}, which is not read, as reading one can run code.",
                fix="Give a .safetensors file. Weights of another library can be put into a policy "
                "of get_policy by load_state_dict, and save_checkpoint(path, policy, env=env) "
                "writes it.",
            ) from error
        raise CheckpointError(
            f"{path} is damaged, or not a safetensors file: {error}.",
            fix="Use an earlier checkpoint. Ours are written at once or not at all.",
        ) from error


def _other_kind(path: Path | str) -> str:
    """Return what a file is instead of safetensors by its first bytes, or '' if nobody knows."""
    try:
        with user_path(path).open("rb") as file:
            start = file.read(2)
    except OSError:
        return ""
    if start == b"PK":
        return "a zip archive, such as torch.save and stable-baselines3 write"
    return "a pickle" if start[:1] == b"\x80" else ""
