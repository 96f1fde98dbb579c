"""Safetensors files with one line of JSON beside the tensors, written at once or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
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
    write_at_once(path, data)
    return path


def write_at_once(path: Path, data: bytes) -> None:
    """Write a file beside `path` and move it there: a crash at any moment leaves a whole one.

    Raises:
        CheckpointError: it can't be written; what was there is as it was.
    """
    try:
        _replace(path, data)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be written: {error}.",
            fix="Look for room and permissions there; what was written before is whole.",
        ) from error


def _replace(path: Path, data: bytes) -> None:
    # A name of this thread's own; `tempfile` would make a file that only its owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
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
            fix="latest.safetensors and best.safetensors of a run hold its policy.",
        )
    return tensors, header
