"""Recurrent cores: hidden features and state in, hidden features and state out.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers. State is a dict of tensors with
the batch first. It is passed in and handed out, never kept on the module, never written in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from puffer_policies.contract import LSTM_STATE
from puffer_policies.errors import BuildError
from puffer_policies.nn.init import orthogonal_gates

FUSED_STEP_ROWS = 512
"""From here one step of the fused kernel beats the cell on CPU (measured, 128 -> 128)."""

MOSTLY_CUT = 0.7
"""Share of steps that begin an episode somewhere, from which one cell a step beats fused pieces."""


class Core(nn.Module):
    """What every core offers. Steps and sequences agree, wherever episodes start."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    def step(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, I) -> (B, H), with the state after it."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: Mapping[str, Tensor], episode_start: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, T, I) -> (B, T, H), with the state after the last step.

        `episode_start` is bool (B, T), true where the state is reset before the step.
        """
        raise NotImplementedError

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return the key and shape of every tensor of the state."""
        raise NotImplementedError

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return zeros in the dtype of the weights, on their device unless another is given."""
        weight = next(self.parameters())
        device = weight.device if device is None else device
        return {
            key: torch.zeros(shape, dtype=weight.dtype, device=device)
            for key, shape in self.state_shapes(batch_size).items()
        }

    def reset(self, state: Mapping[str, Tensor], episode_start: Tensor) -> dict[str, Tensor]:
        """Return the state with the rows reset where `episode_start` (B,) is true.

        Rows are filled, not multiplied by zero: a NaN of the last episode must not survive.
        """
        return {
            key: value.masked_fill(episode_start.reshape(-1, *[1] * (value.ndim - 1)), 0.0)
            for key, value in state.items()
        }


class LSTMLayers(nn.RNNBase):
    """`torch.nn.LSTM` with the batch first, on parameters of the same names, and one step of it.

    It is not a subclass, because dynamo refuses to trace whatever touches an `nn.LSTM`.
    """

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers, batch_first=True)
        for name, parameter in self.named_parameters():
            if "weight" in name:
                orthogonal_gates(parameter, 4)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, I), twice (L, B, H) -> (B, T, H), twice (L, B, H): the fused kernel."""
        flags = True, self.num_layers, 0.0, self.training, False, True
        output, h, c = torch.lstm(x, (h, c), self._weights(), *flags)
        return output, h, c

    def cell(self, x: Tensor, h: Tensor, c: Tensor, *, layer: int) -> tuple[Tensor, Tensor]:
        """(B, I), twice (B, H) -> twice (B, H): one step of one layer."""
        h, c = torch.lstm_cell(x, (h, c), *self._weights()[4 * layer : 4 * layer + 4])
        return h, c

    def _weights(self) -> list[Tensor]:
        """Return weight_ih, weight_hh, bias_ih and bias_hh of every layer in turn."""
        return self._flat_weights  # type: ignore[return-value]


class LSTMCore(Core):
    """A stack of LSTM layers; weights orthogonal for each gate, biases zero.

    State: ``lstm_h`` and ``lstm_c``, (B, H) for one layer as in PufferLib, else (B, L, H).
    """

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size)
        if num_layers < 1:
            raise BuildError(f"num_layers={num_layers}; an LSTM has at least one layer.")
        self.num_layers = num_layers
        self.lstm = LSTMLayers(input_size, hidden_size, num_layers=num_layers)

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return (B, H) for one layer, else (B, L, H), for h and for c."""
        layers = () if self.num_layers == 1 else (self.num_layers,)
        return dict.fromkeys(LSTM_STATE, (batch_size, *layers, self.hidden_size))

    def step(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, I) -> (B, H), with the state after it."""
        if len(x) >= FUSED_STEP_ROWS and not torch.compiler.is_compiling():
            hidden, state = self._fused(x.unsqueeze(1), state)  # (B, 1, H)
            return hidden.squeeze(1), state
        if self.num_layers == 1:
            h, c = self.lstm.cell(x, state["lstm_h"], state["lstm_c"], layer=0)
            return h, {"lstm_h": h, "lstm_c": c}
        return self._step_layers(x, state)

    def forward(
        self, x: Tensor, state: Mapping[str, Tensor], episode_start: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, T, I) -> (B, T, H). Without starts this is `torch.nn.LSTM`.

        The sequence is cut where any row starts an episode, and the fused kernel runs between cuts.
        """
        if episode_start is None:
            return self._fused(x, state)
        cut: tuple[Tensor, dict[str, Tensor]] = self._cut_at_starts(x, state, episode_start)
        return cut

    # Where cuts are differs from call to call: each pattern would be compiled anew.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _cut_at_starts(
        self, x: Tensor, state: Mapping[str, Tensor], episode_start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        starts = episode_start.any(0).tolist()  # the one read-back: T bools
        if sum(starts) > MOSTLY_CUT * len(starts):
            return self._step_through(x, state, episode_start)
        return self._between_cuts(x, state, episode_start, starts)

    def _between_cuts(
        self, x: Tensor, state: Mapping[str, Tensor], episode_start: Tensor, starts: list[bool]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cuts = [0, *(t for t in range(1, len(starts)) if starts[t]), len(starts)]
        pieces, carried = [], dict(state)
        for begin, end in pairwise(cuts):
            if starts[begin]:
                carried = self.reset(carried, episode_start[:, begin])
            piece, carried = self._fused(x[:, begin:end], carried)
            pieces.append(piece)
        return (torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]), carried

    def _step_through(
        self, x: Tensor, state: Mapping[str, Tensor], episode_start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, carried = [], dict(state)
        for features, start in zip(x.unbind(1), episode_start.unbind(1), strict=True):
            output, carried = self.step(features, self.reset(carried, start))
            outputs.append(output)
        return torch.stack(outputs, 1), carried

    def _fused(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, T, I) -> (B, T, H) without resets."""
        h, c = (self._layers_first(state[key]) for key in LSTM_STATE)
        output, h, c = self.lstm(x, h, c)
        return output, {"lstm_h": self._batch_first(h), "lstm_c": self._batch_first(c)}

    def _layers_first(self, value: Tensor) -> Tensor:
        if self.num_layers == 1:
            return value.unsqueeze(0)  # (1, B, H)
        return value.transpose(0, 1).contiguous()  # (L, B, H)

    def _batch_first(self, value: Tensor) -> Tensor:
        return value.squeeze(0) if self.num_layers == 1 else value.transpose(0, 1)

    def _step_layers(
        self, x: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        hs, cs = [], []
        for layer in range(self.num_layers):
            before = state["lstm_h"][:, layer], state["lstm_c"][:, layer]
            x, c = self.lstm.cell(x, *before, layer=layer)
            hs.append(x)
            cs.append(c)
        return x, {"lstm_h": torch.stack(hs, 1), "lstm_c": torch.stack(cs, 1)}
