"""Measurements of the health of training: numbers that are not finite, and what alarms judge.

The inspection of a minibatch costs about two gradient steps, so it is made only every
``train.alarm_interval`` updates: a failure that lasts is found then as well.
`puffer_policies.train.alarms` judges its `Reading`.

`M` segments of `L` steps, `N` = M*L.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import TrainingError
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.alarms import RATIO_TOLERANCE, RATIO_TOLERANCE_BF16, Reading
from puffer_policies.train.arrays import namespace
from puffer_policies.train.batch import Segments, Transitions
from puffer_policies.train.loss import Prediction, piece_loss, prepared
from puffer_policies.train.rollout import Rollout

Gradients = dict[str, Tensor | None]


def require_finite(rollout: Rollout) -> None:
    """Raise a `TrainingError` that names the first number of a rollout that is not finite.

    The order is that of cause: observations, rewards, values, log-probabilities.
    """
    # Every cause reaches values or log-probabilities, so that the observations, by far the largest
    # part, are searched only once something is wrong.
    outputs = torch.isfinite(rollout.values).all() & torch.isfinite(rollout.log_probs).all()
    isfinite = namespace(rollout.rewards).isfinite
    estimates = isfinite(rollout.rewards).all() & isfinite(rollout.next_values).all()
    if bool(outputs) and bool(estimates):
        return
    observations = [(f"observation[{i}]", x) for i, x in enumerate(leaves(rollout.observations))]
    others = {
        "reward": torch.as_tensor(rollout.rewards),
        "value": rollout.values,
        "log-probability of the action": rollout.log_probs,
        "value of the next observation": torch.as_tensor(rollout.next_values),
    }
    for name, tensor in [*observations, *others.items()]:
        places = torch.nonzero(~torch.isfinite(tensor))
        if len(places):
            raise _not_finite(name, tensor, places[0].tolist())


def _not_finite(name: str, tensor: Tensor, place: list[int]) -> TrainingError:
    step, env, *rest = place
    element = f", element {rest}" if rest else ""
    number = tensor[tuple(place)].item()
    return TrainingError(
        f"The rollout holds a number that is not finite: {name} = {number} at step {step} of env "
        f"{env}{element}.",
        fix="The environment made it."
        if name.startswith(("observation", "reward"))
        else "Observations and rewards are finite: the policy made it. Try a lower learning rate.",
    )


def require_finite_losses(losses: Mapping[str, float], policy: nn.Module, *, update: int) -> None:
    """Raise a `TrainingError` that names the parts of the loss of `update` that are not finite."""
    names = [name for name, value in losses.items() if not np.isfinite(value)]
    if names:
        broken = [name for name, each in policy.named_parameters() if not each.isfinite().all()]
        raise TrainingError(
            f"The loss is not finite in update {update}: {', '.join(names)}; parameters that are "
            f"not finite: {', '.join(broken) or 'none'}.",
            fix="Try a lower learning_rate or max_grad_norm.",
        )


def inspect(
    policy: nn.Module,
    segments: Segments,
    predicted: tuple[Distribution, Prediction],
    *,
    config: TrainConfig,
    layout: ActionLayout,
    epoch: int,
) -> Reading:
    """Return the reading of a minibatch before the first gradient step of an update.

    Args:
        policy: the policy that is trained; the ``grad`` of its parameters stays as it is.
        segments: M of them.
        predicted: what the policy predicts for them, with gradient.
        config: the trainer's options.
        layout: layout of the action space.
        epoch: number of updates before this one.
    """
    current, new = predicted
    old = prepared(segments.transitions, config)
    total, value = _gradients(policy, old, new, config)
    exact = config.precision == "float32"
    return Reading(
        epoch=epoch,
        ratio_error=_ratio_error(old, new),
        ratio_tolerance=RATIO_TOLERANCE if exact else RATIO_TOLERANCE_BF16,
        idle_parameters=_idle(total) if epoch == 0 else (),
        dead_units=_dead_units(policy, segments.observations),
        logit_spread=_logit_spread(current),
        value_share=_value_share(total, value),
        gradient_clipped=_norm(total) > config.max_grad_norm,
        clipped_actions=_clipped_actions(segments.actions, layout),
    )


def entropy_share(entropy: float, layout: ActionLayout) -> float | None:
    """Return a mean entropy over the largest possible one; None where there is no largest one.

    That is the case for real numbers. Options that a mask forbids count as possible.
    """
    if layout.num_reals:
        return None
    largest = sum(math.log(each) for each in layout.nvec)
    return entropy / largest if largest else None


def _gradients(
    policy: nn.Module, old: Transitions, new: Prediction, config: TrainConfig
) -> tuple[Gradients, Gradients]:
    """Return the gradients of the whole loss and of its value part."""
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    total = piece_loss(old, new, config).total
    errors = new.value_loss
    if errors is None:
        errors = 0.5 * (new.values - old.returns).square()
    value = config.vf_coef * torch.dot(errors, old.weights)
    return _slopes(total, trained), _slopes(value, trained)


def _slopes(loss: Tensor, trained: dict[str, nn.Parameter]) -> Gradients:
    """Return the gradient of each parameter, dense, or None if the loss does not depend on it."""
    if not loss.requires_grad:  # as that of values which are constant
        return dict.fromkeys(trained)
    slopes = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
    dense = [each.to_dense() if each is not None and each.is_sparse else each for each in slopes]
    return dict(zip(trained, dense, strict=True))


def _ratio_error(old: Transitions, new: Prediction) -> float:
    error = ((new.log_probs.detach() - old.log_probs).exp() - 1).abs()
    return float(error.masked_fill(old.weights == 0, 0.0).max())


def _idle(gradients: Gradients) -> tuple[str, ...]:
    return tuple(name for name, each in gradients.items() if each is None or not each.any())


@torch.no_grad()
def _dead_units(policy: nn.Module, observations: Any) -> float | None:
    """Return the share of hidden units with the same output for every observation."""
    encode = getattr(policy, "encode_observations", None)
    rows = map_nested(lambda leaf: leaf.flatten(0, 1), observations)  # (N, *obs)
    if encode is None or all(_constant(leaf).all() for leaf in leaves(rows)):
        return None
    hidden: Tensor = encode(rows)  # (N, H)
    return float(_constant(hidden).float().mean())


def _constant(rows: Tensor) -> Tensor:
    """(N, ...) -> (...) bool: whether an element is the same in all rows."""
    return (rows == rows[:1]).all(0)


def _logit_spread(current: Distribution) -> float | None:
    """Return the largest difference between two allowed logits of a choice: the rows' median."""
    # Differences of log-probabilities are those of logits, which are defined up to a constant.
    log_probs: Tensor | None = getattr(current, "log_probs", None)
    if log_probs is None:
        return None
    log_probs = log_probs.detach()
    allowed = log_probs.isfinite()
    highest = log_probs.masked_fill(~allowed, -math.inf).amax(-1)
    lowest = log_probs.masked_fill(~allowed, math.inf).amin(-1)
    # Not the largest one, which a single row out of thousands decides.
    return float((highest - lowest).median())


def _value_share(total: Gradients, value: Gradients) -> float | None:
    """Return the share of the squared gradient that comes from the value loss."""
    # The squared norms of both parts, and not that of their sum, in which they may cancel out.
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
    """Return the share of an action's real numbers that are clipped on the way to the env."""
    if not layout.num_reals:
        return None
    # Choices are never clipped: among them the share of the real numbers would be lost.
    sampled = actions.flatten(0, 1).cpu().numpy().reshape(actions.shape[:2].numel(), -1)  # (N, A)
    reals = [(leaf, sampled[:, own]) for _, leaf, own in layout.leaves() if leaf.is_continuous]
    # Compared before the dtype of the space rounds them.
    clipped = [
        (own < np.ravel(leaf.low)) | (own > np.ravel(leaf.high))  # type: ignore[arg-type]
        for leaf, own in reals
    ]
    return float(np.concatenate(clipped, axis=None).mean())
