"""The base of the memories of this package: a core of layers of one width, and linear recurrences.

A layer works time first and on its own part of the state. The core turns the axes, and splits and
joins the state. One step is a sequence of length one. Parameters and states are real: a complex
tensor exists only inside a forward pass, so that checkpoints, optimizers and trainers meet float32
alone.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers, `S` the rest of a state's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.base import After, Core, State
from puffer_policies.nn.cores.scan import linear_scan
from puffer_policies.nn.init import layer_init


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


def recur(decay: Tensor, drive: Tensor, *, before: Tensor, starts: Tensor | None) -> Tensor:
    """Return every state of ``h = decay * h + drive``, or of ``h = drive`` where `starts`.

    Args:
        decay: as `drive`, or without its first axes where it is the same for all. One that turns is
            best made in float64 and is rounded once, here: a phase that is wrong by one rounding
            is wrong by a thousand after a thousand steps.
        drive: (T, B, ...), real or complex.
        before: (B, ...) in the dtype of `drive`, the state before the first step.
        starts: bool (T, B), true where an episode starts: the decay there is exactly 0.

    Returns:
        (T, B, ...)
    """
    decay = decay.to(drive.dtype).expand_as(drive)
    if starts is not None:
        decay = decay * ~starts.reshape(*starts.shape, *[1] * (drive.ndim - 2))
    if len(drive) == 1:
        return torch.addcmul(drive, decay, before)
    return linear_scan(decay, drive, before)


def as_complex(halves: Tensor) -> Tensor:
    """(..., 2N) real -> (..., N) complex: the real parts stand before the imaginary ones."""
    return torch.complex(*halves.chunk(2, -1))


def as_halves(numbers: Tensor) -> Tensor:
    """(..., N) complex -> (..., 2N) real, as `as_complex` takes them."""
    return torch.cat([numbers.real, numbers.imag], -1)


def carried_in(carry: Mapping[str, Tensor], keys: tuple[str, str]) -> Tensor:
    """Return the complex state whose parts `carry` holds under two keys."""
    return torch.complex(carry[keys[0]], carry[keys[1]])


def carried_out(states: Tensor, keys: tuple[str, str]) -> dict[str, Tensor]:
    """Return the parts of the last of complex states (T, B, ...), as tensors of their own."""
    last = states[-1]
    return {keys[0]: last.real.contiguous(), keys[1]: last.imag.contiguous()}
