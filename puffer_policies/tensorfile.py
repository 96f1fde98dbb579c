"""Safetensors files with one line of JSON beside the tensors, written at once or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from puffer_policies.errors import CheckpointError


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], *, header: str, key: str
) -> Path:
    """Write a safetensors file with `header` under metadata `key`, at once or not at all."""
    path = Path(path)
    # Cloned: views of one tensor, such as tied weights in two shapes, are refused by safetensors.
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        metadata={key: header},
    )
    try:
        _replace(path, data)
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error}.") from error
    return path


def _replace(path: Path, data: bytes) -> None:
    # Written beside the target and moved over it, so that a crash leaves the old file whole.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_tensors(path: Path | str, *, key: str) -> tuple[dict[str, Tensor], str]:
    """Read a file of `write_tensors`: its tensors and its header.

    Raises:
        CheckpointError: no such file, a damaged one, or one that we did not write.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(key)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error}.",
            fix="Give a .safetensors file, or the folder of a run that holds one.",
        ) from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged, or no safetensors file: {error}.",
            fix="Use an earlier checkpoint; ours are written at once or not at all.",
        ) from error
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but not of the kind asked for: no {key!r} header.",
            fix="Give the model.safetensors of one of our runs.",
        )
    return tensors, header
