"""Checks of gradients: every parameter gets one, and a batch can be fitted.

``declared["frozen"]`` lists patterns of parameters without a gradient from PPO's loss.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.outputs import draws, example, fixed_actions, still
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded

WIGGLE = 0.02
"""Noise on weights before N6: a branch behind a weight that starts at 0 has no gradient yet."""

FIT_STEPS, FIT_RATE = 100, 3e-3


@check(
    "N6",
    "every-parameter-learns",
    promise="Every parameter gets a gradient from PPO's loss, unless it has requires_grad=False or "
    "is declared frozen.",
    why="A detached or forgotten layer stays as it was drawn, and nobody notices.",
    fix='Use the layer, drop the detach, or declare {"frozen": ["its.name*"]}.',
)
def every_parameter_learns(subject: Subject) -> None:
    """Take one backward pass, from weights moved a little, over a sequence with episode starts."""
    policy = still(subject)
    with torch.no_grad(), seeded(6):
        for parameter in policy.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * WIGGLE)
    torch.autograd.backward(_ppo_loss(subject, policy))
    patterns = subject.declared.get("frozen", ())
    dead = [
        name
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not bool(parameter.grad.ne(0).any()))
        and not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if dead:
        raise CheckFailed(
            "a gradient for every parameter",
            f"none for {', '.join(dead)}",
            example=example(
                "logits, values = subject.sequence(observations, grad=True)",
                "dist = subject.distribution(logits)",
                "(dist.log_prob(dist.sample()).sum() + dist.entropy().sum() + values.sum())"
                ".backward()",
                "print([name for name, p in policy.named_parameters() if p.grad is None])",
            ),
        )


def _ppo_loss(subject: Subject, policy: nn.Module) -> Tensor:
    """Return the loss of the first epoch, where every ratio is 1, with random advantages."""
    starts = subject.starts(at=[(0, 0), (1, 3)]) if subject.recurrent else None
    observations = subject.observations(steps=STEPS)
    logits, values = subject.sequence(observations, starts=starts, policy=policy, grad=True)
    dist = subject.distribution(logits)
    log_prob = dist.log_prob(draws(dist, 1)[0])
    with seeded(7):
        advantages, targets = torch.randn(2, *log_prob.shape)
    ratio = (log_prob - log_prob.detach()).exp()
    error = values.reshape(-1) - targets
    loss: Tensor = error.square().mean() - (ratio * advantages).mean()
    return loss - 0.1 * dist.entropy().mean()


# -- N7 --------------------------------------------------------------------------------------------


@check(
    "N7",
    "fits-one-batch",
    promise="Some 100 small steps on one batch lower the loss and make rewarded actions likelier.",
    why="A policy that can't fit five rows, for a wrong sign or a cut gradient, learns nothing.",
    fix="Check the sign and the scale of the logits, and that forward is what acts.",
)
def fits_one_batch(subject: Subject) -> None:
    """Raise the likelihood of fixed actions, and bring values to 1, by Adam."""
    policy = still(subject)
    observations = subject.observations()
    actions = fixed_actions(subject.layout, 1, seed=8).expand(BATCH, *_shape(subject)).clone()
    first = last = _score(subject, policy, observations, actions)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=FIT_RATE)
    for step in range(FIT_STEPS):
        _fit_once(subject, policy, optimiser, observations, actions)
        if step % 10 == 9:
            last = _score(subject, policy, observations, actions)
            if last[0] > first[0] + 0.05 and last[1] < 0.9 * first[1]:
                return
    raise CheckFailed(
        "likelier rewarded actions and values nearer to 1 after 100 steps on one batch",
        f"log-probability {first[0]:.3g} -> {last[0]:.3g}, squared error of values "
        f"{first[1]:.3g} -> {last[1]:.3g}",
        example=example("logits, values = subject.sequence(observations, grad=True)"),
    )


def _shape(subject: Subject) -> tuple[int, ...]:
    layout = subject.layout
    if layout.is_continuous:
        return layout.shape
    return () if layout.kind == "discrete" else (len(layout.nvec),)


def _fit_once(
    subject: Subject,
    policy: nn.Module,
    optimiser: torch.optim.Optimizer,
    observations: Any,
    actions: Tensor,
) -> None:
    logits, values = subject.sequence(observations, policy=policy, grad=True)
    log_prob = subject.distribution(logits).log_prob(actions)
    optimiser.zero_grad()
    torch.autograd.backward((values.reshape(-1) - 1).square().mean() - log_prob.mean())
    optimiser.step()


def _score(
    subject: Subject, policy: nn.Module, observations: Any, actions: Tensor
) -> tuple[float, float]:
    """Return the mean log-probability of `actions` as a rollout sees it, and the values' error."""
    logits, values, _ = subject.step(observations, policy=policy)
    log_prob = subject.distribution(logits).log_prob(actions)
    return float(log_prob.mean()), float((values.reshape(-1) - 1).square().mean())


CHECKS = (every_parameter_learns, fits_one_batch)
