"""Arrays of two kinds: NumPy's of envs on the host, tensors of envs on a device.

What is estimated from a rollout is written once, by operators and by the functions that both
libraries have under the same name, so that the numbers of an env on a device never leave it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from puffer_policies.vector.protocol import Array

Shape = int | tuple[int, ...]


def namespace(array: Array) -> Any:
    """Return the library of `array`, `numpy` or `torch`."""
    return torch if isinstance(array, Tensor) else np


def zeros(shape: Shape, dtype: DTypeLike, device: torch.device | None) -> Array:
    """Return zeros of one of NumPy's dtypes: a tensor on `device`, or an array if it is None."""
    if device is None:
        return np.zeros(shape, dtype)
    return torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name), device=device)


def double(value: float, like: Array) -> Array:
    """Return a float64 () of the library of `like`, which makes float64 of flags in a product.

    A Python float times an array of bool is float64 in NumPy, but float32 in torch. It stays on the
    host, where a kernel of any device takes it as an argument.
    """
    library = namespace(like)
    return library.asarray(value, dtype=library.float64)


def beside(tensor: Tensor, array: Array) -> Array:
    """Return `tensor` as what `array` is: itself, or a NumPy array on the host."""
    return tensor if isinstance(array, Tensor) else tensor.cpu().numpy()
