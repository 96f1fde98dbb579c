"""Cores on torch's recurrent layers: its fused kernel for sequences, its cell for single steps.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers, `G` gates, `F` flags.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.base import After, Core, State
from puffer_policies.nn.cores.flush import Flush, count_starts, make_flush, widen
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import orthogonal_gates

Parts = tuple[Tensor, ...]
"""What the layers carry: (h,), or (h, c)."""

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

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int) -> None:
        super().__init__(self.torch_mode, input_size, hidden_size, num_layers, batch_first=True)
        for name, parameter in self.named_parameters():
            if "weight" in name:
                orthogonal_gates(parameter, self.gates)
            else:
                nn.init.zeros_(parameter)

    def run(self, x: Tensor, parts: Parts, weights: list[Tensor]) -> tuple[Tensor, Parts]:
        """(B, T, I), parts (L, B, H) -> (B, T, H), parts (L, B, H): the fused kernel.

        `weights` are those of L layers: input, hidden, input bias and hidden bias of each.
        """
        raise NotImplementedError

    def cell(self, x: Tensor, parts: Parts, weights: list[Tensor]) -> Parts:
        """(B, I), parts (B, H) -> parts (B, H): one step of one layer."""
        raise NotImplementedError

    def flush_columns(self, weights: list[Tensor]) -> Tensor:
        """Return the weights of the flags, (G*H, F), with which a flush step empties the state.

        The last column is that of the padding behind a row, which keeps the part of the state that
        the outputs do not hold.
        """
        raise NotImplementedError

    def weights(self, layer: int) -> list[Tensor]:
        """Return the four parameters of a layer."""
        flat: list[Tensor] = self._flat_weights  # type: ignore[assignment]
        return flat[4 * layer : 4 * layer + 4]

    def all_weights_flat(self) -> list[Tensor]:
        """Return the parameters of every layer in turn."""
        return list(self._flat_weights)  # type: ignore[arg-type]


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
        return dict.fromkeys(self.layers.keys, (batch_size, *layers, self.hidden_size))

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        if not torch.compiler.is_compiling() and x.shape[0] >= FUSED_STEP_ROWS:
            hidden, after = self._run(x.unsqueeze(1), state)  # (B, 1, H)
            return hidden.squeeze(1), after
        layers, keys = self.layers, self.layers.keys
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
            # Lengths differ from call to call, and each would be compiled anew. Not by a decorator:
            # that imports the compiler, a second that all who use a memory would wait for.
            run = torch.compiler.disable(self._run_broken)  # type: ignore[no-untyped-call]
            disabled: After = run(x, state, episode_start)
            return disabled
        return self._run_broken(x, state, episode_start)

    def _run_broken(self, x: Tensor, state: State, episode_start: Tensor) -> After:
        """Choose the cheapest way to reset, by the number of starts in the fullest row."""
        parts, time = self.layers.flush_parts, x.shape[1]
        most = count_starts(episode_start)
        if most == 0:
            return self._run(x, state)
        share = self.layers.flush_share if x.device.type == "cpu" else FLUSH_SHARE
        if most * parts > share * time:
            return self.step_through(x, state, episode_start)
        return self._run_flushed(x, state, make_flush(episode_start, most=most, parts=parts))

    def _run(self, x: Tensor, state: State) -> After:
        """(B, T, I) -> (B, T, H) without resets."""
        output, parts = self.layers.run(
            x, self._layers_first(state), self.layers.all_weights_flat()
        )
        return output, self._batch_first(parts)

    def _run_flushed(self, x: Tensor, state: State, flush: Flush) -> After:
        """(B, T, I) -> (B, T, H), one layer after another, as the flags must reach each of them."""
        before, after = self._layers_first(state), []
        for layer in range(self.num_layers):
            weights = self.layers.weights(layer)
            widened = [widen(weights[0], self.layers.flush_columns(weights)), *weights[1:]]
            parts = tuple(each[layer : layer + 1] for each in before)
            output, parts = self.layers.run(flush.spread(x), parts, widened)
            x = flush.gather(output, x.shape[1])  # (B, T, H)
            # h is the output of the last step, before the padding, which keeps c but not h.
            after.append((x[:, -1].unsqueeze(0), *parts[1:]))
        return x, self._batch_first(tuple(torch.cat(each) for each in zip(*after, strict=True)))

    def _layers_first(self, state: State) -> Parts:
        values = (state[key] for key in self.layers.keys)
        if self.num_layers == 1:
            return tuple(value.unsqueeze(0) for value in values)  # (1, B, H)
        return tuple(value.transpose(0, 1).contiguous() for value in values)  # (L, B, H)

    def _batch_first(self, parts: Parts) -> dict[str, Tensor]:
        single = self.num_layers == 1
        values = (each.squeeze(0) if single else each.transpose(0, 1) for each in parts)
        return dict(zip(self.layers.keys, values, strict=True))
