"""Measuring the health of training on one minibatch, before an update changes the policy.

An inspection costs about as much as two gradient steps, and is made every so many updates
(``train.alarm_interval``). What it finds is judged in `puffer_policies.train.alarms`.

`M` segments of `L` steps, `N` = M*L.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nested import leaves, map_nested
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout
from puffer_policies.train.alarms import RATIO_TOLERANCE, RATIO_TOLERANCE_BF16, Reading
from puffer_policies.train.batch import Batch
from puffer_policies.train.ppo import Prediction, Transitions, piece_loss, prepared

Gradients = dict[str, Tensor | None]


def inspect(
    policy: nn.Module,
    batch: Batch,
    answer: tuple[Distribution, Prediction],
    *,
    config: TrainConfig,
    layout: ActionLayout,
    epoch: int,
) -> Reading:
    """Return what a minibatch shows before the first gradient step of update `epoch`.

    Args:
        policy: whose parameters are looked at; their ``grad`` stays as it is.
        batch: M segments.
        answer: what the policy says about them, with gradient.
        config: the trainer's options.
        layout: of the action space.
        epoch: updates made before.
    """
    current, new = answer
    old = prepared(batch.transitions, config)
    total, value = _gradients(policy, old, new, config)
    exact = config.precision == "float32"
    return Reading(
        epoch=epoch,
        ratio_error=_ratio_error(old, new),
        ratio_tolerance=RATIO_TOLERANCE if exact else RATIO_TOLERANCE_BF16,
        idle_parameters=_idle(total) if epoch == 0 else (),
        dead_units=_dead_units(policy, batch.observations),
        logit_spread=_logit_spread(current),
        value_share=_value_share(total, value),
        gradient_clipped=_norm(total) > config.max_grad_norm,
        clipped_actions=_clipped_actions(batch.actions, layout),
    )


def entropy_share(entropy: float, layout: ActionLayout) -> float | None:
    """Return a mean entropy over the largest possible one; None for real numbers, which have none.

    Options that a mask forbids count as possible.
    """
    if layout.is_continuous:
        return None
    largest = sum(math.log(each) for each in layout.nvec)
    return entropy / largest if largest else None


def _gradients(
    policy: nn.Module, old: Transitions, new: Prediction, config: TrainConfig
) -> tuple[Gradients, Gradients]:
    """Return the gradients of the whole loss and of its value part."""
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    total = piece_loss(old, new, config).total
    value = 0.5 * config.vf_coef * torch.dot((new.values - old.returns).square(), old.weights)
    found = [
        torch.autograd.grad(loss, list(trained.values()), retain_graph=keep, allow_unused=True)
        for loss, keep in ((total, True), (value, False))
    ]
    whole: Gradients = dict(zip(trained, found[0], strict=True))
    return whole, dict(zip(trained, found[1], strict=True))


def _ratio_error(old: Transitions, new: Prediction) -> float:
    error = ((new.log_probs.detach() - old.log_probs).exp() - 1).abs()
    return float(error.masked_fill(old.weights == 0, 0.0).max())


def _idle(gradients: Gradients) -> tuple[str, ...]:
    return tuple(name for name, each in gradients.items() if each is None or not each.any())


@torch.no_grad()
def _dead_units(policy: nn.Module, observations: Any) -> float | None:
    """Return the share of hidden units that say the same of every observation."""
    encode = getattr(policy, "encode_observations", None)
    rows = map_nested(lambda leaf: leaf.flatten(0, 1), observations)  # (N, *obs)
    if encode is None or all(_constant(leaf).all() for leaf in leaves(rows)):
        return None
    hidden: Tensor = encode(rows)  # (N, H)
    return float(_constant(hidden).float().mean())


def _constant(rows: Tensor) -> Tensor:
    """(N, ...) -> (...) bool: what is the same in all rows."""
    return (rows == rows[:1]).all(0)


def _logit_spread(current: Distribution) -> float | None:
    """Return the largest difference between two logits of a choice; those forbidden left out."""
    log_probs: Tensor | None = getattr(current, "log_probs", None)
    if log_probs is None:
        return None
    log_probs = log_probs.detach()
    allowed = log_probs.isfinite()
    highest = log_probs.masked_fill(~allowed, -math.inf).amax(-1)
    lowest = log_probs.masked_fill(~allowed, math.inf).amin(-1)
    return float((highest - lowest).max())


def _value_share(total: Gradients, value: Gradients) -> float | None:
    """Return the share of the squared gradient that the value loss takes."""
    own = _norm(value) ** 2
    other = _norm({name: _minus(each, value[name]) for name, each in total.items()}) ** 2
    return own / (own + other) if own + other else None


def _minus(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
    return whole if whole is None or part is None else whole - part


def _norm(gradients: Gradients) -> float:
    norms = [
        torch.linalg.vector_norm(each).float() for each in gradients.values() if each is not None
    ]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def _clipped_actions(actions: Tensor, layout: ActionLayout) -> float | None:
    """Return the share of action elements that the env is not given as they are."""
    if not layout.is_continuous:
        return None
    drawn = actions.flatten(0, 1).cpu().numpy()  # (N, ...)
    taken = layout.to_env(drawn)
    return float((taken != drawn.reshape(taken.shape)).mean())
