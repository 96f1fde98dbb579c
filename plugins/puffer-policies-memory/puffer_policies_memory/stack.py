"""The base of the memories of this package: a core of layers of one width, and linear recurrences.

A layer works time first and on its own part of the state. The core turns the axes, and splits and
joins the state. One step is a sequence of length one. Parameters and states are real: a complex
tensor exists only inside a forward pass, so that checkpoints, optimizers and trainers meet float32
alone.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers, `S` the rest of a state's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.base import After, Core, State
from puffer_policies.nn.cores.scan import linear_scan, rectified_scan, rectify
from puffer_policies.nn.init import layer_init
from puffer_policies.nn.trace import is_exporting


class MemoryLayer(nn.Module):
    """One layer of a memory."""

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the key and shape of each tensor in the state of one row."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, carry: Mapping[str, Tensor], starts: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, B, H), (B, *S) each, bool (T, B) -> (T, B, H), with the state after the last step.

        Nothing from before a true `starts` reaches its step or a later one.
        """
        raise NotImplementedError


class StackCore(Core):
    """Layers on top of each other. State: each tensor (B, *S) for one layer, else (B, L, *S).

    An input that is not as wide as the layers is brought to their width by a linear layer.
    """

    def __init__(self, input_size: int, hidden_size: int, layers: Iterable[MemoryLayer]) -> None:
        super().__init__(input_size, hidden_size)
        self.embed = (
            nn.Identity()
            if input_size == hidden_size
            else layer_init(nn.Linear(input_size, hidden_size), 1.0)
        )
        self.layers = nn.ModuleList(layers)

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return (B, *S) for one layer, else (B, L, *S)."""
        layers = () if len(self.layers) == 1 else (len(self.layers),)
        return {key: (batch_size, *layers, *shape) for key, shape in self._carry_shapes().items()}

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        hidden, after = self.sequence(x.unsqueeze(1), state, None)
        return hidden.squeeze(1), after

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H): one layer after the other, each over the whole sequence."""
        precision = next(iter(state.values())).dtype  # whole, also under autocast
        hidden = self.embed(x.transpose(0, 1)).to(precision)  # (T, B, H)
        starts = None if episode_start is None else episode_start.t()
        after: list[dict[str, Tensor]] = []
        for layer, carry in zip(self.layers, self._by_layer(state), strict=True):
            hidden, carried = layer(hidden, carry, starts)
            after.append(carried)
        return hidden.transpose(0, 1), self._together(after)

    def _carry_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = self.layers[0].carry_shapes()  # type: ignore[operator]
        return shapes

    def _by_layer(self, state: State) -> list[dict[str, Tensor]]:
        keys = self._carry_shapes()
        if len(self.layers) == 1:
            return [{key: state[key] for key in keys}]
        return [{key: state[key][:, k] for key in keys} for k in range(len(self.layers))]

    def _together(self, after: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if len(after) == 1:
            return after[0]
        return {key: torch.stack([each[key] for each in after], 1) for key in after[0]}


class Pair:
    """Complex numbers as two real tensors of one shape, with the arithmetic that layers need.

    Torch's complex tensors are faster, but other runtimes have none. So while a step is exported,
    the functions below make pairs.
    """

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    @property
    def dtype(self) -> torch.dtype:
        """That of both parts."""
        return self.real.dtype

    def to(self, dtype: torch.dtype) -> Pair:
        """Return both parts in another dtype."""
        return Pair(self.real.to(dtype), self.imag.to(dtype))

    def unsqueeze(self, axis: int) -> Pair:
        """Return both parts with one more axis."""
        return Pair(self.real.unsqueeze(axis), self.imag.unsqueeze(axis))

    def expand(self, *shape: int) -> Pair:
        """Return both parts in a larger shape."""
        return Pair(self.real.expand(*shape), self.imag.expand(*shape))

    def flatten(self, axis: int) -> Pair:
        """Return both parts with the axes from one on as one."""
        return Pair(self.real.flatten(axis), self.imag.flatten(axis))


def complex_of(real: Tensor, imag: Tensor) -> Any:
    """Return ``real + i imag``."""
    return Pair(real, imag) if is_exporting() else torch.complex(real, imag)


def from_real(numbers: Tensor, like: Any) -> Any:
    """Return real numbers as complex ones in the form and dtype of `like`."""
    if isinstance(like, Pair):
        return Pair(numbers.to(like.dtype), torch.zeros_like(numbers, dtype=like.dtype))
    return numbers.to(like.dtype)


def polar(modulus: Tensor, angle: Tensor) -> Any:
    """Return ``modulus * exp(i angle)``."""
    if is_exporting():
        return Pair(modulus * angle.cos(), modulus * angle.sin())
    return torch.polar(modulus, angle)


def times(numbers: Any, factor: Any) -> Any:
    """Return the product of complex numbers with complex or real ones."""
    # Functions, and no operators of the class, which torch.export does not trace.
    if not isinstance(numbers, Pair):
        return numbers * factor
    if not isinstance(factor, Pair):
        return Pair(numbers.real * factor, numbers.imag * factor)
    real = numbers.real * factor.real - numbers.imag * factor.imag
    return Pair(real, numbers.real * factor.imag + numbers.imag * factor.real)


def held(decay: Any, rates: Any) -> Any:
    """Return ``(decay - 1) / rates``, the factor of an input that is held over a step."""
    if not isinstance(decay, Pair):
        return (decay - 1) / rates
    square = rates.real.square() + rates.imag.square()
    inverse = Pair(rates.real / square, -rates.imag / square)
    return times(Pair(decay.real - 1, decay.imag), inverse)


def exp(numbers: Any) -> Any:
    """Return the exponential of complex numbers."""
    if isinstance(numbers, Pair):
        return polar(numbers.real.exp(), numbers.imag)
    return torch.exp(numbers)


def recur(
    decay: Any, drive: Any, *, before: Any, starts: Tensor | None, rectified: bool = False
) -> Any:
    """Return every state of ``h = decay * h + drive``, or of ``h = drive`` where `starts`.

    Args:
        decay: as `drive`, or without its first axes where it is the same for all. One that turns is
            best made in float64 and is rounded once, here: a phase that is wrong by one rounding
            is wrong by a thousand after a thousand steps.
        drive: (T, B, ...), real or complex; all three are a `Pair` or none is.
        before: (B, ...) in the dtype of `drive`, the state before the first step.
        starts: bool (T, B), true where an episode starts: the decay there is exactly 0.
        rectified: a ReLU bounds each state from below, of complex numbers both parts.

    Returns:
        (T, B, ...)
    """
    if isinstance(drive, Pair):
        return _recur_in_pairs(decay.to(drive.dtype), drive, before, starts, rectified)
    decay = decay.to(drive.dtype).expand_as(drive)
    if starts is not None:
        decay = decay * ~starts.reshape(*starts.shape, *[1] * (drive.ndim - 2))
    if len(drive) == 1:
        state = torch.addcmul(drive, decay, before)
        return rectify(state) if rectified else state
    return (rectified_scan if rectified else linear_scan)(decay, drive, before)


def _recur_in_pairs(
    decay: Pair, drive: Pair, before: Pair, starts: Tensor | None, rectified: bool
) -> Pair:
    states = [before]
    for t in range(drive.real.shape[0]):
        last = states[-1]
        if starts is not None:
            gone = starts[t].reshape(-1, *[1] * (last.real.ndim - 1))
            last = Pair(last.real.masked_fill(gone, 0.0), last.imag.masked_fill(gone, 0.0))
        turned = times(last, decay)
        real, imag = drive.real[t] + turned.real, drive.imag[t] + turned.imag
        states.append(Pair(real.relu(), imag.relu()) if rectified else Pair(real, imag))
    after = states[1:]
    return Pair(torch.stack([s.real for s in after]), torch.stack([s.imag for s in after]))


def as_complex(halves: Tensor) -> Any:
    """(..., 2N) real -> (..., N) complex: the real parts stand before the imaginary ones."""
    return complex_of(*halves.chunk(2, -1))


def as_halves(numbers: Any) -> Tensor:
    """(..., N) complex -> (..., 2N) real, as `as_complex` takes them."""
    return torch.cat([numbers.real, numbers.imag], -1)


def carried_in(carry: Mapping[str, Tensor], keys: tuple[str, str]) -> Any:
    """Return the complex state whose parts `carry` holds under two keys."""
    return complex_of(carry[keys[0]], carry[keys[1]])


def carried_out(states: Any, keys: tuple[str, str]) -> dict[str, Tensor]:
    """Return the parts of the last of complex states (T, B, ...), as tensors of their own."""
    return {keys[0]: states.real[-1].contiguous(), keys[1]: states.imag[-1].contiguous()}
