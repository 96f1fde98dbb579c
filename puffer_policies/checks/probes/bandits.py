"""Tiny problems on tensors, and a small PPO, for the checks that train: no environment, no trainer.

`B` rows, `T` steps. In each a fixed action is right: an option of each choice, or a point of a Box.
The reward of a row is how near its action is, 1 at best; of many choices or dimensions only the
first two count, as chance hides what each of many contributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.nested import leaves, map_nested
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

CANDIDATES = 40
"""Observations among which the two most different become cues."""

COUNTED = 2

ROWS, DRAWS = 8, 32
"""Rows of observations, and actions drawn for each: drawing is cheaper than running the policy."""

RATE, CLIP, EPOCHS, ENTROPY = 3e-3, 0.2, 3, 0.001


@dataclass(frozen=True)
class Problem:
    """What a policy sees, what is right, and which steps count."""

    observations: Any
    """(B, T, *obs)."""
    targets: Tensor
    """The right action of each row, (B, 1 or 2): int64 options, or float32 numbers."""
    layout: ActionLayout

    def reward(self, actions: Tensor) -> Tensor:
        """(D, B, ...) actions -> (D, B): share of right choices, or closeness in a Box."""
        given = actions.reshape(*actions.shape[:2], -1)[..., : self.targets.shape[1]]
        if not self.layout.is_continuous:
            return (given == self.targets).float().mean(-1)
        low, high = _range(self.layout)
        far = (given - self.targets) / (high - low)
        return 1 - 4 * far.square().mean(-1)

    @property
    def constant(self) -> float:
        """What the best action earns that is the same for every row."""
        guesses = [*torch.unique(self.targets, dim=0)]
        if self.layout.is_continuous:
            guesses.append(self.targets.mean(0))
        return max(
            float(self.reward(guess.expand(1, *self.targets.shape)).mean()) for guess in guesses
        )


def cues(subject: Subject, count: int) -> Any:
    """Return `count` observations that are unlike each other, (count, *obs), furthest first."""
    observations = subject.observations(CANDIDATES, seed=9)
    flat = torch.cat(
        [leaf.reshape(CANDIDATES, -1).double().clamp(-1e3, 1e3) for leaf in leaves(observations)], 1
    )
    scale = (flat.amax(0) - flat.amin(0)).clamp(min=1e-6)
    distance = torch.cdist(flat / scale, flat / scale)
    chosen = [int(distance.amax(1).argmax())]
    while len(chosen) < count:
        chosen.append(int(distance[chosen].amin(0).argmax()))
    return map_nested(lambda leaf: leaf[chosen], observations)


def distinct(observations: Any) -> bool:
    """Whether no two rows are equal."""
    rows = len(next(leaves(observations)))
    flat = torch.cat([leaf.reshape(rows, -1).double() for leaf in leaves(observations)], 1)
    return len(torch.unique(flat, dim=0)) == rows


def right_actions(layout: ActionLayout, count: int) -> Tensor:
    """Return `count` actions unlike each other, (count, 1 or 2)."""
    places = torch.arange(count).unsqueeze(1)
    if not layout.is_continuous:
        nvec = torch.tensor(layout.nvec[:COUNTED])
        return (places * (nvec - 1).clamp(min=1)) % nvec
    low, high = _range(layout)
    share = torch.tensor([0.75, 0.25])[places % 2]
    return low + share * (high - low)


def _range(layout: ActionLayout) -> tuple[Tensor, Tensor]:
    """Return the Box's bounds, (1 or 2,), within -1..1 where a fresh policy starts.

    A Box that lies elsewhere altogether keeps its own bounds.
    """
    low, high = (
        torch.from_numpy(np.asarray(bound, dtype=np.float32).reshape(-1)[:COUNTED])
        for bound in (layout.low, layout.high)
    )
    near, far = low.clamp(min=-1.0), high.clamp(max=1.0)
    apart = far > near
    return torch.where(apart, near, low), torch.where(apart, far, high)


def played(subject: Subject, policy: nn.Module, problem: Problem) -> Distribution:
    """Step through the observations -> the distribution of the last step, (B,) rows."""
    steps = next(leaves(problem.observations)).shape[1]
    state = subject.state(len(problem.targets), policy)
    for t in range(steps):
        now = map_nested(lambda leaf, t=t: leaf[:, t], problem.observations)
        logits, _, state = subject.step(now, state, policy=policy)
    return subject.distribution(logits)


def train(
    subject: Subject,
    policy: nn.Module,
    make: Callable[[int], Problem],
    *,
    updates: int,
    done: Callable[[], bool] = lambda: False,
    entropy: float = ENTROPY,
) -> list[float]:
    """Train by PPO on the problems of `make(update)`, until `done`; return the losses."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    losses: list[float] = []
    with seeded(10):
        for update in range(updates):
            losses += _update(subject, policy, optimiser, make(update), entropy)
            if update % 5 == 4 and done():
                break
    return losses


def _update(
    subject: Subject,
    policy: nn.Module,
    optimiser: torch.optim.Optimizer,
    problem: Problem,
    entropy: float,
) -> list[float]:
    dist = played(subject, policy, problem)
    actions = torch.stack([dist.sample() for _ in range(DRAWS)])  # (D, B, ...)
    old = torch.stack([dist.log_prob(action) for action in actions])
    rewards = problem.reward(actions)  # (D, B)
    advantages = rewards - rewards.mean(0)
    advantages /= advantages.std() + 1e-6
    losses = []
    for _ in range(EPOCHS):
        log_prob, spread, values = _scored(subject, policy, problem, actions)
        ratio = (log_prob - old).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages).mean()
        loss = (values - rewards.mean(0)).square().mean() - surrogate - entropy * spread.mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def _scored(
    subject: Subject, policy: nn.Module, problem: Problem, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities (D, B), entropy and values (B,) of the last step by ``forward``."""
    logits, values = subject.sequence(problem.observations, policy=policy, grad=True)
    rows, dist = len(problem.targets), subject.distribution(logits)
    steps = values.numel() // rows
    scores = [dist.log_prob(_everywhere(action, steps)) for action in actions]
    last = [
        each.reshape(rows, steps)[:, -1] for each in (*scores, dist.entropy(), values.reshape(-1))
    ]
    return torch.stack(last[:-2]), last[-2], last[-1]


def _everywhere(actions: Tensor, steps: int) -> Tensor:
    """(B, ...) -> (B*T, ...): the same action at every step; only the last one's score is used."""
    return actions.repeat_interleave(steps, 0)
