"""A convolution over the last steps of an episode, whose window is part of a layer's state.

`T` time, `B` batch, `D` channels, `K` width of the convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from puffer_policies.errors import BuildError
from puffer_policies.nn.encoders import require_count


class WindowConvolution(nn.Module):
    """Each channel's weighted sum over the last K steps of the episode."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if require_count("d_conv", width) < 2:
            raise BuildError("d_conv=1, but a convolution sees at least two steps.", fix="Try 4.")
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(width, size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def forward(self, x: Tensor, window: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """(T, B, D), the steps before (B, K - 1, D) -> (T, B, D), the last steps (B, K - 1, D)."""
        time, past = len(x), window.shape[1]
        line = torch.cat([window.transpose(0, 1), x])  # (K - 1 + T, B, D)
        steps = [line[k : k + time] for k in range(past + 1)]
        last = line[time:]
        if starts is not None:
            count = starts.cumsum(0)  # (T, B): episodes begun so far
            episode = torch.cat([count.new_zeros(past, count.shape[1]), count])
            gone = [episode[k : k + time] != count for k in range(past + 1)]
            steps = [_empty(step, where) for step, where in zip(steps, gone, strict=True)]
            last = _empty(last, episode[time:] != episode[-1])
        summed = sum(
            (step * weight for step, weight in zip(steps, self.weight, strict=True)), self.bias
        )
        return summed, last.transpose(0, 1).contiguous()


def _empty(steps: Tensor, where: Tensor) -> Tensor:
    return steps.masked_fill(where.unsqueeze(-1), 0.0)
