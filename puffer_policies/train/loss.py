"""PPO's loss of some transitions, twice: under autograd, and with its gradient written down.

Schulman et al. 2017, https://arxiv.org/abs/1707.06347; the details are those of CleanRL's ppo.py
(https://docs.cleanrl.dev/rl-algorithms/ppo/). `piece_loss` takes what any distribution predicts.
`fused_loss` computes the same, and its gradient with it, where actions are choices or normal
numbers. Tests hold one against the other.

`N` transitions; an action of `K` choices with `n` options each, or of numbers of some `shape`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nn.distributions import (
    HALF_LOG_TAU,
    LOG_OF_NOTHING,
    Categorical,
    Gaussian,
    MultiCategorical,
    distribution,
    sum_rows,
)
from puffer_policies.train.batch import Transitions

LOSS_PARTS = ("total", "policy", "value", "entropy", "approx_kl", "clip_fraction")

TINY = 1e-8
"""Smallest sum of weights: a minibatch may hold nothing but ghosts."""


class Prediction(NamedTuple):
    """What the current policy predicts for N transitions, (N,) float32 each."""

    log_probs: Tensor
    entropy: Tensor
    values: Tensor
    value_loss: Tensor | None = None
    """How far a value head with a loss of its own is from the returns; None of any other."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of some transitions."""

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
    """Return PPO's loss of a minibatch; `clip_coef`, perhaps annealed, overrides the config's."""
    return piece_loss(prepared(old, config), new, config, clip_coef=clip_coef)


def prepared(
    old: Transitions, config: TrainConfig, *, importance: Tensor | None = None
) -> Transitions:
    """Return a minibatch with weights that sum to 1, and advantages normalized if configured.

    Everything that needs the whole minibatch is done here, so that `piece_loss` of its pieces adds
    up. `importance` (N,), if given, multiplies the weights. Several minibatches are rows of
    matrices, (M, N) each.
    """
    weights = old.weights if importance is None else old.weights * importance
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=TINY)
    advantages = normalized(old.advantages, weights) if config.norm_adv else old.advantages
    return old._replace(weights=weights, advantages=advantages)


def normalized(advantages: Tensor, weights: Tensor) -> Tensor:
    """Return advantages of weighted mean 0 and deviation 1; `weights` (..., N) sum to 1."""
    centered = advantages - (advantages * weights).sum(-1, keepdim=True)
    deviation = (centered.square() * weights).sum(-1, keepdim=True).sqrt()
    return centered / (deviation + 1e-8)


def piece_loss(
    old: Transitions, new: Prediction, config: TrainConfig, *, clip_coef: float | None = None
) -> Loss:
    """Return what some transitions of a `prepared` minibatch add to its loss.

    Every term is computed per transition; one weighted sum makes the means of all of them.
    """
    clip = config.clip_coef if clip_coef is None else clip_coef
    log_ratio = _log_ratio(new.log_probs, old)
    ratio = log_ratio.exp()
    # The paper's minimum of A r and A clip(r) is that of A r and A + clip |A|, as Spinning Up notes
    # (https://spinningup.openai.com/en/latest/algorithms/ppo.html). Costs are negated advantages.
    cost = -old.advantages
    policy = (ratio * cost).clamp(min=cost.sub(cost.abs(), alpha=clip))
    value = _value_loss(old, new, config)
    total = policy.add(value, alpha=config.vf_coef).sub(new.entropy, alpha=config.ent_coef)
    with torch.no_grad():
        # The k3 estimator of http://joschu.net/blog/kl-approx.html: unbiased and never negative.
        approx_kl = ratio - 1 - log_ratio
        outside = ((ratio - 1).abs() > clip).float()
        parts = torch.stack([total, policy, value, new.entropy, approx_kl, outside]) @ old.weights
    return Loss(torch.dot(total, old.weights), parts)


def _log_ratio(log_probs: Tensor, old: Transitions) -> Tensor:
    """Return how much likelier actions have become, in nats (N,); 0 in ghosts.

    A memory empties its state in a ghost, after which a density may be any number, and infinity
    times a weight of 0 is NaN.
    """
    return (log_probs - old.log_probs).masked_fill(old.weights == 0, 0.0)


def _value_loss(old: Transitions, new: Prediction, config: TrainConfig) -> Tensor:
    if new.value_loss is not None:
        return new.value_loss
    values, loss = new.values, (new.values - old.returns).square()
    if config.clip_vloss:
        # Off by default: it did not help in the comparison of Andrychowicz et al. 2021,
        # https://arxiv.org/abs/2006.05990.
        shift = (values - old.values).clamp(-config.vf_clip_coef, config.vf_clip_coef)
        loss = torch.maximum(loss, (old.values + shift - old.returns).square())
    return 0.5 * loss


# The gradient written down ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FusedLoss:
    """The loss of some transitions, computed together with its gradient."""

    parts: Tensor
    """(6,) means in the order of `LOSS_PARTS`."""
    log_probs: Tensor
    """(N,) of the actions, by the current policy."""
    values: Tensor
    """(N,) of the current policy."""
    inputs: tuple[Tensor, ...]
    """What the policy returned: values (N,), and the tensors of its logits."""
    gradients: tuple[Tensor, ...]
    """Those of the total by each of `inputs`."""

    def backward(self) -> None:
        """Add the gradient of the total to those of the policy's parameters."""
        # A policy may have frozen parts, of which autograd knows nothing. Of all, it says so.
        pairs = list(zip(self.inputs, self.gradients, strict=True))
        trained = [pair for pair in pairs if pair[0].requires_grad] or pairs
        inputs, gradients = zip(*trained, strict=True)
        # An autograd.Function around these numbers would only multiply them by 1, and take a sixth
        # of the time of this loss for 1024 rows of 2 options.
        torch.autograd.backward(inputs, gradients)


def fused_loss(
    old: Transitions,
    logits: Any,
    values: Tensor,
    actions: Tensor,
    config: TrainConfig,
    *,
    clip_coef: float,
) -> FusedLoss | None:
    """Return `piece_loss` of a policy's logits and values (N,), with its gradient.

    It is None for distributions other than choices and independent normal numbers: squashed ones,
    those of a Dict, and those that a plug-in registered.
    """
    with torch.no_grad():
        current = distribution(logits)
        # Of exactly this type, as the subclass of a plug-in may read its logits differently.
        kind = _SCORES.get(type(current))
        if kind is None:
            return None
        scores, dtype = kind(current, logits, actions), old.log_probs.dtype
        log_probs, numbers = scores.log_probs.to(dtype), values.detach().to(dtype)
        # A row for each part, so that one product makes the means of all of them.
        columns = torch.empty(len(LOSS_PARTS), len(numbers), dtype=dtype, device=numbers.device)
        total, policy, value, entropy, approx_kl, outside = columns.unbind()
        entropy.copy_(scores.entropy)

        log_ratio = _log_ratio(log_probs, old)
        ratio = log_ratio.exp()
        torch.sub(ratio, 1, out=approx_kl)
        torch.gt(approx_kl.abs(), clip_coef, out=outside)
        approx_kl.sub_(log_ratio)
        cost = -old.advantages
        bound = cost.sub(cost.abs(), alpha=clip_coef)
        surrogate = ratio.mul_(cost)
        torch.maximum(surrogate, bound, out=policy)
        # d(r c) / d(log r) = r c, and nothing where the bound is larger.
        by_log_prob = surrogate.mul_(surrogate >= bound).mul_(old.weights)

        by_value = _value_loss_and_slope(numbers, old, config, out=value).mul_(old.weights)
        by_value.mul_(config.vf_coef)
        torch.add(policy, value, alpha=config.vf_coef, out=total)
        total.sub_(entropy, alpha=config.ent_coef)
        by_scores = scores.gradients(by_log_prob, old.weights * -config.ent_coef)
        inputs = values, *scores.inputs
        gradients = [
            each.to(leaf.dtype) for each, leaf in zip((by_value, *by_scores), inputs, strict=True)
        ]
        return FusedLoss(columns @ old.weights, log_probs, numbers, inputs, tuple(gradients))


def _value_loss_and_slope(
    values: Tensor, old: Transitions, config: TrainConfig, *, out: Tensor
) -> Tensor:
    """Write the loss of `values` (N,) to `out` and return its derivative, (N,)."""
    error = values - old.returns
    torch.mul(error, error, out=out)
    if not config.clip_vloss:
        out.mul_(0.5)
        return error
    shift = values - old.values
    near = shift.clamp(-config.vf_clip_coef, config.vf_clip_coef)
    clipped = (old.values + near - old.returns).square()
    # Where the shift is within its bounds, both losses are the same but for rounding.
    counts = (shift == near) | (out > clipped)
    torch.maximum(out, clipped, out=out).mul_(0.5)
    return error.mul_(counts)


class _Scores(Protocol):
    """Log-probabilities of actions and entropies, (N,) each, and how to go back from them."""

    log_probs: Tensor
    entropy: Tensor
    inputs: tuple[Tensor, ...]
    """The tensors of the logits."""

    def gradients(self, by_log_prob: Tensor, by_entropy: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients by `inputs`, from those by log-probability and entropy (N,).

        It overwrites what is stored here: call it once.
        """
        ...


class _Choices:
    """The scores of one choice, or of several."""

    def __init__(
        self, current: Categorical | MultiCategorical, logits: Any, actions: Tensor
    ) -> None:
        single = isinstance(current, Categorical)
        self.inputs: tuple[Tensor, ...] = (logits,) if single else tuple(logits)
        log_probs = current.log_probs  # (N, n), or (N, K, largest n)
        self._index = actions.long().reshape(*log_probs.shape[:-1], 1)
        self._probs = log_probs.exp()
        # Clamped, as 0 * -inf is NaN.
        self._weighted = self._probs * log_probs.clamp(min=LOG_OF_NOTHING)
        self._entropies = self._weighted.sum(-1).neg_()  # (N,) or (N, K)
        self.log_probs = sum_rows(log_probs.gather(-1, self._index).squeeze(-1))
        self.entropy = sum_rows(self._entropies)

    def gradients(self, by_log_prob: Tensor, by_entropy: Tensor) -> tuple[Tensor, ...]:
        """Return those of one choice's logits (N, n), or of K times (N, n_k)."""
        # With probabilities p: d(log p_a)/dx = [a] - p, and dH/dx = -p (log p + H).
        rows = (-1, *(1 for _ in self._probs.shape[1:]))
        by_log_prob, by_entropy = by_log_prob.reshape(rows), by_entropy.reshape(rows)
        factor = (by_entropy * self._entropies.unsqueeze(-1)).add_(by_log_prob)
        gradient = self._weighted.mul_(by_entropy).addcmul_(self._probs, factor).neg_()
        taken = by_log_prob.to(gradient.dtype)  # a policy may compute in float64
        gradient.scatter_add_(-1, self._index, taken.expand_as(self._index))
        if gradient.ndim == 2:
            return (gradient,)
        return tuple(gradient[:, k, : leaf.shape[-1]] for k, leaf in enumerate(self.inputs))


class _Numbers:
    """The scores of independent normal numbers."""

    def __init__(self, current: Gaussian, logits: Any, actions: Tensor) -> None:
        self.inputs: tuple[Tensor, ...] = logits.loc, logits.scale
        self._scale = current.scale
        self._deviation = (actions.reshape(current.loc.shape) - current.loc) / current.scale
        log_scale = current.scale.log()
        self.log_probs = -sum_rows(self._deviation.square() * 0.5 + log_scale + HALF_LOG_TAU)
        self.entropy = sum_rows(log_scale + (0.5 + HALF_LOG_TAU))

    def gradients(self, by_log_prob: Tensor, by_entropy: Tensor) -> tuple[Tensor, ...]:
        """Return those of the mean and of the deviation, (N, *shape) each."""
        rows = (-1, *(1 for _ in self._scale.shape[1:]))
        by_log_prob, by_entropy = by_log_prob.reshape(rows), by_entropy.reshape(rows)
        by_loc = by_log_prob * self._deviation / self._scale
        by_scale = by_loc * self._deviation + (by_entropy - by_log_prob) / self._scale
        return by_loc, by_scale


_SCORES: dict[type, Callable[[Any, Any, Tensor], _Scores]] = {
    Categorical: _Choices,
    MultiCategorical: _Choices,
    Gaussian: _Numbers,
}
