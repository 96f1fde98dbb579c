"""S: what a policy makes of its inputs: dtypes, strides, pixels, orders of keys.

`B` rows, `T` steps, `C` channels, `h` and `w` pixels. `shapes.CHECKS` lists these checks with the
others of the family.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.construction import needs_spaces_only, rebuild
from puffer_policies.checks.probes.edges import filled
from puffer_policies.checks.probes.parts import tensors_of
from puffer_policies.checks.probes.rollouts import (
    in_sequence,
    one_step,
    sequence_state,
    to_double,
)
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.probes.tolerances import (
    CHANGE,
    KERNELS,
    difference,
    is_same,
    magnitude,
    require_same,
)
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.checks.promises.masks import random_mask
from puffer_policies.contract import ACTION_MASK, EPISODE_START, PREV_ACTION, PREV_REWARD
from puffer_policies.errors import PolicyError
from puffer_policies.nn.features import MAX_PIXEL, holds_pixels
from puffer_policies.spaces import Spaces, image_layout, image_size, observation_kind
from puffer_policies.spaces.nested import leaves, map_nested, names_of

LEAST, MOST = 1 / 16, 16.0
"""Bounds of the largest input of the first layer for a white image. Scaled once it is about 1, not
scaled 255, scaled twice 1/255; standardized and clipped pixels lie between."""

INPUTS = (EPISODE_START, ACTION_MASK, PREV_ACTION, PREV_REWARD)
"""Keys of the state that callers write, and policies only read."""

SMALL = (torch.uint8, torch.int8, torch.int16)
"""Dtypes whose sums and differences leave their range."""

PLAIN = (0, 2, 200)
"""Numbers of observations that are alike everywhere, of which differences wrap around nowhere."""

FAINT = 64
"""An env whose brightest pixel is below this may well send codes."""

TINY = 5
"""Height and width of an image that is too small for most convolutions."""


# -- dtypes and strides ----------------------------------------------------------------------------


@check(
    "S6",
    "dtypes-cast",
    promise="Reads observations in the space's dtype, and real ones in float64; computes with "
    "whole numbers so that they do not wrap around; returns float32.",
    why="Environments hand out what NumPy gives them: float64 fails in the first layer, or turns "
    "the losses into float64 (DLR-RM/stable-baselines3#675). A byte less a larger one is a large "
    "one.",
    fix="Cast where features enter, before any arithmetic: "
    "observations.to(self.encoder.weight.dtype).",
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def dtypes_cast(subject: Subject) -> None:
    """Run the same numbers in both dtypes."""
    observations, policy = subject.observations(), perturbed_copy(subject)
    _require_float32(subject, policy, observations)
    _require_no_wrap(subject, policy, observations)
    double = to_double(observations)
    single = subject.map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, double)
    try:
        _require_float32(subject, policy, double)
        outputs = one_step(subject, policy, double)
    except (RuntimeError, TypeError, ValueError) as error:
        # Of a space of float32 the error is loud, and the env's to mend as much as the policy's.
        is_double = any(leaf.dtype is torch.float64 for leaf in leaves(observations))
        raise CheckFailed(
            "float64 observations are read",
            error_line(error),
            example=example("print(policy.forward_eval(observations.double(), state))"),
            level=Level.FAILURE if is_double else Level.ADVICE,
        ) from error
    expected = one_step(subject, policy, single)
    require_same(
        outputs, expected, "float64 observations give the outputs of float32", where="between them"
    )


def _require_no_wrap(subject: Subject, policy: nn.Module, observations: Any) -> None:
    """Give small integers as larger ones and as real numbers: arithmetic in them wraps around.

    A cast counts that changes nothing where all numbers are alike. Whoever scales by the dtype may
    take real numbers for shades from 0 to 1.
    """
    if not any(leaf.dtype in SMALL for leaf in leaves(observations)):
        return
    plain = [
        subject.admit(filled(subject.spaces.observation, observations, value)) for value in PLAIN
    ]
    limit, gaps = subject.tolerance(KERNELS), []
    for cast in (Tensor.float, Tensor.int, lambda leaf: leaf.float() / MAX_PIXEL):
        with suppress(Exception):  # what looks up codes, or shifts bits, may refuse real numbers
            gap = _gap_of(subject, policy, cast, observations)
            if gap <= limit:
                return
            if any(_gap_of(subject, policy, cast, each) <= limit for each in plain):
                gaps.append(gap)
    if gaps:
        dtype = next(leaf.dtype for leaf in leaves(observations) if leaf.dtype in SMALL)
        raise CheckFailed(
            f"numbers in {dtype} to be answered like the same numbers in another dtype",
            f"outputs at least {min(gaps):.2g} apart: what is computed in {dtype} wraps around",
            example=example(
                "print(policy.forward_eval(observations, state))",
                "wide = subject.map(lambda leaf: leaf.float(), observations)",
                "print(policy.forward_eval(wide, state))",
            ),
        )


def _gap_of(subject: Subject, policy: nn.Module, cast: Any, observations: Any) -> float:
    """Return how far outputs are apart that follow a cast, relative to the largest of them."""
    wide = subject.map(lambda leaf: cast(leaf) if leaf.dtype in SMALL else leaf, observations)
    expected, actual = (one_step(subject, policy, each) for each in (observations, wide))
    return difference(actual, expected) / magnitude(expected)


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
    promise="Reads inputs of any strides, and writes into none: observations, state, hidden. Dicts "
    "keep their keys, and inputs in the state their values. Outputs stay as they were returned.",
    why="Rollout buffers are views, and are read again in training: an update in place corrupts "
    "them after the action was drawn. Values that a later step overwrites are those of the last.",
    fix="Use reshape instead of view, and no operation that ends in an underscore on inputs; get "
    "from a dict, never pop, and write new entries into a dict of your own. Return new tensors.",
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
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
        require_same(
            outputs,
            expected,
            "outputs do not depend on strides",
            where="between strides",
            tolerance=subject.tolerance(KERNELS),
        )
    _require_unwritten(subject, policy)
    _require_own_outputs(subject, policy)


def _require_own_outputs(subject: Subject, policy: nn.Module) -> None:
    """Fail if a later call overwrites what an earlier one returned."""
    runs: dict[str, Callable[[Any], tuple[Any, ...]]] = {
        "forward_eval": lambda each: subject.step(each[0], policy=policy)[:2],
        "forward": lambda each: subject.sequence(each[1], policy=policy),
    }
    first, second = (
        (subject.observations(seed=seed), subject.observations(steps=STEPS, seed=seed))
        for seed in (0, 1)
    )
    for method, run in runs.items():
        logits, values = run(first)
        outputs = [*(tensors_of(logits) or []), values]
        before = [each.clone() for each in outputs]
        run(second)
        if not all(map(torch.equal, map(torch.nan_to_num, before), map(torch.nan_to_num, outputs))):
            raise CheckFailed(
                f"what {method} returned to stay as it was",
                "a later call of it has overwritten that",
                example=example(
                    "logits, values = policy.forward_eval(observations, state)",
                    "before = values.clone()",
                    "policy.forward_eval(subject.observations(seed=1), state)",
                    "print(before, values)",
                ),
            )


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
        # Of a step before: in a state of zeros nobody sees what is set to zero.
        _, _, state = subject.step(subject.observations(), policy=policy)
        state = state if steps is None else sequence_state(policy, state)
        state = subject.add_required(dict(state), observations)
        if subject.recurrent:
            state[EPISODE_START] = subject.starts(steps=steps or 1, at=[(1, 0)])
            state[EPISODE_START] = state[EPISODE_START] if steps else state[EPISODE_START][:, 0]
        if ACTION_MASK in state:
            # Of a mask of ones nobody sees what is allowed besides.
            state[ACTION_MASK] = random_mask(subject.layout, tuple(state[ACTION_MASK].shape[:-1]))
        inputs = {f"state[{key!r}]": each for key, each in state.items()}
        inputs |= {f"observations {i}": each for i, each in enumerate(leaves(observations))}
        before = {name: each.clone() for name, each in inputs.items()}
        carry, passed = dict(state), map_nested(lambda leaf: leaf, observations)
        with torch.no_grad():
            call(passed, carry)  # type: ignore[operator]
        _require_equal(before, inputs, steps)
        _require_kept(_entries(observations), _entries(passed), "observations", steps)
        # Entries of the memory are what a step replaces.
        sent = {key: each for key, each in state.items() if key in INPUTS}
        _require_kept(sent, {key: carry[key] for key in sent if key in carry}, "state", steps)
    width = getattr(policy, "hidden_size", None)
    if not isinstance(width, int) or not hasattr(policy, "decode_actions"):
        return  # B2's matter
    hidden = torch.rand(BATCH, width)
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


def _entries(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested observations by the path of their keys."""
    return dict(zip(names_of(tree, path), leaves(tree), strict=True))


def _require_kept(
    before: dict[str, Any], after: dict[str, Any], what: str, steps: int | None
) -> None:
    """Fail if a dict of the caller lost, gained or changed an entry."""
    changed = [
        key
        for key in before | after
        if key not in before or key not in after or not torch.equal(before[key], after[key])
    ]
    if changed:
        raise CheckFailed(
            f"the caller's dict of {what} to keep its entries",
            f"added, lost or replaced: {', '.join(map(repr, changed))}",
            example=example("# list its keys, call the policy, and compare", steps=steps),
        )


# -- pixels ----------------------------------------------------------------------------------------


def reads_pixels(subject: Subject) -> str:
    """Return why a check of pixels does not apply, or ''."""
    space: Any = subject.spaces.observation
    try:
        is_image = observation_kind(space) == "image"
    except PolicyError:
        is_image = False
    if not (is_image and (holds_pixels(space) or np.issubdtype(space.dtype, np.floating))):
        return "its observations are neither pixels 0..255 nor images of real numbers"
    if subject.codes:
        return "it declares that its observations are codes"
    is_faint = subject.played is not None and subject.played.max() < FAINT
    return f"its env sends no number above {FAINT}: they are codes, perhaps" if is_faint else ""


@check(
    "S9",
    "pixels-read-right",
    promise="Pixels are divided by 255 once, real numbers within -1..1 not at all; channels, "
    "height and width lie where the space has them; one that is too small is refused in words.",
    why="Unscaled, twice scaled or transposed images train, but badly "
    "(DLR-RM/stable-baselines3#1977); a shape error inside a convolution names no image.",
    fix="Divide by 255 where pixels enter, and nowhere else; permute(0, 3, 1, 2), not reshape, "
    "(N, h, w, C) to (N, C, h, w); check sizes when building.",
    applies=reads_pixels,
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def pixels_read_right(subject: Subject) -> None:
    """Give constant images and gradients, then build for tiny images.

    What enters the first layer with weights, and the first convolution, is seen by hooks. The scale
    can't be told where the first such layer normalizes, embeds or takes no hook.
    """
    reason = ""
    try:
        _require_scale(subject)
    except CheckSkipped as skip:
        reason = str(skip)
    _require_axes(subject)
    space: Any = subject.spaces.observation
    if holds_pixels(space):
        _require_words(subject)
    if reason:
        raise CheckSkipped(reason)


def _require_scale(subject: Subject) -> None:
    space: Any = subject.spaces.observation
    if not _is_scaled(space):
        raise CheckSkipped("its numbers may have any scale")
    shape, brightest = space.shape, float(space.high.max())
    # A part of the image, as a norm over all of it may take the shade of a plain one away.
    part = np.zeros(shape)
    part[shape[0] // 2 :, shape[1] // 2 :] = 1
    black, faint, white, mixed = (
        _first_input(subject, _two_images(subject, image))
        for image in (np.zeros(shape), part, np.full(shape, brightest), brightest * part)
    )
    largest = float(torch.maximum(white.abs().max(), mixed.abs().max()))
    if not largest >= LEAST:
        raise CheckFailed(
            f"a white image ({brightest:g}) enters the first layer as about 1",
            f"its largest number there is {largest:.3g}: it is divided once too often",
            example=_pixel_example(brightest),
        )
    if not float(white.abs().max()) <= MOST:
        raise CheckFailed(
            f"a white image ({brightest:g}) enters the first layer as about 1",
            f"its largest number there is {float(white.abs().max()):.3g}",
            example=_pixel_example(brightest),
            level=Level.ADVICE,
        )
    if holds_pixels(space) and torch.equal(black, faint):
        # uint8 // 255, or a cast that comes after the division.
        raise CheckFailed(
            "pixels of 0 and 1 are told apart",
            "they enter the first layer as the same numbers",
            example=_pixel_example(1),
        )
    if holds_pixels(space):
        _require_brighter(subject, part)


def _require_brighter(subject: Subject, part: Any) -> None:
    """Fail if a shade of 2 enters as a darker one than a shade of 1, where it looks like a byte."""
    one, two = (
        float(_first_input(subject, _two_images(subject, shade * part)).abs().max())
        for shade in (1, 2)
    )
    if two < one / 2:
        raise CheckFailed(
            "brighter pixels enter the first layer as larger numbers",
            f"a part of the image of shade 1 enters as {one:.2g}, and one of shade 2 as {two:.2g}",
            fix="Divide by 255 whatever the pixels are: the dtype of the space says that they are "
            "bytes, and what an observation holds does not.",
            example=_pixel_example(1),
        )


def _is_scaled(space: Any) -> bool:
    """Whether it holds pixels, or real numbers within -1..1 of which some reach 1."""
    is_unit = bool((space.high == 1).all() and (space.low >= -1).all())
    return holds_pixels(space) or is_unit


def _pixel_example(pixel: float) -> str:
    return example(
        f"white = torch.full_like(observations, {pixel:g})",
        "print(policy.encode_observations(white))",
        batch=1,
    )


def _require_axes(subject: Subject) -> None:
    """Vary shades along one axis: what enters the first convolution must vary along the same."""
    space: Any = subject.spaces.observation
    layout, shape = image_layout(space), tuple(space.shape)
    axes = ("height", "width", "channels") if layout == "HWC" else ("channels", "height", "width")
    sizes = dict(zip(axes, shape, strict=True))
    low, high = (np.nan_to_num(each, posinf=1.0, neginf=-1.0) for each in (space.low, space.high))
    plain = _first_image(subject, _two_images(subject, (low + high) / 2))
    if plain is None:
        return
    for axis, name in enumerate(axes):
        shades = np.linspace(0.1, 0.95, shape[axis]).reshape(
            [-1 if i == axis else 1 for i in (0, 1, 2)]
        )
        entry = _first_image(subject, _two_images(subject, low + shades * (high - low)))
        assert entry is not None
        # Padding at the border, and channels of coordinates, are there in both.
        change = _middle(entry) - _middle(plain)
        varies = {
            each: (change - change.narrow(place, 0, 1)).abs().amax((1, 2, 3))
            > CHANGE * magnitude(entry)
            for each, place in (("height", 2), ("width", 3))
        }
        # Turned copies of an image may stand beside it.
        strangers = [each for each, rows in varies.items() if bool(rows.all()) and each != name]
        is_image = sorted(entry.shape[1:]) == sorted(shape)  # the image alone, and as an image
        if strangers or (is_image and entry.shape[1] != sizes["channels"]):
            raise CheckFailed(
                f"a {layout} image of shape {shape} enters a convolution as "
                f"{(sizes['channels'], *image_size(space))}",
                f"it entered as {tuple(entry.shape[1:])}, and shades that vary along the {name} "
                f"vary along {' and '.join(strangers) or name} there",
                example=example(
                    f"# vary shades along the {name}, and hook the convolution", batch=1
                ),
            )


def _middle(images: Tensor) -> Tensor:
    """(N, C, h, w) -> the half in the middle, without what borders do."""
    for axis in (2, 3):
        size = images.shape[axis]
        images = images.narrow(axis, size // 4, max(1, size - 2 * (size // 4)))
    return images


def _require_words(subject: Subject) -> None:
    """Build for images of 5 x 5 pixels: it works, or the error names that size.

    Only a record says which sizes a policy serves. Without one, those of its own env are enough.
    """
    declared = subject.capabilities
    if declared is None or declared.min_image_size > TINY or needs_spaces_only(subject):
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
    entries = _entries_of_layers(subject, observations)
    if not entries or not isinstance(entries[0][0], nn.Linear | nn.Conv2d):
        kind = type(entries[0][0]).__name__ if entries else "nothing"
        raise CheckSkipped(f"the first layer that a hook sees is {kind}: no scale to tell")
    return entries[0][1]


def _first_image(subject: Subject, observations: Tensor) -> Tensor | None:
    """Return what enters the first convolution over pixels, (N, C, h, w); None if there is none."""
    entries = _entries_of_layers(subject, observations)
    kinds = (nn.Linear, nn.Embedding, nn.Conv2d)
    first = next((each for each in entries if isinstance(each[0], kinds)), None)
    is_image = first is not None and isinstance(first[0], nn.Conv2d) and first[1].ndim == 4
    return first[1] if first is not None and is_image else None


def _entries_of_layers(subject: Subject, observations: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return the layers with weights in the order in which they run, and what enters each."""
    policy = subject.copy_policy()
    entries: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            entries.append((module, inputs[0].detach().float().clone()))

    for module in policy.modules():
        # A scripted module does not take hooks of Python functions.
        if vars(module).get("_parameters") and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(record)
    with torch.no_grad():
        policy.encode_observations(observations)  # type: ignore[operator]
    return entries


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
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def key_order_free(subject: Subject) -> None:
    """Reverse the keys of observations, then those of the space that the policy is built for."""
    policy, observations = perturbed_copy(subject), subject.observations()
    expected = one_step(subject, policy, observations)
    outputs = one_step(subject, policy, _reverse_keys(observations))
    if not is_same(outputs, expected):
        gap = difference(outputs, expected)
        raise _order_failure(f"outputs {gap:.2g} apart for observations with keys reversed")
    if needs_spaces_only(subject):
        return
    other = rebuild(subject, spaces=_reverse_spaces(subject.spaces)).eval()
    try:
        other.load_state_dict(policy.state_dict())
    except RuntimeError as error:
        # Nothing lands in front of wrong weights then, as loading them is refused.
        actual = f"built for reversed keys, it has weights of other names or shapes: {error}"
        raise _order_failure(actual, level=Level.ADVICE) from error
    outputs = one_step(subject, other, observations)
    if not is_same(outputs, expected):
        gap = difference(outputs, expected)
        actual = f"built for reversed keys, with the same weights, outputs are {gap:.2g} apart"
        # Dict spaces sort their keys, so that only those made of an OrderedDict can differ.
        raise _order_failure(actual, level=Level.ADVICE)


def _order_failure(actual: str, *, level: Level | None = None) -> CheckFailed:
    lines = example("# pass dict(reversed(observations.items())) and compare")
    expected = "the same outputs for every order of keys"
    return CheckFailed(expected, actual, example=lines, level=level)


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
