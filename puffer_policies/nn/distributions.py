"""Distributions over actions: what a policy's logits mean, with sample, mode, log_prob and entropy.

`N` rows, `n` options of one choice, `K` choices, `A` columns of an action of several parts. Nothing
here validates its arguments or reads a value back to the host, as these are the innermost
operations of a rollout. NaN logits stay visible as NaN log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, singledispatch
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from puffer_policies.errors import ContractError
from puffer_policies.nn.trace import is_exporting

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
"""The constant of a Normal's log-density."""

LOG_OF_NOTHING = -1000.0
"""Log-probabilities below this have probability 0 even in float64, so clamping them is exact."""

FEW_OPTIONS = 8
"""Options up to which counting beats a binary search (measured on CPU, 64 and 1024 rows)."""

FULL_PRECISION = frozenset({torch.float32, torch.float64})
"""Dtypes that stay as they are; half precision has too few digits for log-probabilities."""

MANY_ROWS = 256
"""Rows from which few options are normalized as columns, by instructions that work on many rows at
once: 7 instead of 24 us for 1024 rows of 2 on CPU, and the same ratio in the backward pass."""

FEW_NUMBERS = 256
"""Probabilities up to which a random number for each is cheaper than the calls that spare them: 8
instead of 22 us for 64 rows of 2 on CPU, 5 instead of 20 for one row."""


Shape = torch.Size | list[int] | tuple[int, ...]


class Distribution(Protocol):
    """A distribution over the actions of N rows."""

    @property
    def event_shape(self) -> Shape:
        """Shape of one action. Only a part of a Dict or Tuple is asked for it."""
        ...

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action a row, without gradient."""
        ...

    def mode(self) -> Tensor:
        """Return the likeliest action of each row."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability of each row's whole action, (N,)."""
        ...

    def entropy(self) -> Tensor:
        """Return the entropy of each row, in nats, (N,)."""
        ...


class Categorical:
    """One choice a row: logits (N, n); actions (N,) int64. A logit of -inf forbids an option."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = _log_softmax(logits)  # (N, n)

    @property
    def event_shape(self) -> Shape:
        """Return ()."""
        return ()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one option a row, (N,)."""
        return _draw(self.log_probs, generator).squeeze(-1)

    def mode(self) -> Tensor:
        """Return the likeliest option, (N,)."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """(N,) or (N, 1) actions of any integer dtype -> (N,)."""
        # reshape, not unsqueeze: gather would accept too few rows and drop the others.
        index = action.long().reshape(self.log_probs.shape[0], 1)
        return self.log_probs.gather(-1, index).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return (N,); forbidden options add nothing, neither to the value nor to the gradient."""
        return _entropy(self.log_probs)


class MultiCategorical:
    """K independent choices a row: logits K times (N, n_k); actions (N, K) int64."""

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self.log_probs = _log_softmax(_stack(logits))  # (N, K, max n_k)

    @property
    def event_shape(self) -> Shape:
        """Return (K,)."""
        return self.log_probs.shape[1:2]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one option of each choice, (N, K)."""
        return _draw(self.log_probs, generator).squeeze(-1)

    def mode(self) -> Tensor:
        """Return the likeliest option of each choice, (N, K)."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """(N, *shape) actions with K elements a row -> (N,), summed over the choices."""
        rows, choices, _ = self.log_probs.shape
        index = action.long().reshape(rows, choices, 1)
        return self.log_probs.gather(-1, index).squeeze(-1).sum(-1)

    def entropy(self) -> Tensor:
        """Return (N,), summed over the choices."""
        return _entropy(self.log_probs).sum(-1)


class Gaussian:
    """Independent normal numbers: a Normal with loc and scale (N, *shape); actions the same."""

    def __init__(self, normal: Normal) -> None:
        # In float32 at least, also under autocast: log-probabilities are sums of small differences.
        self.loc, self.scale = full_precision(normal.loc), full_precision(normal.scale)

    @property
    def event_shape(self) -> Shape:
        """Return *shape."""
        return self.loc.shape[1:]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw (N, *shape), unclipped: the log-probability is that of the number drawn."""
        loc = self.loc.detach()
        # Not torch.randn: with a generator it takes no shape that torch.compile leaves open.
        noise = torch.empty_like(loc, memory_format=torch.contiguous_format)
        noise.normal_(generator=generator)
        return torch.addcmul(loc, self.scale.detach(), noise)

    def mode(self) -> Tensor:
        """Return the mean, (N, *shape)."""
        return self.loc

    def log_prob(self, action: Tensor) -> Tensor:
        """(N, *shape) -> (N,), summed over the dimensions of an action."""
        deviation = (action.reshape(self.loc.shape) - self.loc) / self.scale
        return -sum_rows(deviation.square() * 0.5 + self.scale.log() + HALF_LOG_TAU)

    def entropy(self) -> Tensor:
        """Return (N,), summed over the dimensions of an action."""
        return sum_rows(self.scale.log() + (0.5 + HALF_LOG_TAU))


class Product:
    """Independent parts: logits are a dict or a tuple of theirs; actions (N, A), side by side.

    Log-probabilities and entropies of the parts add up. The parts of a dict are in the order of its
    sorted keys, as in `ActionLayout`, so that no policy has to keep an order. Actions are int64 if
    all parts are choices, else of the dtype of the real numbers.
    """

    def __init__(self, logits: dict[Any, Any] | Sequence[Any]) -> None:
        ordered = sorted(logits, key=str) if isinstance(logits, dict) else range(len(logits))
        self.parts = [distribution(logits[key]) for key in ordered]
        self._widths = [math.prod(each.event_shape) for each in self.parts]

    @property
    def event_shape(self) -> Shape:
        """Return (A,)."""
        return (sum(self._widths),)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw an action of each part, (N, A)."""
        return _side_by_side([each.sample(generator) for each in self.parts])

    def mode(self) -> Tensor:
        """Return the likeliest action of each part, (N, A)."""
        return _side_by_side([each.mode() for each in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        """(N, A) -> (N,), summed over the parts."""
        rows = action.shape[0]
        columns = action.reshape(rows, -1).split_with_sizes(self._widths, -1)
        total: Tensor = sum(
            each.log_prob(column.reshape(rows, *each.event_shape))
            for each, column in zip(self.parts, columns, strict=True)
        )  # type: ignore[assignment]
        return total

    def entropy(self) -> Tensor:
        """Return (N,), summed over the parts."""
        total: Tensor = sum(each.entropy() for each in self.parts)  # type: ignore[assignment]
        return total


def _side_by_side(actions: list[Tensor]) -> Tensor:
    """Return the actions of parts as the columns of one tensor, integers as reals if need be."""
    return torch.cat([each.reshape(each.shape[0], -1) for each in actions], -1)


@singledispatch
def distribution(logits: Any) -> Distribution:
    """Return the distribution that a policy's logits parametrize.

    A Tensor (N, n) is one choice, a tuple or list of Tensors several, a Normal real numbers. A
    dict, and a tuple with anything else in it, are their parts, independent of each other.

    Raises:
        ContractError: logits of another type; register it with ``distribution.register``.
    """
    raise ContractError(
        f"A policy returned logits of type {type(logits).__name__!r}; expected a Tensor, a tuple "
        "of Tensors, torch.distributions.Normal, or a dict or tuple of them.",
        fix="Return one of these from decode_actions, or register the type with "
        "puffer_policies.nn.distributions.distribution.register.",
    )


distribution.register(Tensor, Categorical)
distribution.register(dict, Product)
distribution.register(Normal, Gaussian)


@distribution.register(tuple)
@distribution.register(list)
def _(logits: Sequence[Any]) -> Distribution:
    # A Tuple of Discrete spaces has the logits of a MultiDiscrete, and means the same.
    is_flat = all(isinstance(each, Tensor) for each in logits)
    return MultiCategorical(logits) if is_flat else Product(logits)


def sample_with_log_prob(
    logits: Any, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one action a row, and return it with its log-probability (N,): what a rollout stores.

    The numbers are those of `sample` and `log_prob` of the distribution of `logits`, bit for bit.
    """
    if type(logits) is not Tensor:
        dist = distribution(logits)
        action = dist.sample(generator)
        return action, dist.log_prob(action)
    # One choice is the commonest, and needs neither the dispatch nor an object: at few rows they
    # cost as much as the draw.
    log_probs = _log_softmax(logits)
    index = _draw(log_probs, generator)  # (N, 1)
    return index.squeeze(-1), log_probs.gather(-1, index).squeeze(-1)


def sample_logits(logits: Any, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return action, log_prob (N,), entropy (N,); the action is drawn unless it is given."""
    dist = distribution(logits)
    if action is None:
        action = dist.sample()
    return action, dist.log_prob(action), dist.entropy()


def full_precision(values: Tensor) -> Tensor:
    """Return values in float32 at least."""
    return values.float() if values.dtype.itemsize < 4 else values


def _log_softmax(logits: Tensor) -> Tensor:
    """Normalize the last axis, in float32 at least, also under autocast."""
    full = logits if logits.dtype in FULL_PRECISION else logits.float()
    # Nothing may compare the number of rows while a step is recorded, which would fix it.
    many = not is_exporting() and full.shape[0] >= MANY_ROWS
    if many and full.ndim == 2 and full.shape[1] <= FEW_OPTIONS and full.is_cpu:
        return torch.log_softmax(full.t().contiguous(), 0).t()  # (n, N) -> (N, n)
    return torch.log_softmax(full, -1)


def _draw(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """(..., n) -> (..., 1) int64; an option of probability 0 is never drawn."""
    probs = (log_probs.detach() if log_probs.requires_grad else log_probs).exp()
    if probs.is_cpu and probs.numel() > FEW_NUMBERS:
        return _invert(probs, generator)
    return _race(probs, generator)


def _invert(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the first option whose cumulative probability exceeds a uniform share of the total.

    An option of probability 0 has the cumulative of the option before it, so it is never the first.
    The total is the rounded sum, not 1, so that no draw can lie past the last option.
    """
    options = probs.shape[-1]
    cumulative = probs.cumsum(-1)
    total = cumulative.narrow(-1, options - 1, 1)
    uniform = torch.empty_like(total).uniform_(generator=generator).mul_(total)
    if options <= FEW_OPTIONS:
        return (cumulative <= uniform).sum(-1, keepdim=True)
    option = torch.searchsorted(cumulative, uniform, right=True)
    return option.clamp_(max=options - 1)  # a row of NaN has no such option


def _race(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the first of n exponential clocks to ring: option k comes first with probability p_k.

    It takes few calls, and is exact on a GPU, where a cumulative sum groups its terms differently
    for each option, so that an option of probability 0 could own an ulp of the total.
    """
    clocks = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / clocks).argmax(-1, keepdim=True)


def _entropy(log_probs: Tensor) -> Tensor:
    """(..., n) -> (...). Clamped first, as 0 * -inf is NaN in the value and in the gradient."""
    return -(log_probs.exp() * log_probs.clamp(min=LOG_OF_NOTHING)).sum(-1)


def _stack(logits: Sequence[Tensor]) -> Tensor:
    """K times (N, n_k) -> (N, K, max n_k); options that a choice lacks are forbidden."""
    if len({each.shape[-1] for each in logits}) == 1:
        return torch.stack(tuple(logits), 1)
    columns = [each.transpose(0, 1) for each in logits]  # K times (n_k, N)
    padded = torch.nn.utils.rnn.pad_sequence(columns, padding_value=-math.inf)
    return padded.permute(2, 1, 0)  # (max n_k, K, N) -> (N, K, max n_k)


def sum_rows(values: Tensor) -> Tensor:
    """(N, *shape) -> (N,)."""
    return values if values.ndim == 1 else values.flatten(1).sum(1)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
"""Nodes and weights of the Gauss-Hermite quadrature that estimates the entropy."""


@torch.inference_mode(False)  # what is made in that mode can't take part in training later
def _quadrature(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the nodes (16,), and their weights (16,), which add up to 1."""
    nodes, weights = (
        torch.tensor(each, dtype=dtype, device=device) for each in (NODES, WEIGHTS / WEIGHTS.sum())
    )
    return nodes, weights


_kept_quadrature = cache(_quadrature)
"""The same, kept: a GPU would wait for the copy from the host in every loss, which could then not
be replayed from a graph."""

LARGEST = 1 - 2.0**-24
"""The largest float32 below 1: nearer to a bound there is no finite number before tanh."""


class SquashedNormal(Normal):
    """The logits of a policy whose actions lie between bounds: a Normal behind tanh.

    Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290, appendix C. An action is a = middle +
    half * tanh(x) with x ~ Normal(loc, scale), so log p(a) = log p(x) - log |da/dx|.

    ``loc`` and ``scale`` are those before tanh; everything else is of the action, element by
    element, so that PufferLib's trainer, which knows Normal alone, samples and scores it rightly.

    Args:
        loc: (N, *shape).
        scale: (N, *shape), above 0.
        low: (*shape), finite.
        high: (*shape), finite.
    """

    def __init__(self, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        loc, scale = full_precision(loc), full_precision(scale)
        super().__init__(loc, scale, validate_args=False)
        self.middle, self.half = (low + high) / 2, (high - low) / 2

    @property
    def mode(self) -> Tensor:
        """The action of the likeliest number before tanh, which deterministic play takes."""
        return self.squashed(self.loc)

    @property
    def mean(self) -> Tensor:
        """There is no closed form."""
        raise NotImplementedError("The mean of a squashed Normal has no closed form.")

    @property
    def stddev(self) -> Tensor:
        """There is no closed form."""
        raise NotImplementedError("The deviation of a squashed Normal has no closed form.")

    def squashed(self, numbers: Tensor) -> Tensor:
        """Return the actions of numbers before tanh, (N, *shape) both."""
        return self.middle + self.half * torch.tanh(numbers)

    def unsquashed(self, action: Tensor) -> Tensor:
        """Return the numbers before tanh; those of a bound are finite, too."""
        return torch.atanh(((action - self.middle) / self.half).clamp(-LARGEST, LARGEST))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw actions, without gradient."""
        return self.squashed(super().sample(sample_shape))  # type: ignore[no-untyped-call]

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw actions, with the gradient of loc and scale."""
        return self.squashed(super().rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each element of an action, (N, *shape)."""
        numbers = self.unsquashed(value)
        density: Tensor = super().log_prob(numbers)  # type: ignore[no-untyped-call]
        return density - _log_tanh_slope(numbers) - self.half.log()

    def entropy(self) -> Tensor:
        """Estimate the entropy of each element by quadrature, in nats: (N, *shape), with gradient.

        It is that of the Normal and the mean of log |da/dx|, which has no closed form. The error is
        below 1e-4 for deviations up to 1, 0.03 at 3 and 0.3 at the largest of our heads, 7.4.
        """
        # Tensors that a tracer makes are not kept.
        is_traced = is_exporting() or torch.compiler.is_compiling()
        make = _quadrature if is_traced else _kept_quadrature
        nodes, weights = make(self.loc.device, self.loc.dtype)
        numbers = self.loc.unsqueeze(-1) + self.scale.unsqueeze(-1) * nodes  # (N, *shape, 16)
        slopes = (_log_tanh_slope(numbers) * weights).sum(-1)
        before: Tensor = super().entropy()  # type: ignore[no-untyped-call]
        return before + slopes + self.half.log()

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of less than each element of an action."""
        below: Tensor = super().cdf(self.unsquashed(value))  # type: ignore[no-untyped-call]
        return below

    def icdf(self, value: Tensor) -> Tensor:
        """Return the actions below which these probabilities lie."""
        return self.squashed(super().icdf(value))  # type: ignore[no-untyped-call]


class SquashedGaussian:
    """Independent numbers between bounds; actions (N, *shape)."""

    def __init__(self, normal: SquashedNormal) -> None:
        self.normal = normal

    @property
    def event_shape(self) -> Shape:
        """Return *shape."""
        return self.normal.loc.shape[1:]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw (N, *shape)."""
        return self.normal.squashed(Gaussian(self.normal).sample(generator))

    def mode(self) -> Tensor:
        """Return the action of the mean before tanh, (N, *shape)."""
        return self.normal.mode

    def log_prob(self, action: Tensor) -> Tensor:
        """(N, *shape) -> (N,), summed over the dimensions of an action."""
        return sum_rows(self.normal.log_prob(action.reshape(self.normal.loc.shape)))

    def entropy(self) -> Tensor:
        """Return (N,), summed over the dimensions of an action; an estimate by quadrature."""
        return sum_rows(self.normal.entropy())


distribution.register(SquashedNormal, SquashedGaussian)


def _log_tanh_slope(numbers: Tensor) -> Tensor:
    """Return log(1 - tanh(x)^2), which computed as written is -inf from x = 9 on in float32."""
    return 2 * (math.log(2) - numbers - softplus(-2 * numbers))
