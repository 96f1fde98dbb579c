"""Tiny problems on tensors, and a small PPO, for the checks that train: no environment, no trainer.

`B` rows, `T` steps, `D` draws, `C` columns of an action. In each row a fixed action is right: an
option of each choice, or a point of a Box. The reward of a row is how near its action is, 1 at
best. Of many choices or dimensions of a part only the first two count, as chance hides what each of
many contributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.probes.outputs import draw, inner_range, log_probs
from puffer_policies.checks.probes.parts import label, options_of
from puffer_policies.checks.probes.rollouts import each_step
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout
from puffer_policies.spaces.nested import leaves, map_nested

CANDIDATES = 40
"""Observations among which the most different become cues."""

COUNTED = 2
"""Choices or dimensions of each part of an action that the reward looks at."""

ROWS, DRAWS = 8, 32
"""Rows of observations, and actions drawn for each: a draw is cheaper than a row."""

# The learning rate is ten times that of a usual PPO: the problems are tiny, and time is short.
RATE, CLIP, EPOCHS, ENTROPY = 3e-3, 0.2, 3, 0.001


@dataclass(frozen=True)
class Columns:
    """Those columns of an action that the reward looks at."""

    places: list[int]
    """Where they are in an action (N, A)."""
    names: list[str]
    """Words for the part of each, such as `` of part 'arm'``."""
    options: Tensor
    """How many options each has, (C,); 0 for a real number."""
    low: Tensor
    """The lowest right number of each, (C,)."""
    high: Tensor
    """The highest right number of each, (C,)."""

    @property
    def are_real(self) -> Tensor:
        """Bool (C,), true for a real number."""
        return self.options == 0

    def of(self, actions: Tensor) -> Tensor:
        """(D, B, ...) actions -> (D, B, C)."""
        return actions.reshape(*actions.shape[:2], -1)[..., self.places]


def columns_of(layout: ActionLayout) -> Columns:
    """Return the columns that count: the first ones of each part."""
    places: list[int] = []
    names: list[str] = []
    lows, highs = [], []
    for path, leaf, columns in layout.leaves():
        number = min(COUNTED, columns.stop - columns.start)
        places += range(columns.start, columns.start + number)
        names += [label((path,)) if path else ""] * number
        low, high = inner_range(leaf) if leaf.is_continuous else (torch.zeros(2), torch.ones(2))
        lows.append(low.reshape(-1)[:number])
        highs.append(high.reshape(-1)[:number])
    options = torch.tensor(options_of(layout))[places]
    return Columns(places, names, options, torch.cat(lows), torch.cat(highs))


@dataclass(frozen=True)
class Problem:
    """Observations, and the action that is right for each row at its last step."""

    observations: Any
    """(B, T, *obs)."""
    targets: Tensor
    """The right action of each row, (B, C): options, or real numbers."""
    columns: Columns

    def reward(self, actions: Tensor) -> Tensor:
        """(D, B, ...) actions -> (D, B): share of right choices, closeness of real numbers."""
        return self._scores(self.columns.of(actions)).mean(-1)

    def rewards_of_parts(self, actions: Tensor) -> dict[str, float]:
        """(D, B, ...) actions -> the mean reward of each part, by words for the part."""
        return self._by_part(self._scores(self.columns.of(actions)))

    def constant_rewards(self) -> dict[str, float]:
        """Return what the best action earns that is the same for every row, part by part."""
        rows = torch.unique(self.targets, dim=0)
        middle = torch.where(self.columns.are_real, self.targets.float().mean(0), rows)
        guesses = torch.cat([rows, middle]).unsqueeze(1).expand(-1, *self.targets.shape)
        rewards = [self._by_part(self._scores(guess.unsqueeze(0))) for guess in guesses]
        return {name: max(each[name] for each in rewards) for name in rewards[0]}

    def _scores(self, counted: Tensor) -> Tensor:
        """(D, B, C) -> (D, B, C): 1 where a column is right, less where it is not."""
        columns = self.columns
        distance = (counted - self.targets) / (columns.high - columns.low)
        is_right = (counted == self.targets).float()
        return torch.where(columns.are_real, 1 - 4 * distance.square(), is_right)

    def _by_part(self, scores: Tensor) -> dict[str, float]:
        names = self.columns.names
        by_column = scores.flatten(0, 1).mean(0).tolist()
        totals = {
            name: [score for own, score in zip(names, by_column, strict=True) if own == name]
            for name in names
        }
        return {name: sum(each) / len(each) for name, each in totals.items()}


def cues(subject: Subject, count: int) -> Any:
    """Return `count` observations that are unlike each other, (count, *obs), furthest first."""
    observations = subject.observations(CANDIDATES, seed=9)
    flat = _flatten(observations).clamp(-1e3, 1e3)
    scale = (flat.amax(0) - flat.amin(0)).clamp(min=1e-6)
    distance = torch.cdist(flat / scale, flat / scale)
    chosen = [int(distance.amax(1).argmax())]
    while len(chosen) < count:
        chosen.append(int(distance[chosen].amin(0).argmax()))
    return map_nested(lambda leaf: leaf[chosen], observations)


def distinct(observations: Any) -> bool:
    """Whether no two rows are equal."""
    flat = _flatten(observations)
    return len(torch.unique(flat, dim=0)) == len(flat)


def right_actions(columns: Columns, count: int) -> Tensor:
    """Return `count` actions unlike each other, (count, C): int64 if all of them are choices."""
    places = torch.arange(count).unsqueeze(1)
    choices = (places * (columns.options - 1).clamp(min=1)) % columns.options.clamp(min=1)
    if not columns.are_real.any():
        return choices
    share = torch.tensor([0.75, 0.25])[places % 2]
    return torch.where(
        columns.are_real, columns.low + share * (columns.high - columns.low), choices
    )


def last_distribution(subject: Subject, policy: nn.Module, problem: Problem) -> Distribution:
    """Step through the observations -> the distribution of the last step, (B,) rows."""
    return subject.distribution(_last_logits(subject, policy, problem))


def _last_logits(subject: Subject, policy: nn.Module, problem: Problem) -> Any:
    *_, (logits, _, _) = each_step(subject, policy, problem.observations)
    return logits


def first_epoch_loss(
    subject: Subject, policy: nn.Module, observations: Any, *, starts: Tensor | None = None
) -> Tensor:
    """Return PPO's loss in the first epoch, where every ratio is 1, for random advantages."""
    logits, values = subject.sequence(observations, starts=starts, policy=policy, grad=True)
    dist = subject.distribution(logits)
    log_prob = dist.log_prob(draw(dist, 1)[0])
    with seeded(7):
        advantages, returns = torch.randn(2, *log_prob.shape)
    ratio = (log_prob - log_prob.detach()).exp()
    error = values.reshape(-1) - returns
    loss: Tensor = error.square().mean() - (ratio * advantages).mean()
    return loss - 0.1 * dist.entropy().mean()


def train(
    subject: Subject,
    policy: nn.Module,
    make: Callable[[int], Problem],
    *,
    updates: int,
    stop: Callable[[], bool] = lambda: False,
    entropy: float = ENTROPY,
) -> list[float]:
    """Train by PPO on the problems of `make(update)`, until `stop`; return the losses."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    losses: list[float] = []
    with seeded(10):
        for update in range(updates):
            losses += _update(subject, policy, optimizer, make(update), entropy)
            if update % 5 == 4 and stop():
                break
    return losses


def _update(
    subject: Subject,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    entropy: float,
) -> list[float]:
    logits = _last_logits(subject, policy, problem)
    dist = subject.distribution(logits)
    actions = torch.stack([dist.sample() for _ in range(DRAWS)])  # (D, B, ...)
    # A view of a parameter has a gradient, also where it was made without.
    old = log_probs(subject, logits, actions).detach()
    rewards = problem.reward(actions)  # (D, B)
    advantages = rewards - rewards.mean(0)
    advantages /= advantages.std() + 1e-6
    losses = []
    for _ in range(EPOCHS):
        log_prob, spread, values = _scores(subject, policy, problem, actions)
        ratio = (log_prob - old).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages).mean()
        loss = (values - rewards.mean(0)).square().mean() - surrogate - entropy * spread.mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _scores(
    subject: Subject, policy: nn.Module, problem: Problem, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities (D, B), entropy and values (B,) of the last step by ``forward``."""
    logits, values = subject.sequence(problem.observations, policy=policy, grad=True)
    rows, dist = len(problem.targets), subject.distribution(logits)
    steps = values.numel() // rows
    # (D, B, ...) -> (D, B*T, ...): the same action at every step; only the last score is used.
    scores = log_probs(subject, logits, actions.repeat_interleave(steps, 1))
    spread, last_values = (
        each.reshape(rows, steps)[:, -1] for each in (dist.entropy(), values.reshape(-1))
    )
    return scores.reshape(-1, rows, steps)[..., -1], spread, last_values


def _flatten(observations: Any) -> Tensor:
    """(B, *obs) -> (B, n) float64: all leaves beside each other."""
    return torch.cat([leaf.reshape(len(leaf), -1).double() for leaf in leaves(observations)], 1)
