"""Cores on torch's recurrent layers: its fused kernel for sequences, its cell for single steps.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers, `G` gates, `F` flags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.base import After, Core, State
from puffer_policies.nn.cores.flush import (
    Emptied,
    Flush,
    count_starts,
    idle_before,
    in_one_buffer,
    make_flush,
    widen,
)
from puffer_policies.nn.cores.operator import make_operator
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.fixed import is_plain
from puffer_policies.nn.init import orthogonal_gates

Parts = tuple[Tensor, ...]
"""What the layers carry: (h,), or (h, c)."""

Resets = Flush | Emptied
"""Where the flush steps of a sequence are: inserted, or in the place of steps."""

FUSED_STEP_ROWS = 512
"""Rows from which one step of the fused kernel beats the cell on CPU (measured, 128 -> 128)."""

FLUSH_SHARE = 0.8
"""Share of flush steps in a row, K/T, above which one cell per step beats the longer sequence."""


class FusedLayers(nn.RNNBase):
    """Layers with the parameters and names of `torch.nn.LSTM` and its kin, batch first.

    Weights are orthogonal for each gate, biases zero. It is not a subclass of those, because dynamo
    refuses to trace whatever touches them.
    """

    torch_mode: ClassVar[str]
    """The name of the layer for `torch.nn.RNNBase`."""
    gates: ClassVar[int]
    keys: ClassVar[tuple[str, ...]]
    """Names of the state's parts."""
    flush_parts: ClassVar[int] = 1
    """Number of steps that empty the state."""
    flush_share: ClassVar[float] = FLUSH_SHARE
    """`FLUSH_SHARE` on a CPU. It is lower for a GRU and an RNN, whose fused kernels gain little
    over their cells there."""
    operator: ClassVar[Callable[..., list[Tensor]]]
    """A sequence with episode starts as one node of a compiled graph."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Not for a class that computes what its base does, such as those that torch derives for a
        # layer with parametrizations.
        if "run" in vars(cls) or "flush_columns" in vars(cls):
            cls.operator = make_operator(cls.__name__, cls.run_flushed_parts)

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int) -> None:
        super().__init__(self.torch_mode, input_size, hidden_size, num_layers, batch_first=True)
        for name, parameter in self.named_parameters():
            if "weight" in name:
                orthogonal_gates(parameter, self.gates)
            else:
                nn.init.zeros_(parameter)

    @staticmethod
    def run(x: Tensor, parts: Parts, weights: list[Tensor], *, train: bool) -> tuple[Tensor, Parts]:
        """(B, T, I), parts (L, B, H) -> (B, T, H), parts (L, B, H): the fused kernel.

        `weights` are those of L layers: input, hidden, input bias and hidden bias of each. Without
        `train` cuDNN keeps nothing for a gradient.
        """
        raise NotImplementedError

    @staticmethod
    def cell(x: Tensor, parts: Parts, weights: list[Tensor]) -> Parts:
        """(B, I), parts (B, H) -> parts (B, H): one step of one layer."""
        raise NotImplementedError

    @staticmethod
    def flush_columns(weights: list[Tensor]) -> Tensor:
        """Return the weights of the flags, (G*H, F), with which a flush step empties the state.

        The last column is that of the padding behind a row, which keeps the part of the state that
        the outputs do not hold.
        """
        raise NotImplementedError

    @classmethod
    def run_flushed(
        cls, x: Tensor, parts: Parts, weights: list[Tensor], flush: Resets, *, train: bool
    ) -> tuple[Tensor, Parts]:
        """Return what `run` does, one layer after another, as the flags must reach each of them."""
        after = []
        for layer in range(len(weights) // 4):
            own = weights[4 * layer : 4 * layer + 4]
            columns = cls.flush_columns(own)[:, : flush.num_flags]
            widened = [widen(own[0], columns), *own[1:]]
            if _is_cudnn(x):
                widened = in_one_buffer(widened)
            before = tuple(each[layer : layer + 1] for each in parts)
            output, carried = cls.run(flush.spread(x), before, widened, train=train)
            x = flush.gather(output, x.shape[1])  # (B, T, H)
            # h is the output of the last step, before the padding, which keeps c but not h.
            after.append((x[:, -1].unsqueeze(0), *carried[1:]))
        return x, tuple(torch.cat(each) for each in zip(*after, strict=True))

    @classmethod
    def run_flushed_parts(
        cls, x: Tensor, parts: list[Tensor], weights: list[Tensor], starts: Tensor, train: bool
    ) -> list[Tensor]:
        """Return the output and the parts of a sequence with starts (B, T), in one list."""
        most = count_starts(starts)
        if most == 0:
            output, after = cls.run(x, tuple(parts), weights, train=train)
        else:
            flush = make_flush(starts, most=most, parts=cls.flush_parts)
            output, after = cls.run_flushed(x, tuple(parts), weights, flush, train=train)
        return [output, *after]

    def forward(self) -> list[Tensor]:
        """Return the parameters of every layer in turn, as hooks and parametrizations make them."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def weights(self, layer: int) -> list[Tensor]:
        """Return the four parameters of a layer."""
        return self.all_weights_flat()[4 * layer : 4 * layer + 4]

    def all_weights_flat(self) -> list[Tensor]:
        """Return what `forward` does."""
        # The list that torch keeps is shorter to read, but not told of a weight that is computed.
        weights: list[Tensor] = self._flat_weights if is_plain(self) else self()  # type: ignore[assignment]
        return list(weights)


class FusedCore(Core):
    """A stack of `FusedLayers`: a fused kernel over the sequence, flushed where episodes start.

    State: under each of the layers' keys (B, H) for one layer, else (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
    """

    layers_class: ClassVar[type[FusedLayers]]

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size)
        self.num_layers = require_count("num_layers", num_layers, most=MAX_LAYERS)
        self.layers = self.layers_class(input_size, hidden_size, num_layers=num_layers)

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return (B, H) for one layer, else (B, L, H), for every part of the state."""
        layers = () if self.num_layers == 1 else (self.num_layers,)
        return dict.fromkeys(self.layers_class.keys, (batch_size, *layers, self.hidden_size))

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        if not torch.compiler.is_compiling() and x.shape[0] >= FUSED_STEP_ROWS:
            hidden, after = self._run(x.unsqueeze(1), state)  # (B, 1, H)
            return hidden.squeeze(1), after
        layers = self.layers
        keys = layers.keys
        if self.num_layers == 1:
            parts = layers.cell(x, tuple(state[key] for key in keys), layers.weights(0))
            return parts[0], dict(zip(keys, parts, strict=True))
        stacked = []
        for layer in range(self.num_layers):
            before = tuple(state[key][:, layer] for key in keys)
            parts = layers.cell(x, before, layers.weights(layer))
            stacked.append(parts)
            x = parts[0]
        columns = zip(*stacked, strict=True)
        return x, {key: torch.stack(each, 1) for key, each in zip(keys, columns, strict=True)}

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H). Without starts this is torch's own layer."""
        if episode_start is None:
            return self._run(x, state)
        if torch.compiler.is_compiling():
            return self._run_opaque(x, state, episode_start)
        parts, time = self.layers.flush_parts, x.shape[1]
        # The cheapest way to reset depends on the number of starts in the fullest row.
        most = self.most_starts
        if most is None:
            most = count_starts(episode_start)
        if most == 0:
            return self._run(x, state)
        if self.most_starts is None and (emptied := self._emptied(episode_start)) is not None:
            return self._run_flushed(x, state, emptied)
        share = self.layers.flush_share if x.device.type == "cpu" else FLUSH_SHARE
        if most * parts > share * time:
            return self.step_through(x, state, episode_start)
        return self._run_flushed(x, state, make_flush(episode_start, most=most, parts=parts))

    def _run(self, x: Tensor, state: State) -> After:
        """(B, T, I) -> (B, T, H) without resets."""
        layers = self.layers
        output, parts = layers.run(
            x, self._layers_first(state), layers.all_weights_flat(), train=self.training
        )
        return output, self._batch_first(parts)

    def _emptied(self, episode_start: Tensor) -> Emptied | None:
        """Return idle steps that empty the state before each start (B, T), None if one has none."""
        idle = self.idle
        if idle is None or self.layers.flush_parts > 1 or idle.shape != episode_start.shape:
            return None
        before = idle_before(episode_start, idle)
        covered = bool((before.sum(1) == episode_start[:, 1:].sum(1)).all())
        return Emptied(before) if covered else None

    def _run_flushed(self, x: Tensor, state: State, flush: Resets) -> After:
        """(B, T, I) -> (B, T, H) with flush steps."""
        layers = self.layers
        output, parts = layers.run_flushed(
            x, self._layers_first(state), layers.all_weights_flat(), flush, train=self.training
        )
        return output, self._batch_first(parts)

    def _run_opaque(self, x: Tensor, state: State, episode_start: Tensor) -> After:
        """(B, T, I) -> (B, T, H), as one node of a compiled graph, however many starts there are.

        It always flushes: a loop of cells would be the faster one only for many starts.
        """
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        _, output, *parts = self.layers.operator(
            x,
            list(self._layers_first(state)),
            self.layers.all_weights_flat(),
            episode_start,
            low,
            self.training,
            torch.is_grad_enabled(),
        )
        return output, self._batch_first(tuple(parts))

    def _layers_first(self, state: State) -> Parts:
        values = (state[key] for key in self.layers.keys)
        if self.num_layers == 1:
            return tuple(value.unsqueeze(0) for value in values)  # (1, B, H)
        return tuple(value.transpose(0, 1).contiguous() for value in values)  # (L, B, H)

    def _batch_first(self, parts: Parts) -> dict[str, Tensor]:
        single = self.num_layers == 1
        values = (each.squeeze(0) if single else each.transpose(0, 1) for each in parts)
        return dict(zip(self.layers.keys, values, strict=True))


def _is_cudnn(x: Tensor) -> bool:
    """Return whether cuDNN computes a layer."""
    return x.is_cuda
