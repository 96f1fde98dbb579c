"""Which segments a gradient step learns from: each once, or those of large advantages more often.

Schaul et al. 2016, https://arxiv.org/abs/1511.05952, on the segments of one rollout as in PufferLib
3.0. `B` segments of `L` steps, `M` of them in a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig

SMALLEST = 1e-6
"""Added to every priority, so that each segment can be drawn: the paper's epsilon."""


class Minibatch(NamedTuple):
    """Segments of one gradient step."""

    rows: Tensor
    """(M,) int64."""
    importance: Tensor | None
    """(M,): what each counts for; None if all count the same."""


def minibatches(
    config: TrainConfig,
    advantages: Tensor,
    weights: Tensor,
    *,
    size: int,
    progress: float,
    generator: torch.Generator,
) -> Iterator[Minibatch]:
    """Yield the minibatches of one epoch, B / M of `size` M, over (B, L) advantages and weights.

    With ``prio_alpha`` 0 they hold every segment once, in random order. `progress` is the share of
    the run that is over.
    """
    if config.prio_alpha == 0:
        order = torch.randperm(len(weights), generator=generator, device=weights.device)
        yield from (Minibatch(rows, None) for rows in torch.split(order, size))
        return
    chances = probabilities(advantages, weights, alpha=config.prio_alpha)
    beta = annealed_beta(config.prio_beta0, progress)
    for _ in range(len(weights) // size):
        rows = draw(chances, size, generator=generator)
        yield Minibatch(rows, importance(chances, rows, beta=beta))


def probabilities(advantages: Tensor, weights: Tensor, *, alpha: float) -> Tensor:
    """(B, L) advantages and weights -> (B,) chances to be drawn.

    They go with the sum of the advantages' sizes to the power `alpha`; 0 makes them equal. A
    segment of ghosts alone (weights 0) is never drawn, unless there is nothing else.
    """
    sums = (advantages.abs() * weights).sum(1)
    priorities = (sums + SMALLEST).pow(alpha) * (weights.sum(1) > 0)
    priorities = torch.where(priorities.sum() > 0, priorities, 1.0)
    return priorities / priorities.sum()


def draw(chances: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """(B,) chances -> (M,) rows, M = `count`, drawn independently: one may come up twice."""
    return torch.multinomial(chances, count, replacement=True, generator=generator)


def importance(chances: Tensor, rows: Tensor, *, beta: float) -> Tensor:
    """Return the weights (M,) that make up for the chances of `rows`, wholly so with `beta` 1.

    Not divided by their maximum as in the paper: the loss is divided by their sum.
    """
    drawable = (chances > 0).sum()
    return (chances[rows] * drawable).pow(-beta)


def annealed_beta(beta0: float, progress: float) -> float:
    """Return the exponent after a share `progress` of the run: `beta0` at first, 1 at the end.

    The paper's line; PufferLib's ends at ``beta0 + (1 - beta0) * prio_alpha``.
    """
    return beta0 + (1.0 - beta0) * min(progress, 1.0)
