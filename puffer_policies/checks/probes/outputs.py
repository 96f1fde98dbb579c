"""What a policy answers, as plain tensors, and the lines with which an example begins.

`B` rows. Logits of a type that a package registered itself have no numbers that could be compared;
log-probabilities of fixed actions stand for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

FIXED_ACTIONS = 3

_SUBJECT = 'subject = Subject("policy", spaces, build=lambda: policy)'


def example(*lines: str) -> str:
    """Return lines of Python that go on from `policy` and `spaces` with a batch of observations."""
    start = ("from puffer_policies.checks.probes.subject import Subject", _SUBJECT)
    return "\n".join((*start, "observations = subject.observations()", *lines))


def still(subject: Subject) -> nn.Module:
    """Return a copy of the policy in evaluation mode: no dropout, no statistics that move."""
    return subject.copied().eval()


def fixed_actions(layout: ActionLayout, rows: int, *, seed: int = 0) -> Tensor:
    """Return random actions of a policy: int64 (N,) or (N, K), or float32 (N, *shape) near 0."""
    with seeded(seed):
        if layout.is_continuous:
            return torch.rand(rows, *layout.shape) * 0.8 - 0.4
        columns = [torch.randint(n, (rows,)) for n in layout.nvec]
    return columns[0] if layout.kind == "discrete" else torch.stack(columns, 1)


def draws(dist: Distribution, count: int, *, seed: int = 0) -> Tensor:
    """Return `count` samples of every row, (count, N, ...)."""
    with seeded(seed):
        return torch.stack([dist.sample() for _ in range(count)])


def answer(subject: Subject, policy: nn.Module, observations: Any) -> tuple[Tensor, Tensor]:
    """Run one step from the initial state -> what describes its actions (B, n), values (B, 1)."""
    logits, values, _ = subject.step(observations, policy=policy)
    return described(subject, logits), values.reshape(len(values), -1)


def described(subject: Subject, logits: Any) -> Tensor:
    """(N, n) log-probabilities of fixed actions, and the entropy."""
    dist = subject.distribution(logits)
    entropy = dist.entropy()
    actions = (fixed_actions(subject.layout, len(entropy), seed=i) for i in range(FIXED_ACTIONS))
    columns = [dist.log_prob(action) for action in actions]
    return torch.stack([*columns, entropy], 1)


def flat_grads(policy: nn.Module) -> Tensor:
    """Return the gradients of all parameters in one row."""
    grads = [p.grad.reshape(-1) for p in policy.parameters() if p.grad is not None]
    return torch.cat([grad.double() for grad in grads]) if grads else torch.zeros(0)
