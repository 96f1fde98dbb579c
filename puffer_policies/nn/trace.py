"""Recording forward passes with `torch.export`, for files of other runtimes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_exporting() -> bool:
    """Return whether `torch.export` records the pass; before torch 2.7, also `torch.compile`.

    A recorded step runs anywhere, with any number of rows. Where the fastest operator of torch is
    not known elsewhere, or depends on the rows, another one stands in for it, with equal results.
    """
    known: bool = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
    return known


def zeroed(values: Tensor, where: Tensor) -> Tensor:
    """Return values of any dtype with zeros where a mask is true.

    They are filled, not multiplied by zero: a NaN must not survive.
    """
    # onnxruntime fills neither bools nor integers of 16 bits.
    if is_exporting() and values.dtype is torch.bool:
        return values & ~where
    if is_exporting() and values.dtype is torch.int16:
        return values.int().masked_fill(where, 0).to(torch.int16)
    return values.masked_fill(where, 0)


def record(module: nn.Module, inputs: tuple[Any, ...], rows: Any, *, strict: bool = False) -> Any:
    """Record one pass as a `torch.export.ExportedProgram`.

    Args:
        module: what is recorded; its arguments are nested tensors.
        inputs: example arguments, with more than one row.
        rows: for each argument, nested alike, ``{axis: name}`` of the axes that may have any
            length; those of one name have the same.
        strict: also trace the Python code, which finds what a recording alone would miss.

    Raises:
        Exception: whatever torch raises for a pass that can't be recorded, or that fixes a length.
    """
    with quiet_torch(), torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=rows, strict=strict)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch's warnings and logs, of which its exporters write many, from the user."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
