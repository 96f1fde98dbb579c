"""S9: what reaches the first layer of a policy for images (scale, channels); and tiny images.

`C` channels, `h` and `w` pixels. Looked at through hooks on the first layer with weights, so a
policy whose first such layer normalises, embeds or can't be hooked is skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.probing import constructor, given, rebuilt
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import PolicyError
from puffer_policies.nn.features import MAX_PIXEL, holds_pixels
from puffer_policies.spaces import Spaces, image_layout, image_size, observation_kind

LEAST, MOST = 1 / 16, 16.0
"""Bounds of the largest input of the first layer for a white image: once scaled it is about 1, not
scaled 255, scaled twice 1/255. Standardised and clipped pixels lie between."""

TINY = 5
"""Height and width of an image that is too small for most convolutions."""


def reads_pixels(subject: Subject) -> str:
    """Say why the policy reads no image of pixels, or ''."""
    space: Any = subject.spaces.observation
    try:
        is_image = observation_kind(space) == "image"
    except PolicyError:
        is_image = False
    return "" if is_image and holds_pixels(space) else "its observations are no pixels 0..255"


@check(
    "S9",
    "pixels-read-right",
    promise="Pixels are divided by 255 once, channels lie where the space has them, and an image "
    "that is too small is refused in words.",
    why="Unscaled, twice scaled or transposed images train, but badly "
    "(DLR-RM/stable-baselines3#1977); a shape error inside a convolution names no image.",
    fix="Divide by 255 where pixels enter, and nowhere else; permute, not reshape, (h, w, C) to "
    "(C, h, w); check sizes when building.",
    applies=reads_pixels,
)
def pixels_read_right(subject: Subject) -> None:
    """Show constant images, then one colour a channel, then build for tiny images."""
    _require_scale(subject)
    _require_channels(subject)
    _require_words(subject)


CHECKS = (pixels_read_right,)


def _require_scale(subject: Subject) -> None:
    black, faint, white = (_first_input(subject, _constant(subject, p)) for p in (0, 1, 255))
    largest = float(white.abs().max())
    if not LEAST <= largest <= MOST:
        raise CheckFailed(
            "a white image (255) enters the first layer as about 1",
            f"its largest number there is {largest:.3g}",
            example=_example(subject, 255),
        )
    if torch.equal(black, faint):
        raise CheckFailed(
            "pixels of 0 and 1 are told apart",
            "they enter the first layer as the same numbers",
            example=_example(subject, 1),
        )


def _require_channels(subject: Subject) -> None:
    """Give each channel one shade: a channel of the first convolution must have one, too."""
    space: Any = subject.spaces.observation
    layout, shape = image_layout(space), tuple(space.shape)
    channels = shape[-1] if layout == "HWC" else shape[0]
    shades = np.linspace(20, 250, channels).astype(np.uint8)
    image = np.broadcast_to(shades if layout == "HWC" else shades[:, None, None], shape)
    entered = _first_input(subject, _batch(subject, image))
    if entered.ndim != 4 or sorted(entered.shape[1:]) != sorted(shape):
        return  # not the image alone, or not as an image: nothing to compare
    constant = torch.equal(entered.amax((2, 3)), entered.amin((2, 3)))
    if entered.shape[1] != channels or not constant:
        raise CheckFailed(
            f"a {layout} image of shape {shape} enters a convolution as "
            f"{(channels, *image_size(space))}",
            f"it entered as {tuple(entered.shape[1:])}"
            + ("" if constant else ", with channels mixed up"),
            example=given(subject, 1) + "# give every channel one shade, and hook the convolution",
        )


def _require_words(subject: Subject) -> None:
    """Build for images of 5 x 5 pixels: it works, or the error says what the size is."""
    declared = subject.capabilities
    if constructor(subject) is None or (declared and declared.min_image_size > TINY):
        return
    tiny = _tiny(subject.spaces.observation)
    try:
        policy = rebuilt(subject, spaces=Spaces(tiny, subject.spaces.action))
    except Exception as error:
        if isinstance(error, PolicyError) or str(TINY) in str(error):
            return
        raise CheckFailed(
            f"an error that says that images of {TINY} x {TINY} are too small",
            f"{type(error).__name__}: {error}",
        ) from error
    _require_works(policy, tiny)


def _require_works(policy: nn.Module, tiny: Any) -> None:
    image = torch.from_numpy(np.zeros((2, *tiny.shape), tiny.dtype))
    try:
        with torch.no_grad():
            policy.encode_observations(image)  # type: ignore[operator]
    except Exception as error:
        raise CheckFailed(
            f"a policy built for images of {TINY} x {TINY} runs, or is not built",
            f"it was built, and then: {type(error).__name__}: {error}",
        ) from error


def _tiny(space: Any) -> Any:
    """Return a space of tiny images, with few enough channels that the layout shows."""
    channels = min(min(space.shape), TINY - 1)
    sides = (TINY, TINY)
    shape = (*sides, channels) if image_layout(space) == "HWC" else (channels, *sides)
    return gym_spaces.Box(0, int(MAX_PIXEL), shape, space.dtype)


def _constant(subject: Subject, pixel: int) -> Tensor:
    return _batch(subject, np.full(subject.spaces.observation.shape, pixel))


def _batch(subject: Subject, image: np.ndarray[Any, Any]) -> Tensor:
    """Return an image twice, (2, *obs), in the space's dtype."""
    return torch.from_numpy(np.stack([image, image]).astype(subject.spaces.observation.dtype))


def _first_input(subject: Subject, observations: Tensor) -> Tensor:
    """Return what enters the first layer with weights.

    Raises:
        CheckSkipped: it is no layer of which the scale can be told.
    """
    policy = subject.copied().eval()
    seen: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(_keep_in(seen))
        for module in policy.modules()
        if vars(module).get("_parameters") and not isinstance(module, torch.jit.ScriptModule)
    ]
    with torch.no_grad():
        policy.encode_observations(observations)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    if not seen or not isinstance(seen[0][0], nn.Linear | nn.Conv2d):
        kind = type(seen[0][0]).__name__ if seen else "nothing"
        raise CheckSkipped(f"the first layer that a hook sees is {kind}: no scale to tell")
    return seen[0][1].detach().float()


def _keep_in(seen: list[tuple[nn.Module, Tensor]]) -> Callable[[nn.Module, Any], None]:
    def keep(module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.append((module, inputs[0].clone()))

    return keep


def _example(subject: Subject, pixel: int) -> str:
    return given(subject, 1) + f"print(policy.encode_observations(observations + {pixel}))"
