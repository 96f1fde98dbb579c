"""Heads: hidden (N, H) -> the logits of an action space, and a value.

Every action head has the attribute ``is_continuous``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.nn.fixed import Decode, fixed_call, is_plain
from puffer_policies.nn.init import layer_init
from puffer_policies.spaces import ActionLayout, action_layout

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""Bounds of a Gaussian's log standard deviation: clamping the std itself would come after exp has
under- or overflowed (https://github.com/leggedrobotics/rsl_rl/pull/190)."""

ACTOR_STD = 0.01
"""Gain of an action head, as in PufferLib and CleanRL: the first policy is nearly uniform."""


class LinearHead(nn.Module):
    """An action head of one Linear layer, ``linear``, whose outputs are read as logits."""

    is_continuous: bool
    linear: nn.Linear

    def logits(self, outputs: Tensor) -> Any:
        """(N, linear.out_features) -> logits of N rows."""
        raise NotImplementedError

    def forward(self, hidden: Tensor) -> Any:
        """(N, H) -> logits of N rows."""
        return self.logits(self.linear(hidden))


class CategoricalHead(LinearHead):
    """The head of one choice or of several."""

    is_continuous = False

    def __init__(
        self,
        layout: ActionLayout,
        hidden_size: int,
        *,
        std: float = ACTOR_STD,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.linear = layer_init(nn.Linear(hidden_size, sum(layout.nvec), bias=bias), std)

    def logits(self, outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, sum of nvec) -> (N, n) for Discrete, else a tuple of (N, n_k)."""
        return _choices(outputs, self.layout)


def _choices(outputs: Tensor, layout: ActionLayout) -> Tensor | tuple[Tensor, ...]:
    """(N, sum of nvec) -> (N, n) for Discrete, else a tuple of (N, n_k)."""
    return outputs if layout.kind == "discrete" else torch.split(outputs, list(layout.nvec), -1)


class GaussianHead(LinearHead):
    """A mean from the layer, and one log standard deviation for each dimension."""

    is_continuous = True

    def __init__(
        self,
        layout: ActionLayout,
        hidden_size: int,
        *,
        std: float = ACTOR_STD,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.shape = layout.shape
        self.log_std = nn.Parameter(torch.zeros(layout.shape))
        self.linear = layer_init(nn.Linear(hidden_size, self.log_std.numel(), bias=bias), std)

    def logits(self, outputs: Tensor) -> Normal:
        """(N, size) -> Normal with loc and scale (N, *shape)."""
        return _normal(outputs, self.log_std)


def _normal(outputs: Tensor, log_std: Tensor) -> Normal:
    """(N, size), (*shape) -> Normal with loc and scale (N, *shape)."""
    loc = outputs.reshape(outputs.shape[0], *log_std.shape)
    scale = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp().expand_as(loc)
    # Validation would read the tensors back to the host at every step.
    return Normal(loc, scale, validate_args=False)


class StateGaussianHead(LinearHead):
    """A mean and a log standard deviation of each dimension, both from the layer.

    As ``state_dependent_std`` of rsl_rl (https://github.com/leggedrobotics/rsl_rl); the first
    deviation is 1 everywhere, as `GaussianHead`'s.
    """

    is_continuous = True

    def __init__(self, layout: ActionLayout, hidden_size: int, *, std: float = ACTOR_STD) -> None:
        super().__init__()
        self.shape = layout.shape
        self.linear = layer_init(nn.Linear(hidden_size, 2 * math.prod(layout.shape)), std)

    def logits(self, outputs: Tensor) -> Normal:
        """(N, 2 * size), means before log deviations -> Normal with loc and scale (N, *shape)."""
        both = outputs.reshape(outputs.shape[0], 2, *self.shape)
        loc, log_std = both.unbind(1)
        scale = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return Normal(loc, scale, validate_args=False)


class HybridHead(LinearHead):
    """The head of a Dict or a Tuple: one layer for all parts, whose logits have the space's form.

    The outputs of the parts stand side by side in the order of `ActionLayout.leaves`. Each real
    number has a log standard deviation in ``log_std``.
    """

    is_continuous = False

    def __init__(
        self,
        layout: ActionLayout,
        hidden_size: int,
        *,
        std: float = ACTOR_STD,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layout = layout
        leaves = [leaf for _, leaf, _ in layout.leaves()]
        self.widths = [leaf.num_reals + sum(leaf.nvec) for leaf in leaves]
        self.num_reals = [leaf.num_reals for leaf in leaves if leaf.is_continuous]
        reals = layout.num_reals
        self.log_std = nn.Parameter(torch.zeros(reals)) if self.num_reals else None
        self.linear = layer_init(nn.Linear(hidden_size, sum(self.widths), bias=bias), std)

    def logits(self, outputs: Tensor) -> Any:
        """(N, outputs of all parts) -> a dict or a tuple of the logits of the parts."""
        # What torch.split calls in the end, after a detour through Python.
        columns = outputs.split_with_sizes(self.widths, -1)
        log_std = () if self.log_std is None else self.log_std.split_with_sizes(self.num_reals)
        return _hybrid(self.layout, iter(columns), iter(log_std))


def _hybrid(layout: ActionLayout, columns: Iterator[Tensor], log_std: Iterator[Tensor]) -> Any:
    """Return logits in the form of a space, from the outputs and deviations of its next leaves."""
    if layout.parts:
        parts = {key: _hybrid(part, columns, log_std) for key, part in layout.parts.items()}
        return parts if layout.kind == "dict" else tuple(parts.values())
    if layout.is_continuous:
        return _normal(next(columns), next(log_std).reshape(layout.shape))
    return _choices(next(columns), layout)


class ValueHead(nn.Linear):
    """(N, H) -> the value of each row, (N, 1)."""

    def __init__(self, hidden_size: int, *, std: float = 1.0, bias: bool = True) -> None:
        super().__init__(hidden_size, 1, bias=bias)
        layer_init(self, std)


def are_joinable(actor: nn.Module, critic: nn.Module) -> bool:
    """Return whether calling both heads is no more than multiplying by their weights.

    Hooks may change what goes in and out or, as in pruning, compute the weights; a parametrization,
    an adapter around the layer and a ``forward`` of another class read them in their own ways.
    """
    if not isinstance(actor, LinearHead) or type(critic) is not ValueHead:
        return False
    layer = actor.linear
    return (
        type(actor).forward is LinearHead.forward
        and type(layer) is nn.Linear
        and (layer.bias is None) == (critic.bias is None)
        and all(is_plain(each) for each in (actor, layer, critic))
    )


def decode_jointly(actor: nn.Module, critic: nn.Module, hidden: Tensor) -> tuple[Any, Tensor]:
    """(N, H) -> logits, values (N, 1): both layers of joinable heads as one, on their own weights.

    A product with so few columns costs the call and the reading of `hidden`, forward and backward,
    so one product is cheaper than two.
    """
    assert isinstance(actor, LinearHead)
    assert isinstance(critic, ValueHead)
    weight, bias = _joint(actor, critic)
    outputs, values = nn.functional.linear(hidden, weight, bias).split_with_sizes(
        [actor.linear.out_features, 1], -1
    )
    return actor.logits(outputs), values


def _joint(actor: LinearHead, critic: ValueHead) -> tuple[Tensor, Tensor | None]:
    """Return the weight (n + 1, H) and the bias of both layers as one."""
    layer = actor.linear
    bias = None if critic.bias is None else torch.cat([layer.bias, critic.bias])
    return torch.cat([layer.weight, critic.weight]), bias


def fixed_heads(actor: nn.Module, critic: nn.Module) -> Decode:
    """Return what gives the logits and values of both heads without gradient, see `nn.fixed`."""
    if not are_joinable(actor, critic):
        first, second = fixed_call(actor), fixed_call(critic)
        return lambda hidden: (first(hidden), second(hidden))
    assert isinstance(actor, LinearHead)
    assert isinstance(critic, ValueHead)
    with torch.no_grad():
        weight, bias = _joint(actor, critic)
    widths, logits = [actor.linear.out_features, 1], actor.logits

    def decode(hidden: Tensor) -> tuple[Any, Tensor]:
        joint = nn.functional.linear(hidden, weight, bias)
        outputs, values = joint.split_with_sizes(widths, -1)
        return logits(outputs), values

    return decode


@singledispatch
def make_head(action_space: Any, hidden_size: int, *, std: float = ACTOR_STD) -> nn.Module:
    """Return the action head of `action_space`; `std` is the gain of its weights.

    A package with a space of its own registers a head: ``make_head.register``.

    Raises:
        IncompatibleSpace: no head serves the space.
    """
    return make_linear_head(action_layout(action_space), hidden_size, std=std)


def make_linear_head(
    layout: ActionLayout, hidden_size: int, *, std: float = ACTOR_STD, bias: bool = True
) -> LinearHead:
    """Return the head of one Linear layer for a layout: choices, means with free deviations."""
    if layout.parts:
        return HybridHead(layout, hidden_size, std=std, bias=bias)
    head = GaussianHead if layout.is_continuous else CategoricalHead
    return head(layout, hidden_size, std=std, bias=bias)
