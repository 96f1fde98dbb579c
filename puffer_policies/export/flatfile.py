"""PufferLib 5's file of weights, read and written: the float32 numbers of a `PufferNet`, no header.

The tensors are those of `FlatLayout`, one after the other. Each starts at a multiple of 16 bytes of
the memory in which PufferLib trains: 8 numbers in its default build, whose numbers have 2 bytes, 4
in its float build. The file holds the start of that memory, and as many numbers as the tensors have
without the gaps between them. So after a gap the last numbers of the last tensor are not in it:
PufferLib loses them when it saves, and whoever reads the file has zeros in their place.
https://github.com/PufferAI/PufferLib, src/pufferl.cu (puf_save_weights) and src/puffercpu.c.

`I` numbers of an observation, `H` hidden size, `L` layers, `A` options of all choices together, or
real numbers of an action.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import put_weights
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.tensortable import explained, regular_file
from puffer_policies.errors import BuildError, CheckpointError, ExportError, IncompatibleSpace
from puffer_policies.export.source import Source
from puffer_policies.export.targets import FLOAT_BUILD
from puffer_policies.files import replace_file, user_path
from puffer_policies.nn.encoders import MAX_LAYERS, require_count, require_width
from puffer_policies.nn.features import make_features
from puffer_policies.nn.heads import LOG_STD_MAX, LOG_STD_MIN
from puffer_policies.registry import Registry
from puffer_policies.spaces import action_layout, described, spaces_of
from puffer_policies.wrappers.action_mask import ActionMaskWrapper
from puffer_policies.zoo.puffer import PufferNet

DEFAULT, FLOAT = 8, 4
"""The alignments of PufferLib's default build and of its float build, in numbers."""

MOST_LOST = 7
"""Numbers that may be missing at the end of a file which PufferLib's CPU program plays."""

NUMBER = np.dtype("<f4")

NAME = "puffer-policies/PufferNet"

ENCODER = "encoder.layers.0.weight"

LAYER = "layer "


@dataclass(frozen=True, slots=True)
class FlatTensor:
    """A tensor's place in the file."""

    name: str
    shape: tuple[int, ...]
    start: int
    """Its first number."""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def places(self) -> slice:
        """Its numbers in the file."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """The tensors of a file, in their order."""

    tensors: tuple[FlatTensor, ...]
    alignment: int

    @property
    def count(self) -> int:
        """Numbers of all tensors, which is how many PufferLib writes and expects."""
        return sum(each.size for each in self.tensors)

    @property
    def end(self) -> int:
        """Numbers of the whole memory, with the gaps; such a file lacks nothing."""
        # Gaps stand behind tensors, so the last one may have one as well.
        last = self.tensors[-1]
        return _aligned(last.places.stop, self.alignment)

    def __str__(self) -> str:
        """Return a line for each tensor with its size, one for all layers, and the sum."""
        layers = [each for each in self.tensors if each.name.startswith(LAYER)]
        rows = [(each.name, each.shape, each.size) for each in self.tensors if each not in layers]
        shape = (len(layers), *layers[0].shape)
        rows.append(("layers", shape, math.prod(shape)))
        lines = [f"  {n:<10}{' x '.join(map(str, s)):>16}{size:>14,}" for n, s, size in rows]
        return "\n".join([*lines, f"  {'together':<26}{self.count:>14,}"])


def flat_layout(
    env: Any, *, hidden_size: int = 128, num_layers: int = 4, alignment: int = DEFAULT
) -> FlatLayout:
    """Return where the weights of a `PufferNet` are in its file.

    Args:
        env: whatever `spaces_of` reads.
        hidden_size: as PufferLib's ``[policy] hidden_size``.
        num_layers: as PufferLib's ``[policy] num_layers``.
        alignment: 8, or 4 for a file of PufferLib's float build.

    Raises:
        BuildError: a size or the alignment is wrong.
        IncompatibleSpace: PufferLib would take the actions for others than they are.
    """
    require_width(hidden_size)
    require_count("num_layers", num_layers, most=MAX_LAYERS)
    if alignment not in (DEFAULT, FLOAT):
        raise BuildError(
            f"alignment={alignment!r}, but PufferLib's tensors start at multiples of {DEFAULT} "
            f"numbers, or of {FLOAT} in its float build.",
        )
    spaces = spaces_of(env)
    options = action_sizes(spaces.action)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder": (hidden_size, make_features(spaces.observation).size),
        # Its last row is the value, which PufferLib computes with the actions.
        "decoder": (sum(options) + 1, hidden_size),
    }
    # PufferLib tells real actions by the same rule.
    if set(options) == {1}:
        shapes["logstd"] = (len(options),)
    # One matrix for the hidden part, the gate and the highway of a MinGRU.
    shapes |= {f"{LAYER}{i}": (3 * hidden_size, hidden_size) for i in range(num_layers)}
    start, tensors = 0, []
    for name, shape in shapes.items():
        tensors.append(FlatTensor(name, shape, start))
        start = _aligned(start + math.prod(shape), alignment)
    return FlatLayout(tuple(tensors), alignment)


def export_puffer(
    policy: nn.Module,
    path: Path | str,
    *,
    alignment: int = DEFAULT,
    complete: bool = False,
) -> Path:
    """Write the weights of a `PufferNet` as PufferLib 5 does, at once or not at all.

    Args:
        policy: a `PufferNet`, alone or in an `ActionMaskWrapper`, as PufferLib masks by itself.
        path: the file, which PufferLib calls ``.bin``; its folder must exist.
        alignment: 8, or 4 for PufferLib's float build.
        complete: whether the file also holds the numbers that PufferLib loses, where they are not
            0. Its CPU program and the C reader of this package read them; its trainer may refuse
            such a file.

    Raises:
        ExportError: another policy, or one of a width of which PufferLib loses too much.
        IncompatibleSpace: PufferLib would take the actions for others than they are.
    """
    net = puffernet_of(policy)
    layout = layout_of(net, alignment=alignment)
    numbers = np.zeros(layout.end, NUMBER)
    weights = _to_file(net)
    for tensor in layout.tensors:
        numbers[tensor.places] = weights[tensor.name].float().numpy().reshape(-1)
    lost = int(np.count_nonzero(numbers[layout.count :]))
    if not complete:
        _require_few_lost(layout, net.hidden_size)
        if lost:
            warnings.warn(
                f"{path} lacks the last {lost} of the weights of {layout.tensors[-1].name}: "
                "PufferLib's files have no room for them where actions are real numbers, and "
                "whoever reads one takes 0 in their place. complete=True keeps them.",
                RuntimeWarning,
                stacklevel=2,
            )
    # A policy that was read from a file has zeros there, and its file stays one of PufferLib's.
    numbers = numbers if complete and lost else numbers[: layout.count]
    path = user_path(path)
    replace_file(path, numbers.tobytes())
    return path


def write(source: Source, path: Path, *, style: str) -> None:
    """Write the file of a policy, as a target of `export_policy`; style `FLOAT_BUILD` aligns to 4.

    Raises:
        ExportError, IncompatibleSpace: as `export_puffer`.
    """
    alignment = FLOAT if style == FLOAT_BUILD else DEFAULT
    export_puffer(source.policy, path, alignment=alignment)


def read_puffer(
    path: Path | str,
    env: Any,
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    alignment: int = DEFAULT,
    masked: bool = False,
    registry: Registry | None = None,
) -> nn.Module:
    """Build the `PufferNet` whose weights are in a file of PufferLib 5.

    Args:
        path: the file.
        env: whatever `spaces_of` reads.
        hidden_size: as PufferLib's ``[policy] hidden_size``.
        num_layers: as PufferLib's ``[policy] num_layers``.
        alignment: 8, or 4 for a file of PufferLib's float build.
        masked: whether it gets an `ActionMaskWrapper`, for envs with illegal actions.
        registry: where names are looked up; the default registry if None.

    Raises:
        CheckpointError: the file can't be read, or holds another number of weights, or such that
            are not finite.
        BuildError: a size or the alignment is wrong.
        IncompatibleSpace: PufferLib would take the actions for others than they are.
    """
    spaces = spaces_of(env)
    sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_layers": num_layers}
    layout = flat_layout(spaces, **sizes, alignment=alignment)
    # The size of the file is compared before anything is built.
    numbers = _read_numbers(path, layout)
    wrappers = ["ActionMaskWrapper"] if masked else []
    policy = get_policy(NAME, spaces, wrappers=wrappers, registry=registry, **sizes)
    net = puffernet_of(policy)
    stored = {
        each.name: torch.from_numpy(numbers[each.places].reshape(each.shape))
        for each in layout.tensors
    }
    put_weights(net, _from_file(net, stored), path=path, owner=None)
    return policy


def puffernet_of(policy: nn.Module) -> PufferNet:
    """Return the `PufferNet` of a policy that a file can hold.

    Raises:
        ExportError: it is another policy, or something around one that the file has no place for.
    """
    inner = policy
    while isinstance(inner, ActionMaskWrapper):
        inner = inner.policy
    # A subclass may compute something else with the same weights.
    if type(inner) is not PufferNet:
        name = getattr(policy, "spec", None) or type(policy).__name__
        raise ExportError(
            f"PufferLib 5's file of weights holds a PufferNet and nothing else, not {name}.",
            fix="Train one (puffer-policies train NAME --policy-name PufferNet), or export the "
            "policy as ONNX or by torch.export.",
        )
    return inner


def layout_of(net: PufferNet, *, alignment: int = DEFAULT) -> FlatLayout:
    """Return the layout of a policy's file. Errors are those of `flat_layout`."""
    return flat_layout(
        net.spaces,
        hidden_size=net.hidden_size,
        num_layers=net.num_layers,
        alignment=alignment,
    )


def action_sizes(space: Any) -> tuple[int, ...]:
    """Return PufferLib's sizes of an action: options of each choice, or a 1 for each real number.

    Raises:
        IncompatibleSpace: every choice has one option, which PufferLib takes for real numbers,
            there is no action, or it is a Dict or a Tuple.
    """
    layout = action_layout(space)
    # A file has either sizes of choices or log deviations behind its decoder.
    if layout.parts:
        raise IncompatibleSpace(
            f"Action space {described(space)} has parts, and PufferLib 5 has an array of choices "
            "or one of real numbers.",
            fix="Export the policy as ONNX or by torch.export.",
        )
    sizes = (1,) * math.prod(layout.shape) if layout.is_continuous else layout.nvec
    if not sizes or (set(sizes) == {1} and not layout.is_continuous):
        raise IncompatibleSpace(
            f"Action space {described(space)} has nothing to choose, and PufferLib takes actions "
            "with one option each for real numbers.",
        )
    return sizes


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment


def _to_file(net: PufferNet) -> dict[str, Tensor]:
    """Return a policy's weights under the names of the layout."""
    weights = {name: each.detach().cpu() for name, each in net.state_dict().items()}
    decoder = torch.cat([weights["actor.linear.weight"], weights["critic.weight"]])
    tensors = {"encoder": weights[ENCODER] * _scales(net), "decoder": decoder}
    if net.is_continuous:
        # PufferLib has no bounds, so what it reads is what ours comes to.
        tensors["logstd"] = weights["actor.log_std"].clamp(LOG_STD_MIN, LOG_STD_MAX)
    return tensors | {name: weights[key] for name, key in _layers(net)}


def _from_file(net: PufferNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file under their names in a policy."""
    decoder = tensors["decoder"]
    weights = {
        ENCODER: tensors["encoder"] / _scales(net),
        "actor.linear.weight": decoder[:-1],
        "critic.weight": decoder[-1:],
    }
    if net.is_continuous:
        weights["actor.log_std"] = tensors["logstd"].reshape(
            net.state_dict()["actor.log_std"].shape
        )
    return weights | {key: tensors[name] for name, key in _layers(net)}


def _scales(net: PufferNet) -> Tensor:
    """Return (I,), what a policy multiplies observations by. In the file its weights do so."""
    return make_features(net.spaces.observation).scales()


def _layers(net: PufferNet) -> Iterator[tuple[str, str]]:
    """Yield the name of each layer of the memory in the layout and in the policy."""
    for i in range(net.num_layers):
        yield f"{LAYER}{i}", f"core.layers.{i}.linear.weight"


def _require_few_lost(layout: FlatLayout, hidden_size: int) -> None:
    lost = layout.end - layout.count
    if lost > MOST_LOST:
        raise ExportError(
            f"With hidden_size={hidden_size} the tensors leave gaps of {lost} numbers, and "
            f"PufferLib plays no file that lacks more than {MOST_LOST}.",
            fix=f"Use a hidden_size that is a multiple of {DEFAULT}. complete=True writes a file "
            "that lacks nothing.",
        )


def _read_numbers(path: Path | str, layout: FlatLayout) -> np.ndarray:
    """Return the numbers of a file, with zeros for those that PufferLib lost.

    Raises:
        CheckpointError: it can't be read, or its size is not that of the layout.
    """
    with explained(path, expected="a file of weights that PufferLib 5 wrote, such as weights.bin"):
        file = regular_file(path)
        size = file.stat().st_size
        stored, odd = divmod(size, NUMBER.itemsize)
        if odd or not layout.count <= stored <= layout.end:
            raise _other_size(path, size, layout)
        numbers = np.zeros(layout.end, NUMBER)
        data = file.read_bytes()
    numbers[:stored] = np.frombuffer(data, NUMBER, count=stored)
    return numbers.astype(np.float32, copy=False)


def _other_size(path: Path | str, size: int, layout: FlatLayout) -> CheckpointError:
    stored, odd = divmod(size, NUMBER.itemsize)
    if odd:
        return CheckpointError(
            f"{path} has {size:,} bytes, which are no whole number of float32.",
            fix="It is cut off, or not a file of weights that PufferLib 5 wrote.",
        )
    fits = list(_fitting_sizes(stored, layout))
    others = f"{' or '.join(fits)} would have as many. " if fits else ""
    return CheckpointError(
        f"{path} holds {stored:,} numbers, and a PufferNet for these spaces and sizes has "
        f"{layout.count:,}:\n{layout}",
        fix=f"{others}PufferLib's [policy] section names both sizes. Its nets of nmmo3, asteroids, "
        "minimal and craftax are others, and not read here.",
    )


def _fitting_sizes(numbers: int, layout: FlatLayout) -> Iterator[str]:
    """Yield the sizes with which the spaces of a layout make another number of weights."""
    encoder, decoder, *rest = layout.tensors
    across = encoder.shape[1] + decoder.shape[0]
    free = sum(each.size for each in rest if each.name == "logstd")
    # Weights are free + H * across + 3 * L * H * H. Each multiple of 8 is tried for H, as others
    # leave gaps of which PufferLib loses too much.
    for hidden_size in range(DEFAULT, math.isqrt(max(numbers, 0) // 3) + 1, DEFAULT):
        layers, odd = divmod(numbers - free - hidden_size * across, 3 * hidden_size**2)
        if not odd and 0 < layers <= MAX_LAYERS:
            yield f"hidden_size={hidden_size}, num_layers={layers}"
