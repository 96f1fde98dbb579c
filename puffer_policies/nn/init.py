"""Initial weights: orthogonal layers and gates, and a description of the weights of a layer."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

MAX_GATES = 4
"""The largest number of blocks that a weight is tested for: those of an LSTM."""


def layer_init(layer: Module, std: float = math.sqrt(2), bias_const: float = 0.0) -> Module:
    """Give a Linear or Conv layer an orthogonal weight of gain `std`, a constant bias; return it.

    Positional like its namesakes in PufferLib and CleanRL. A layer without bias keeps none.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    nn.init.orthogonal_(weight, std)
    if isinstance(bias, Tensor):
        nn.init.constant_(bias, bias_const)
    return layer


def orthogonal_gates(weight: Tensor, gates: int) -> None:
    """Make each of the `gates` blocks of rows of a recurrent weight orthogonal, with gain 1.

    One orthogonal draw over all rows would give the gates gains below 1, the smaller the wider
    the matrix (https://github.com/vwxyzjn/cleanrl/issues/358).
    """
    with torch.no_grad():
        for block in weight.chunk(gates):
            nn.init.orthogonal_(block)


def drawn_as(weight: Tensor) -> str:
    """Describe how a fresh weight was drawn, from its numbers alone.

    Returns:
        ``0.5`` for a constant, ``orthogonal, gain 1.41`` (``in 3 blocks`` of rows, as
        `orthogonal_gates` makes them), ``norm 1`` for one row, else ``mean 0.00, std 0.09``.
    """
    numbers = weight.detach().double()
    if bool((numbers == numbers.flatten()[0]).all()):
        return f"{float(numbers.flatten()[0]):.3g}"
    if numbers.ndim > 1 and len(numbers) == 1:
        return f"norm {float(numbers.norm()):.3g}"
    for blocks in range(MAX_GATES, 0, -1) if numbers.ndim > 1 else ():
        gain = _common_gain(numbers.flatten(1), blocks)
        if gain:
            return f"orthogonal, gain {gain:.3g}" + f" in {blocks} blocks" * (blocks > 1)
    mean = round(float(numbers.mean()), 2) + 0.0  # no negative zero
    return f"mean {mean:.2f}, std {float(numbers.std()):.2g}"


def _common_gain(matrix: Tensor, blocks: int) -> float:
    """Return the gain with which all blocks of rows are orthogonal, or 0."""
    rows, columns = len(matrix) // blocks, matrix.shape[1]
    # A few rows of an orthogonal matrix are always orthogonal. Only blocks that are square or tall
    # tell that each was drawn by itself.
    if len(matrix) % blocks or columns < 2 or (blocks > 1 and rows < columns):
        return 0.0
    parts = matrix.chunk(blocks)
    grams = [part @ part.T if rows <= columns else part.T @ part for part in parts]
    square = float(grams[0][0, 0])
    expected = square * torch.eye(len(grams[0]), dtype=matrix.dtype, device=matrix.device)
    same = all(torch.allclose(gram, expected, rtol=0, atol=1e-4 * square) for gram in grams)
    return math.sqrt(square) if same else 0.0
