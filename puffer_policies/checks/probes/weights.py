"""Weights of a copy: perturb them, tell which are trained, and collect gradients.

A check that compares outputs runs a `perturbed_copy`. One whose promise is about the first weights,
or that trains, runs `Subject.copy_policy`, which has the weights of the policy itself.
"""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from puffer_policies.checks.probes.outputs import draw
from puffer_policies.checks.probes.parts import options_of
from puffer_policies.checks.probes.rollouts import update_statistics
from puffer_policies.checks.probes.subject import BATCH, Subject, seeded

NOISE, RELATIVE_NOISE = 0.02, 0.1
"""Standard deviation of the noise on a parameter, and the share of the parameter's size in it: a
layer of zeros wakes up, and a layer of large weights changes too, without another scale."""

STATISTICS = 8
"""Observations of which a perturbed copy has its statistics."""

OPINIONATED, GROWTH, ROUNDS = 0.7, 1.5, 12
"""Share of equal samples at which choices differ enough; by what weights are multiplied until then,
and how often at most."""


def perturbed_copy(subject: Subject, *, training: bool = False, seed: int = 1) -> nn.Module:
    """Return a copy with noise on every trained weight, in eval mode unless `training`.

    A fresh policy hides its defects: behind a head of gain 0.01, or a gate that starts at zero, a
    leak changes no output and a memory looks unused. Nor do statistics of nothing normalize
    anything, so they are of a few observations here.
    """

    def build() -> nn.Module:
        policy = perturb(subject.copy_policy(training=training), seed=seed)
        with suppress(Exception):  # P10's matter
            update_statistics(policy, subject.observations(STATISTICS, seed=seed))
        return policy

    return subject.kept_copy(("perturbed", training, seed), build)


def perturb(policy: nn.Module, *, seed: int = 1) -> nn.Module:
    """Add noise to every weight that is trained, and return the policy."""
    with seeded(seed), torch.no_grad():
        for parameter in policy.parameters():
            if _can_be_perturbed(parameter):
                scale = NOISE + RELATIVE_NOISE * float(parameter.square().mean().sqrt())
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return policy


def opinionated_copy(subject: Subject) -> nn.Module:
    """Return a perturbed copy whose choices are far from uniform; of reals just a perturbed one.

    Where all options are nearly as likely, a temperature or an argmin for an argmax hardly shows.
    """

    def build() -> nn.Module:
        policy, options = perturbed_copy(subject), torch.tensor(options_of(subject.layout))
        for _ in range(ROUNDS if bool(options.any()) else 0):
            logits, _, _ = subject.step(subject.observations(), policy=policy)
            # Judged by samples, as the entropy itself may be wrong.
            draws = draw(subject.distribution(logits), 64).reshape(64, BATCH, -1)
            draws = draws[:, :, options > 0]
            if float((draws == draws.mode(0).values).double().mean()) > OPINIONATED:
                break
            with torch.no_grad():
                for parameter in policy.parameters():
                    if _can_be_perturbed(parameter):
                        parameter.mul_(GROWTH)
        return policy

    return subject.kept_copy("opinionated", build)


def trained_parameters(subject: Subject, policy: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that should learn: neither without gradient nor declared frozen."""
    frozen = subject.declared.get("frozen", ())
    return {
        name: parameter
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and not any(fnmatchcase(name, pattern) for pattern in frozen)
    }


def flat_gradients(policy: nn.Module) -> Tensor:
    """Return the gradients of all parameters in one row, float64."""
    grads = [p.grad.reshape(-1) for p in policy.parameters() if p.grad is not None]
    return torch.cat([grad.double() for grad in grads]) if grads else torch.zeros(0)


def _can_be_perturbed(parameter: Tensor) -> bool:
    is_trained = parameter.requires_grad and parameter.is_floating_point()
    return is_trained and not is_lazy(parameter) and parameter.numel() > 0
