"""How the weights of a fresh layer are drawn."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def layer_init(layer: Layer, std: float = math.sqrt(2), bias_const: float = 0.0) -> Layer:
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
