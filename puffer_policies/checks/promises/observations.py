"""S: what a policy makes of its inputs: dtypes, strides, pixels, orders of keys.

`B` rows, `T` steps, `C` channels, `h` and `w` pixels. `shapes.CHECKS` lists these checks with the
others of the family.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, check
from puffer_policies.checks.probes.construction import constructor, rebuild
from puffer_policies.checks.probes.outputs import tensors_of
from puffer_policies.checks.probes.rollouts import (
    in_sequence,
    one_step,
    sequence_state,
    to_double,
)
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.probes.tolerances import difference, is_same, require_same
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.errors import PolicyError
from puffer_policies.nn.features import MAX_PIXEL, holds_pixels
from puffer_policies.spaces import Spaces, image_layout, image_size, observation_kind
from puffer_policies.spaces.nested import leaves

LEAST, MOST = 1 / 16, 16.0
"""Bounds of the largest input of the first layer for a white image. Scaled once it is about 1, not
scaled 255, scaled twice 1/255; standardized and clipped pixels lie between."""

TINY = 5
"""Height and width of an image that is too small for most convolutions."""


# -- dtypes and strides ----------------------------------------------------------------------------


@check(
    "S6",
    "dtypes-cast",
    promise="Reads observations in the space's dtype, and real ones in float64; returns float32.",
    why="Environments hand out what NumPy gives them: float64 fails in the first layer, or turns "
    "the losses into float64 (DLR-RM/stable-baselines3#675).",
    fix="Cast where features enter: observations.to(self.encoder.weight.dtype).",
)
def dtypes_cast(subject: Subject) -> None:
    """Run the same numbers in both dtypes."""
    observations, policy = subject.observations(), perturbed_copy(subject)
    _require_float32(subject, policy, observations)
    double = to_double(observations)
    single = subject.map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, double)
    try:
        _require_float32(subject, policy, double)
        outputs = one_step(subject, policy, double)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckFailed(
            "float64 observations are read",
            error_line(error),
            example=example("print(policy.forward_eval(observations.double(), state))"),
        ) from error
    expected = one_step(subject, policy, single)
    require_same(
        outputs, expected, "float64 observations give the outputs of float32", where="between them"
    )


def _require_float32(subject: Subject, policy: nn.Module, observations: Any) -> None:
    logits, values, _ = subject.step(observations, policy=policy)
    actual = {str(each.dtype) for each in (*(tensors_of(logits) or []), values)}
    if actual != {"torch.float32"}:
        dtypes = sorted({str(each.dtype) for each in leaves(observations)})
        raise CheckFailed(
            f"float32 logits and values from observations of {', '.join(dtypes)}",
            ", ".join(sorted(actual)),
            example=example("print(policy.forward_eval(observations, state)[1].dtype)"),
        )


@check(
    "S7",
    "inputs-left-alone",
    promise="Reads inputs of any strides, and writes into none: observations, state, hidden.",
    why="Rollout buffers are views, and are read again in training: an update in place corrupts "
    "them after the action was drawn.",
    fix="Use reshape instead of view, and no operation that ends in an underscore on inputs.",
)
def inputs_left_alone(subject: Subject) -> None:
    """Run on strided copies, and compare what was passed before and after."""
    policy = perturbed_copy(subject)
    for run, steps in ((one_step, None), (in_sequence, STEPS)):
        observations = subject.observations(steps=steps)
        expected = run(subject, policy, observations)
        try:
            outputs = run(subject, policy, subject.map(_reverse_strides, observations))
        except RuntimeError as error:
            raise CheckFailed("observations of any strides are read", str(error)) from error
        require_same(outputs, expected, "outputs do not depend on strides", where="between strides")
    _require_unwritten(subject, policy)


def _reverse_strides(leaf: Tensor) -> Tensor:
    """Return a copy whose first axis is the fastest in memory, as in a transposed buffer."""
    axes = list(range(leaf.ndim))[::-1]
    return leaf.permute(axes).contiguous().permute(axes)


def _require_unwritten(subject: Subject, policy: nn.Module) -> None:
    """Call the methods themselves, as the runs of `rollouts` hand over copies."""
    for steps, call in ((None, policy.forward_eval), (STEPS, policy)):
        if steps is not None and subject.reads_rows_only:
            continue
        observations = subject.observations(steps=steps)
        state = subject.state(BATCH, policy)
        state = state if steps is None else sequence_state(policy, state)
        state = subject.add_required(dict(state), observations)
        inputs = {f"state[{key!r}]": each for key, each in state.items()}
        inputs |= {f"observations {i}": each for i, each in enumerate(leaves(observations))}
        before = {name: each.clone() for name, each in inputs.items()}
        with torch.no_grad():
            call(observations, dict(state))  # type: ignore[operator]
        _require_equal(before, inputs, steps)
    hidden = torch.rand(BATCH, int(policy.hidden_size))  # type: ignore[arg-type]
    before = {"hidden": hidden.clone()}
    with torch.no_grad(), suppress(RuntimeError, TypeError):  # B2 and B3 judge whether it runs
        policy.decode_actions(hidden)  # type: ignore[operator]
    _require_equal(before, {"hidden": hidden}, None)


def _require_equal(before: dict[str, Tensor], after: dict[str, Tensor], steps: int | None) -> None:
    if changed := [name for name in before if not torch.equal(before[name], after[name])]:
        raise CheckFailed(
            "tensors that are passed in stay as they are",
            f"changed in place: {', '.join(changed)}",
            example=example("# clone them, call the policy, and compare", steps=steps),
        )


# -- pixels ----------------------------------------------------------------------------------------


def reads_pixels(subject: Subject) -> str:
    """Return why a check of pixels does not apply, or ''."""
    space: Any = subject.spaces.observation
    try:
        is_image = observation_kind(space) == "image"
    except PolicyError:
        is_image = False
    return "" if is_image and holds_pixels(space) else "its observations are not pixels 0..255"


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
    """Give constant images, then one shade a channel, then build for tiny images.

    What enters the first layer with weights is seen by a hook. A policy whose first such layer
    normalizes, embeds or can't be hooked is skipped with that reason.
    """
    _require_scale(subject)
    _require_channels(subject)
    _require_words(subject)


def _require_scale(subject: Subject) -> None:
    shape = subject.spaces.observation.shape
    black, faint, white = (
        _first_input(subject, _two_images(subject, np.full(shape, pixel))) for pixel in (0, 1, 255)
    )
    largest = float(white.abs().max())
    if not LEAST <= largest <= MOST:
        raise CheckFailed(
            "a white image (255) enters the first layer as about 1",
            f"its largest number there is {largest:.3g}",
            example=_pixel_example(255),
        )
    if torch.equal(black, faint):
        # uint8 // 255, or a cast that comes after the division.
        raise CheckFailed(
            "pixels of 0 and 1 are told apart",
            "they enter the first layer as the same numbers",
            example=_pixel_example(1),
        )


def _pixel_example(pixel: int) -> str:
    return example(
        f"white = torch.full_like(observations, {pixel})",
        "print(policy.encode_observations(white))",
        batch=1,
    )


def _require_channels(subject: Subject) -> None:
    """Give each channel one shade: a channel of the first convolution must have one, too."""
    space: Any = subject.spaces.observation
    layout, shape = image_layout(space), tuple(space.shape)
    channels = shape[-1] if layout == "HWC" else shape[0]
    shades = np.linspace(20, 250, channels).astype(np.uint8)
    image = np.broadcast_to(shades if layout == "HWC" else shades[:, None, None], shape)
    entry = _first_input(subject, _two_images(subject, image))
    if entry.ndim != 4 or sorted(entry.shape[1:]) != sorted(shape):
        return  # not the image alone, or not as an image: there is nothing to compare
    is_constant = torch.equal(entry.amax((2, 3)), entry.amin((2, 3)))
    if entry.shape[1] != channels or not is_constant:
        raise CheckFailed(
            f"a {layout} image of shape {shape} enters a convolution as "
            f"{(channels, *image_size(space))}",
            f"it entered as {tuple(entry.shape[1:])}"
            + ("" if is_constant else ", with channels mixed up"),
            example=example("# give every channel one shade, and hook the convolution", batch=1),
        )


def _require_words(subject: Subject) -> None:
    """Build for images of 5 x 5 pixels: it works, or the error names that size."""
    declared = subject.capabilities
    if constructor(subject) is None or (declared and declared.min_image_size > TINY):
        return
    space: Any = subject.spaces.observation
    channels = min(min(space.shape), TINY - 1)  # fewer than TINY, so that the layout shows
    is_last = image_layout(space) == "HWC"
    shape = (TINY, TINY, channels) if is_last else (channels, TINY, TINY)
    tiny = gym_spaces.Box(0, int(MAX_PIXEL), shape, space.dtype)
    try:
        policy = rebuild(subject, spaces=Spaces(tiny, subject.spaces.action))
    except Exception as error:
        if isinstance(error, PolicyError) or str(TINY) in str(error):
            return
        raise CheckFailed(
            f"an error that says that images of {TINY} x {TINY} are too small",
            f"{type(error).__name__}: {error}",
        ) from error
    try:
        with torch.no_grad():
            policy.encode_observations(torch.from_numpy(np.zeros((2, *shape), space.dtype)))  # type: ignore[operator]
    except Exception as error:
        raise CheckFailed(
            f"a policy built for images of {TINY} x {TINY} runs, or is not built",
            f"it was built, and then: {type(error).__name__}: {error}",
        ) from error


def _two_images(subject: Subject, image: np.ndarray[Any, Any]) -> Tensor:
    """Return an image twice, (2, *obs), in the space's dtype."""
    return torch.from_numpy(np.stack([image, image]).astype(subject.spaces.observation.dtype))


def _first_input(subject: Subject, observations: Tensor) -> Tensor:
    """Return what enters the first layer with weights.

    Raises:
        CheckSkipped: that is not a layer whose scale can be told.
    """
    policy = subject.copy_policy()
    entries: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            entries.append((module, inputs[0].clone()))

    for module in policy.modules():
        # A scripted module does not take hooks of Python functions.
        if vars(module).get("_parameters") and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(record)
    with torch.no_grad():
        policy.encode_observations(observations)  # type: ignore[operator]
    if not entries or not isinstance(entries[0][0], nn.Linear | nn.Conv2d):
        kind = type(entries[0][0]).__name__ if entries else "nothing"
        raise CheckSkipped(f"the first layer that a hook sees is {kind}: no scale to tell")
    return entries[0][1].detach().float()


# -- keys ------------------------------------------------------------------------------------------


def has_keys(subject: Subject) -> str:
    """Return why a check of keys does not apply, or ''."""
    return "" if _has_keys(subject.spaces.observation) else "its observations have no keys"


@check(
    "S10",
    "key-order-free",
    promise="Dict observations mean the same in every order of their keys.",
    why="Environments, vectorizers and checkpoints order keys differently: features then land in "
    "front of the wrong weights (ray-project/ray#24105).",
    fix="Concatenate in sorted order of keys, at construction and in every pass.",
    applies=has_keys,
)
def key_order_free(subject: Subject) -> None:
    """Reverse the keys of observations, then those of the space that the policy is built for."""
    policy, observations = perturbed_copy(subject), subject.observations()
    expected = one_step(subject, policy, observations)
    outputs = one_step(subject, policy, _reverse_keys(observations))
    if not is_same(outputs, expected):
        gap = difference(outputs, expected)
        raise _order_failure(f"outputs {gap:.2g} apart for observations with keys reversed")
    if constructor(subject) is None:
        return
    other = rebuild(subject, spaces=_reverse_spaces(subject.spaces)).eval()
    try:
        other.load_state_dict(policy.state_dict())
    except RuntimeError as error:
        raise _order_failure(f"built for reversed keys, it has others: {error}") from error
    outputs = one_step(subject, other, observations)
    if not is_same(outputs, expected):
        gap = difference(outputs, expected)
        raise _order_failure(
            f"built for reversed keys, with the same weights, outputs are {gap:.2g} apart"
        )


def _order_failure(actual: str) -> CheckFailed:
    lines = example("# pass dict(reversed(observations.items())) and compare")
    return CheckFailed("the same outputs for every order of keys", actual, example=lines)


def _has_keys(space: Any) -> bool:
    members = getattr(space, "spaces", None)
    if isinstance(members, Mapping):
        return len(members) > 1 or any(map(_has_keys, members.values()))
    return isinstance(members, tuple) and any(map(_has_keys, members))


def _reverse_keys(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: _reverse_keys(each) for key, each in reversed(observations.items())}
    if isinstance(observations, tuple):
        return tuple(map(_reverse_keys, observations))
    return observations


def _reverse_spaces(spaces: Spaces) -> Spaces:
    return Spaces(_reverse_space(spaces.observation), spaces.action)


def _reverse_space(space: Any) -> Any:
    """Return a copy with the keys of every Dict in it in reverse order.

    A Dict that is made anew would sort them, so the members are replaced in a copy.
    """
    members, other = getattr(space, "spaces", None), copy.copy(space)
    if isinstance(members, Mapping):
        pairs = reversed(list(members.items()))
        other.spaces = OrderedDict((key, _reverse_space(each)) for key, each in pairs)
    elif isinstance(members, tuple):
        other.spaces = tuple(map(_reverse_space, members))
    return other
