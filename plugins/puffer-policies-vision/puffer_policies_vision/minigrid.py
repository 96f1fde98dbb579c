"""The MiniGrid starter network: three 2x2 convolutions over the cells in view, one layer a head.

https://github.com/lcswillems/rl-starter-files, for the 7x7x3 view of https://minigrid.farama.org.
It differs from the original in that weights are orthogonal, the memory is left to a wrapper, and
cells are divided by 16. A cell holds three codes (object, color, state), none above 10, although
their space says 255. Divided by 255, they would hardly differ.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.heads import ValueHead, make_head
from puffer_policies.nn.images import ImageInput
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import require_kinds, spaces_of

CODES = 16
"""The divisor of cells: a power of two above MiniGrid's largest code, so the division is exact."""

CHANNELS = 64
"""Channels of the last convolution."""

SMALLEST = 7
"""Cells of the smallest side: (7 - 1) // 2 - 2 leaves one."""


class MiniGridEncoder(nn.Sequential):
    """Conv 16, pooling, conv 32, conv 64, each 2x2: (N, *obs) -> (N, H), H = 64 for a 7x7 view."""

    def __init__(self, space: Any, *, channels_last: bool | None = None) -> None:
        images = ImageInput(space, channels_last=channels_last, full_scale=CODES)
        rows, columns = (_conv_size(side) for side in _checked(images.size))
        super().__init__(
            images,
            layer_init(nn.Conv2d(images.channels, 16, 2)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            layer_init(nn.Conv2d(16, 32, 2)),
            nn.ReLU(),
            layer_init(nn.Conv2d(32, CHANNELS, 2)),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden_size = rows * columns * CHANNELS


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < SMALLEST:
        raise IncompatibleSpace(
            f"A view of {size[0]} x {size[1]} cells is too small for these convolutions: they need "
            f"at least {SMALLEST} x {SMALLEST}.",
            fix="Enlarge the view, or use 'MinAtarCNN', which reads 3 x 3 cells.",
        )
    return size


def _conv_size(side: int) -> int:
    """Return the cells of a side after the convolutions and the pooling."""
    return (side - 1) // 2 - 2


class DeepHead(nn.Sequential):
    """One tanh layer before a head."""

    def __init__(self, hidden_size: int, head_size: int, head: nn.Module) -> None:
        super().__init__(layer_init(nn.Linear(hidden_size, head_size)), nn.Tanh(), head)
        self.is_continuous = getattr(head, "is_continuous", False)


class MiniGridCNN(ActorCritic):
    """The starter network for views of 7 x 7 cells or more.

    It reads the image alone: put ``minigrid.wrappers.ImgObsWrapper`` around the env.

    Args:
        env: has grids of codes as observations, (h, w, C) in MiniGrid, or (C, h, w).
        head_size: width of the tanh layer in each head. `hidden_size` follows from the view.
        channels_last: the layout; inferred, and needed where the space does not show it.
    """

    # For the checks: random bytes are far above a cell's codes and saturate the critic's tanh.
    conformance: ClassVar[dict[str, float]] = {"first_value": 4.0}

    def __init__(self, env: Any, head_size: int = 64, channels_last: bool | None = None) -> None:
        spaces = spaces_of(env)
        if channels_last is None:
            require_kinds(spaces, "MiniGridCNN", observations=("image",))
        encoder = MiniGridEncoder(spaces.observation, channels_last=channels_last)
        actor, critic = make_head(spaces.action, head_size), ValueHead(head_size)
        super().__init__(
            encoder,
            spaces,
            actor=DeepHead(encoder.hidden_size, head_size, actor),
            critic=DeepHead(encoder.hidden_size, head_size, critic),
        )
