"""Encoders: (N, *obs) -> hidden (N, H) float32, built from an observation space.

`C` channels, `H` hidden size. Every encoder has the attribute ``hidden_size``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError, IncompatibleSpace, short
from puffer_policies.nn.features import make_features
from puffer_policies.nn.fixed import Call, chain, fixed_call
from puffer_policies.nn.images import ImageInput
from puffer_policies.nn.init import layer_init

NARROW_INPUT = 64
"""Features up to which `InputLinear` computes its gradient in the other order."""


class InputLinear(nn.Linear):
    """A Linear layer that casts what it reads to the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, size) of any floating dtype -> (N, H)."""
        weight = self.weight
        if x.dtype is not weight.dtype:
            x = x.to(weight.dtype)
        if self.in_features > NARROW_INPUT or not (x.is_cpu and torch.is_grad_enabled()):
            return nn.functional.linear(x, weight, self.bias)
        # The same sum. For a weight laid out as (size, H) autograd multiplies (size, N) by (N, H)
        # instead of (H, N) by (N, size), which MKL does 6 times slower for 4 features of 1024 rows.
        transposed = weight.t().contiguous()
        return x @ transposed if self.bias is None else torch.addmm(self.bias, x, transposed)

    def fixed_call(self) -> Call:
        """Return `forward` without gradient, see `nn.fixed`."""
        weight, bias = self.weight, self.bias

        def call(x: Tensor) -> Tensor:
            # Calls of torch that change nothing cost a microsecond each.
            x = x if x.dtype is weight.dtype else x.to(weight.dtype)
            return nn.functional.linear(x, weight, bias)

        return call


MAX_LAYERS = 1_000
"""Layers of an encoder or a memory; more come from a slip or a stranger's recipe."""


def require_count(name: str, number: Any, *, most: int | None = None) -> int:
    """Return an argument of a constructor that is a whole number from 1 on, up to `most`.

    Raises:
        BuildError: it is anything else; torch accepts 0 silently, and fails at 2.5 far away.
    """
    is_whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not is_whole or number < 1 or (most is not None and number > most):
        limits = "1 on" if most is None else f"1 to {most:,}"
        raise BuildError(f"{name}={short(number)}, but it should be a whole number from {limits}.")
    return int(number)


def require_width(hidden_size: Any) -> None:
    """Raise an error for a width that is not a whole number from 1 on."""
    require_count("hidden_size", hidden_size)


class MLPEncoder(nn.Module):
    """Features of any space, then Linear layers with an activation after each."""

    def __init__(
        self,
        space: Any,
        hidden_sizes: Sequence[int],
        *,
        activation: type[nn.Module] = nn.Tanh,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for size in hidden_sizes:
            require_width(size)
        self.features = make_features(space)
        self.hidden_size = hidden_sizes[-1]
        first = layer_init(InputLinear(self.features.size, hidden_sizes[0], bias=bias))
        layers: list[nn.Module] = [first, activation()]
        for size, width in pairwise(hidden_sizes):
            layers += [layer_init(nn.Linear(size, width, bias=bias)), activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, observations: Any) -> Tensor:
        """(N, *obs) in any dtype of the space -> (N, H)."""
        hidden: Tensor = self.layers(self.features(observations))
        return hidden

    def fixed_call(self) -> Call:
        """Return `forward` without gradient, see `nn.fixed`."""
        return chain(fixed_call(self.features), fixed_call(self.layers))


class LinearEncoder(MLPEncoder):
    """One Linear layer and GELU, PufferLib's default, or several of them."""

    def __init__(self, space: Any, hidden_size: int, *, num_layers: int = 1) -> None:
        sizes = (hidden_size,) * require_count("num_layers", num_layers, most=MAX_LAYERS)
        super().__init__(space, sizes, activation=nn.GELU)


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """One convolution without padding."""

    channels: int
    kernel: int
    stride: int

    def size(self, pixels: int) -> int:
        """Return the height or width after the convolution, below 1 where `pixels` are too few."""
        return (pixels - self.kernel) // self.stride + 1


NATURE_CNN = (ConvLayer(32, 8, 4), ConvLayer(64, 4, 2), ConvLayer(64, 3, 1))
"""The convolutions of Mnih et al. 2015, https://www.nature.com/articles/nature14236."""


class ImageEncoder(nn.Module):
    """A network over images, then one Linear layer with ReLU.

    Args:
        images: brings observations into the form that `network` takes.
        network: (N, C, h, w) -> (N, flat_size).
        flat_size: number of features that `network` leaves.
        hidden_size: width of the Linear layer.
    """

    def __init__(
        self, images: ImageInput, network: nn.Module, *, flat_size: int, hidden_size: int
    ) -> None:
        super().__init__()
        require_width(hidden_size)
        self.hidden_size = hidden_size
        self.flat_size = flat_size
        self.images = images
        self.network = network
        self.linear = layer_init(nn.Linear(flat_size, hidden_size))

    @property
    def channels(self) -> int:
        """Number of channels of an observation."""
        return self.images.channels

    def forward(self, observations: Tensor) -> Tensor:
        """(N, C, h, w) or (N, h, w, C) of any dtype -> (N, H)."""
        flat = self.network(self.images(observations))  # (N, flat_size)
        return nn.functional.relu(self.linear(flat))

    def fixed_call(self) -> Call:
        """Return `forward` without gradient, see `nn.fixed`."""
        parts = (self.images, self.network, self.linear)
        return chain(*map(fixed_call, parts), nn.functional.relu)


class ConvEncoder(ImageEncoder):
    """Convolutions with ReLU, then one Linear layer with ReLU; NatureCNN by default.

    The layout (CHW or HWC) is that of the space unless `channels_last` is set. Pixels are divided
    by 255 if these are the bounds of the space, or by `full_scale`; see `ImageInput`.
    """

    def __init__(
        self,
        space: Any,
        hidden_size: int = 512,
        *,
        channels_last: bool | None = None,
        layers: Sequence[ConvLayer] = NATURE_CNN,
        full_scale: float | None = None,
    ) -> None:
        images = ImageInput(space, channels_last=channels_last, full_scale=full_scale)
        flat_size = _flat_size(layers, *images.size)
        network = _convolutions(images.channels, layers)
        super().__init__(images, network, flat_size=flat_size, hidden_size=hidden_size)


def _flat_size(layers: Sequence[ConvLayer], height: int, width: int) -> int:
    sides = [height, width]
    for layer in layers:
        sides = [layer.size(side) for side in sides]
    if min(sides) < 1:
        least = min_image_size(layers)
        raise IncompatibleSpace(
            f"An image of {height} x {width} pixels is too small for these convolutions: they need "
            f"at least {least} x {least}.",
            fix="Enlarge the image, or use a policy made for small ones.",
        )
    return layers[-1].channels * math.prod(sides)


def min_image_size(layers: Sequence[ConvLayer] = NATURE_CNN) -> int:
    """Return the smallest height and width that leave one pixel after the last layer."""
    size = 1
    for layer in reversed(layers):
        size = (size - 1) * layer.stride + layer.kernel
    return size


def _convolutions(channels: int, layers: Sequence[ConvLayer]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        conv = nn.Conv2d(channels, layer.channels, layer.kernel, stride=layer.stride)
        modules += [layer_init(conv), nn.ReLU()]
        channels = layer.channels
    return nn.Sequential(*modules, nn.Flatten())


def require_equal(parameter: str, *, argument: int | None, inferred: int) -> None:
    """Raise an error if an argument differs from the size that the space implies."""
    if argument is not None and argument != inferred:
        raise BuildError(
            f"{parameter}={argument} was given, but the observation space makes it {inferred}.",
            fix=f"Leave {parameter} out: it is inferred.",
        )
