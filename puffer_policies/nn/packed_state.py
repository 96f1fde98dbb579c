"""A policy's state as one tensor, for whoever carries one tensor and not a dict of them.

`B` rows, `S` numbers of the state of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedState:
    """The order of a state's numbers in a tensor (B, S) float32, which holds bools exactly.

    Integers are exact up to 2**24, which a count of the steps of an episode does not reach.
    """

    entries: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    """Name, shape of a row and dtype of each tensor, in their order."""

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the order of states like this one, whose tensors are (B, ...)."""
        return cls(tuple((key, tuple(each.shape[1:]), each.dtype) for key, each in state.items()))

    @property
    def size(self) -> int:
        """S."""
        return sum(math.prod(shape) for _, shape, _ in self.entries)

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the tensors of `entries` in a state as (B, S)."""
        return torch.cat(
            [state[key].float().reshape(-1, math.prod(shape)) for key, shape, _ in self.entries], 1
        )

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """(B, S) -> the state: the inverse of `pack`."""
        parts = torch.split(packed, [math.prod(shape) for _, shape, _ in self.entries], 1)
        return {
            key: part.reshape(-1, *shape).to(dtype)
            for (key, shape, dtype), part in zip(self.entries, parts, strict=True)
        }
