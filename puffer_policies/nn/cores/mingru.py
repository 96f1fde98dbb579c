"""MinGRU: Feng et al. 2024, https://arxiv.org/abs/2410.01201. PufferLib 4.0's default core.

Gate and candidate depend on the input alone, so the state is a linear recurrence,
``h = (1 - z) * h + z * g(candidate)``. It differs from the paper in that the recurrence runs in
plain float32, not in log space, and an episode start is a decay of exactly 0. With a highway, as in
PufferLib 4.0, a third gate mixes a layer's input into its output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puffer_policies.contract import LSTM_STATE
from puffer_policies.errors import BuildError
from puffer_policies.nn.cores.base import After, Core, State
from puffer_policies.nn.cores.scan import linear_scan
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import orthogonal_gates

KEY = LSTM_STATE[0]


class MinGRULayer(nn.Module):
    """One linear layer for candidate and gate, and for the highway where there is one."""

    def __init__(self, input_size: int, hidden_size: int, *, highway: bool) -> None:
        super().__init__()
        blocks = 3 if highway else 2
        self.highway = highway
        self.linear = nn.Linear(input_size, blocks * hidden_size, bias=not highway)
        orthogonal_gates(self.linear.weight, blocks)
        if not highway:
            nn.init.zeros_(self.linear.bias)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(..., I) -> decay, drive (..., H), and the highway's share if there is one."""
        candidate, gate, *rest = self.linear(x).chunk(3 if self.highway else 2, -1)
        # sigmoid(-z) instead of 1 - sigmoid(z), which rounds small decays to 0.
        decay = torch.sigmoid(-gate)
        drive = (1 - decay) * positive(candidate)
        return decay, drive, torch.sigmoid(rest[0]) if rest else None

    def output(self, h: Tensor, x: Tensor, share: Tensor | None) -> Tensor:
        """Return the output of the layer, mixed with its input where there is a highway."""
        if share is None:
            return h
        # Under autocast the three come in different precisions.
        return torch.lerp(x.to(h.dtype), h, share.to(h.dtype))


def positive(x: Tensor) -> Tensor:
    """Return the paper's g(x), x + 1/2 from 0 on and else sigmoid(x): the larger of the two."""
    return torch.maximum(x + 0.5, torch.sigmoid(x))


class MinGRUCore(Core):
    """A stack of MinGRU layers. State: ``lstm_h``, (B, H) for one layer, else (B, L, H).

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
        highway: whether a gate mixes a layer's input into its output; needs equal sizes.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, highway: bool = False
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.num_layers = require_count("num_layers", num_layers, most=MAX_LAYERS)
        if highway and input_size != hidden_size:
            raise BuildError(
                f"A highway adds the input, {input_size} wide, to the output, {hidden_size} wide.",
                fix="Make both sizes equal, or leave the highway out.",
            )
        sizes = [input_size, *[hidden_size] * (num_layers - 1)]
        self.layers = nn.ModuleList(
            MinGRULayer(size, hidden_size, highway=highway) for size in sizes
        )

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return (B, H) for one layer, else (B, L, H)."""
        layers = () if self.num_layers == 1 else (self.num_layers,)
        return {KEY: (batch_size, *layers, self.hidden_size)}

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        before, after = self._by_layer(state), []
        for layer, h in zip(self.layers, before, strict=True):
            decay, drive, share = layer.gates(x)  # type: ignore[operator]
            h = torch.addcmul(drive, decay, h)
            x = layer.output(h, x, share)  # type: ignore[operator]
            after.append(h)
        return x, self._together(after)

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H): a linear scan whose decay is 0 at episode starts."""
        before, after = self._by_layer(state), []
        x = x.transpose(0, 1)  # (T, B, I)
        keep = None if episode_start is None else ~episode_start.t().unsqueeze(-1)  # (T, B, 1)
        for layer, h in zip(self.layers, before, strict=True):
            decay, drive, share = layer.gates(x)  # type: ignore[operator]
            states = linear_scan(decay if keep is None else decay * keep, drive, h)
            x = layer.output(states, x, share)  # type: ignore[operator]
            after.append(states[-1])
        return x.transpose(0, 1), self._together(after)

    def _by_layer(self, state: State) -> list[Tensor]:
        h = state[KEY]
        return [h] if self.num_layers == 1 else list(h.unbind(1))

    def _together(self, after: list[Tensor]) -> dict[str, Tensor]:
        return {KEY: after[0] if self.num_layers == 1 else torch.stack(after, 1)}
