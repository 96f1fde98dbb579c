"""Safetensors files with one line of JSON beside the tensors, written at once or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from puffer_policies.assembly.header import Header
from puffer_policies.assembly.tensortable import entries_of, explained, line_of, regular_file
from puffer_policies.errors import CheckpointError
from puffer_policies.files import replace_file, user_path


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
    with explained(path):
        # `safe_open` opens a file twice, once for the header and once for torch's storage: where
        # another process replaces it in between, they would be of two files.
        data = regular_file(path).read_bytes()
        metadata = entries_of(data).get("__metadata__")
        tensors = safetensors.torch.load(data)
    return tensors, line_of(metadata, path, key)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_intact(header: Header, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse a file with tensors that are not those that were written.

    Raises:
        CheckpointError: the digest differs, or a shared tensor is missing.
    """
    missing = [key for key in header.aliases.values() if key not in tensors]
    if missing or (header.digest and header.digest != digest_of(tensors)):
        detail = f"; {missing[0]!r} is missing" if missing else ""
        raise CheckpointError(
            f"{path} is damaged: its tensors are not those that were written{detail}.",
            fix="Use another copy, or an earlier checkpoint.",
        )
