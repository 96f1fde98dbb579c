"""The gradients of a policy side by side in one tensor: cleared and clipped by a few calls."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from puffer_policies.train.distributed import World


class Gradients:
    """Gives each of `parameters` that is trained a ``grad`` that is a view into a flat tensor.

    Clearing and clipping a small policy tensor by tensor takes longer than its gradients. Autograd
    adds to a ``grad`` that is there in place. There is a flat tensor for every dtype.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [each for each in parameters if each.requires_grad]
        self._flat: list[Tensor] = []
        self._views: list[tuple[nn.Parameter, Tensor]] = []
        for dtype in dict.fromkeys(each.dtype for each in trained):
            self._lay_out([each for each in trained if each.dtype is dtype])

    def _lay_out(self, parameters: list[nn.Parameter]) -> None:
        sizes = [each.numel() for each in parameters]
        flat = parameters[0].new_zeros(sum(sizes))
        pieces = torch.split(flat, sizes)
        self._flat.append(flat)
        self._views += [(p, piece.view_as(p)) for p, piece in zip(parameters, pieces, strict=True)]

    def clear(self) -> None:
        """Set all to zero."""
        for flat in self._flat:
            flat.zero_()
        for parameter, view in self._views:
            parameter.grad = view  # somebody may have set it to None, as `zero_grad` does

    def average(self, world: World) -> None:
        """Average over all processes: one message for each dtype."""
        for flat in self._flat:
            world.mean_(flat)

    def clip(self, max_norm: float) -> None:
        """Scale all down to the Euclidean norm `max_norm`, if theirs is larger."""
        norms = [torch.linalg.vector_norm(flat).float() for flat in self._flat]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for flat in self._flat:
            flat.mul_(scale)
