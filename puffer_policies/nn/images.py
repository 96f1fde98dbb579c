"""The input of convolutions: channels first, floating point, pixels scaled exactly once.

`N` rows, `C` channels, `h` and `w` pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.features import MAX_PIXEL, holds_pixels
from puffer_policies.nn.observations import require_shape
from puffer_policies.nn.trace import is_exporting
from puffer_policies.spaces import described, image_layout

MANY_PIXELS = 32 * 32
"""Pixels of an image from which the layout of its channels in memory is changed."""


class ImageInput(nn.Module):
    """(N, C, h, w) or (N, h, w, C) of any dtype -> (N, C, h, w), without weights of its own.

    The result has the dtype of the encoder around it, also after ``.double()``.

    Args:
        space: a Box of three axes.
        channels_last: the layout; the space's if None.
        full_scale: the number that becomes 1, by a division that is done here and nowhere else. If
            None, 255 for a space with bounds 0 and 255; images of other spaces stay as they are.

    Raises:
        IncompatibleSpace: the space does not have three axes, or does not show its layout.
    """

    full_scale: Tensor

    def __init__(
        self, space: Any, *, channels_last: bool | None = None, full_scale: float | None = None
    ) -> None:
        super().__init__()
        self.shape = _image_shape(space)
        self.channels_last = _is_channels_last(space) if channels_last is None else channels_last
        if full_scale is None:
            full_scale = MAX_PIXEL if holds_pixels(space) else 1.0
        self.scaled = full_scale != 1
        # A buffer, so that it moves with the encoder; a constant, so that no checkpoint needs it.
        self.register_buffer("full_scale", torch.tensor(float(full_scale)), persistent=False)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[-1 if self.channels_last else 0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        first, middle, last = self.shape
        return (first, middle) if self.channels_last else (middle, last)

    def forward(self, observations: Tensor) -> Tensor:
        """(N, C, h, w) or (N, h, w, C) of any dtype -> (N, C, h, w) in the encoder's dtype."""
        observations = require_shape(observations, self.shape)
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)  # (N, C, h, w)
        if self._wants_channels_innermost(observations):
            # Still (N, C, h, w). Before the division, as bytes are a quarter of floats.
            observations = observations.contiguous(memory_format=torch.channels_last)
        if self.scaled:
            observations = observations / self.full_scale
        return observations.to(self.full_scale.dtype)

    def _wants_channels_innermost(self, observations: Tensor) -> bool:
        """Return whether convolutions are faster where the channels of a pixel lie side by side.

        In a gradient step on a CPU they take 0.9 of the time in NatureCNN and 0.7 in residual
        networks, but 1.3 where images are as small as MinAtar's; a step without gradient gains
        nothing there. Tensor cores of a GPU compute in this layout.
        """
        height, width = self.size
        if height * width < MANY_PIXELS or is_exporting():
            return False
        return observations.is_cuda or torch.is_grad_enabled()


def _image_shape(space: Any) -> tuple[int, int, int]:
    shape = tuple(space.shape or ())
    if len(shape) != 3:
        raise IncompatibleSpace(
            f"Observation space {described(space)} is not an image, as it has {len(shape)} axes, "
            "not 3.",
            fix="Use a policy for vectors, such as 'Default'.",
        )
    return shape


def _is_channels_last(space: gym_spaces.Box) -> bool:
    layout = image_layout(space)
    if not layout:
        raise IncompatibleSpace(
            f"Observation space {space} does not show which axis holds the channels.",
            fix="Say it: channels_last=True for (height, width, channels), else False; or give the "
            "space as a puffer_policies.spaces.Image.",
        )
    return layout == "HWC"
