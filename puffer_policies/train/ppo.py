"""The loss of proximal policy optimisation: a pure function of tensors and options.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347; details as in CleanRL's ppo.py,
https://docs.cleanrl.dev/rl-algorithms/ppo/. `N` transitions of a minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig


class Transitions(NamedTuple):
    """What the rollout knows about N transitions, (N,) float32 each."""

    log_probs: Tensor
    """Of the actions, by the policy that drew them."""
    advantages: Tensor
    returns: Tensor
    """What the values should be."""
    values: Tensor
    """What they were."""
    weights: Tensor
    """0 for a ghost, else what the transition counts for: 1, unless segments are prioritised."""


class Prediction(NamedTuple):
    """What the policy says now about the same transitions, (N,) float32 each."""

    log_probs: Tensor
    entropy: Tensor
    values: Tensor


TINY = 1e-8
"""Least sum of weights: a minibatch may hold ghosts alone."""

LOSS_PARTS = ("total", "policy", "value", "entropy", "approx_kl", "clip_fraction")


@dataclass(frozen=True, slots=True)
class Loss:
    """What a minibatch costs."""

    total: Tensor
    """Scalar, with gradient."""
    parts: Tensor
    """(6,) means in the order of `LOSS_PARTS`, without gradient."""

    def part(self, name: str) -> Tensor:
        """Return one of `LOSS_PARTS`, a scalar."""
        return self.parts[LOSS_PARTS.index(name)]


def ppo_loss(
    old: Transitions, new: Prediction, config: TrainConfig, *, clip_coef: float | None = None
) -> Loss:
    """Return PPO's loss; `clip_coef`, if given, stands in for the config's (it may be annealed)."""
    return piece_loss(prepared(old, config), new, config, clip_coef=clip_coef)


def prepared(
    old: Transitions, config: TrainConfig, *, importance: Tensor | None = None
) -> Transitions:
    """Return a minibatch with weights that sum to 1, and normalised advantages if they are to be.

    All that needs the whole minibatch is done here, so that `piece_loss` of its pieces adds up.
    `importance` (N,), if given, is what each transition counts for.
    """
    weights = old.weights if importance is None else old.weights * importance
    weights = weights / weights.sum().clamp(min=TINY)
    advantages = normalised(old.advantages, weights) if config.norm_adv else old.advantages
    return old._replace(weights=weights, advantages=advantages)


def piece_loss(
    old: Transitions, new: Prediction, config: TrainConfig, *, clip_coef: float | None = None
) -> Loss:
    """Return what some transitions of a `prepared` minibatch add to its loss.

    Everything is worked out for each transition; one weighted sum makes the means of all.
    """
    clip = config.clip_coef if clip_coef is None else clip_coef
    advantages, weights = old.advantages, old.weights
    log_ratio = new.log_probs - old.log_probs
    ratio = log_ratio.exp()
    policy = _clipped_cost(ratio, -advantages, clip)
    value = _value_loss(old, new.values, config)
    total = policy.add(value, alpha=config.vf_coef).sub(new.entropy, alpha=config.ent_coef)
    with torch.no_grad():
        # The k3 estimator of http://joschu.net/blog/kl-approx.html.
        approx_kl = ratio - 1 - log_ratio
        outside = ((ratio - 1).abs() > clip).float()
        parts = torch.stack([total, policy, value, new.entropy, approx_kl, outside]) @ weights
    return Loss(torch.dot(total, weights), parts)


def _clipped_cost(ratio: Tensor, cost: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate, negated: no less than where the ratio leaves the clip range.

    The paper's minimum of A r and A clip(r) is that of A r and A + clip |A|, as Spinning Up notes
    (https://spinningup.openai.com/en/latest/algorithms/ppo.html); here `cost` (N,) is -A.
    """
    return (ratio * cost).clamp(min=cost.sub(cost.abs(), alpha=clip))


def normalised(advantages: Tensor, weights: Tensor) -> Tensor:
    """Return advantages of weighted mean 0 and deviation 1; `weights` (N,) sum to 1."""
    centred = advantages - torch.dot(advantages, weights)
    deviation = torch.dot(centred.square(), weights).sqrt()
    return centred / (deviation + 1e-8)


def _value_loss(old: Transitions, values: Tensor, config: TrainConfig) -> Tensor:
    loss = (values - old.returns).square()
    if config.clip_vloss:
        shift = (values - old.values).clamp(-config.vf_clip_coef, config.vf_clip_coef)
        loss = torch.maximum(loss, (old.values + shift - old.returns).square())
    return 0.5 * loss
