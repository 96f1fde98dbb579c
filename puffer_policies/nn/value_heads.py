"""Value heads with a loss of their own: bins that are learned as classes, and scaled returns.

To every caller such a head gives values as numbers, (N, 1). A trainer that knows them computes the
loss from the `outputs` of the head's layer instead: see `ValueHeadWithLoss`.

`N` rows, `H` hidden size, `K` outputs of each row, `n` values of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from puffer_policies.errors import BuildError, ContractError
from puffer_policies.nn.heads import ValueHead
from puffer_policies.nn.moments import moments_of, of_all_processes

Spacing = Literal["symlog", "linear"]

SMOOTHING = (0.5, 1.0)
"""Widths of a bin that a Gaussian target may deviate by. A narrower one is taken for its bin: with
0.25 values between two of the default bins are off by up to 4 %, with 0.75 by 0.2 %, and by 1 % at
the ends of the range. Wider ones of neighboring bins are so alike that their places would have to
be far apart to tell values apart."""

MAX_SYMLOG_WIDTH = 0.5
"""Largest width of a smoothed bin in symlog. Values between two such bins are off by up to 1 %; at
one and a half times this width by 8 %, at twice by 200 %."""


class ValueHeadWithLoss(nn.Module):
    """A value head whose loss is not the squared error of its values.

    A subclass says by `values` what the outputs of its layer mean, and by `loss` how far they are
    from returns. One that depends on returns seen before keeps `update_statistics`, too. Anywhere
    in a policy, it is found by `value_head_of`, and our trainer uses its loss. To everybody else it
    is a layer (N, H) -> (N, 1).

    Args:
        linear: (N, H) -> outputs (N, K).

    Raises:
        BuildError: it is not an ``nn.Linear``.
    """

    bounds: tuple[float, float] = (-math.inf, math.inf)
    """The smallest and the largest value that it can give."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise BuildError(
                f"{type(self).__name__!r} got a {type(linear).__name__} as its layer.",
                fix="Give it an nn.Linear, and let what comes before it be part of the policy.",
            )
        self.linear = linear
        self.gives_outputs = False
        """Whether a pass returns the outputs (N, K) in place of values; see `giving_outputs`."""

    def values(self, outputs: Tensor) -> Tensor:
        """(N, K) -> the values (N,) float32."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, returns: Tensor) -> Tensor:
        """(N, K), the targets of the values (N,) -> the loss of each row, (N,)."""
        raise NotImplementedError

    def update_statistics(self, returns: Tensor) -> None:
        """Take in the returns (n,) of a batch; every value stays as it was. Here nothing is done.

        A trainer calls it once in an update, before the first loss, in all its processes.
        """

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, H) -> values (N, 1)."""
        outputs: Tensor = self.linear(hidden)
        return outputs if self.gives_outputs else self.values(outputs).unsqueeze(-1)


def value_head_of(policy: nn.Module) -> ValueHeadWithLoss | None:
    """Return the head of `policy` that has a loss of its own, or None.

    Raises:
        ContractError: it has several, of which a loss could use only one.
    """
    heads = [each for each in policy.modules() if isinstance(each, ValueHeadWithLoss)]
    if len(heads) > 1:
        raise ContractError(
            f"{type(policy).__name__!r} has {len(heads)} value heads with a loss of their own.",
            fix="Give it one.",
        )
    return heads[0] if heads else None


@contextmanager
def giving_outputs(head: ValueHeadWithLoss) -> Iterator[None]:
    """Let the policy around `head` return the outputs (N, K) of its layer as values."""
    # A flag, as of train() and eval(), which passes through any stack and any compiled pass;
    # outputs that were kept from a pass would be a state of the module.
    head.gives_outputs = True
    try:
        yield
    finally:
        head.gives_outputs = False


def exchange_value_layer(
    policy: nn.Module, make_head: Callable[[nn.Linear], ValueHeadWithLoss]
) -> None:
    """Put the head that `make_head` makes of a policy's value layer in the layer's place.

    The layer is the Linear (H', 1) whose output `decode_actions` returns as values, under whatever
    name and however deep. Layers before it stay.

    Raises:
        BuildError: there is no such layer, or it was exchanged before.
    """
    name = type(policy).__name__
    if value_head_of(policy) is not None:
        raise BuildError(
            f"{name!r} has a value head with a loss of its own already.",
            fix="Use one of these wrappers, or leave the critic of the policy as it is.",
        )
    layer = _value_layer(policy)
    if layer is None:
        raise BuildError(
            f"{name!r} has no layer whose output is its value.",
            fix="End its critic in an nn.Linear(..., 1), apart from the action head, and set "
            "self.hidden_size to the width of what decode_actions reads.",
        )
    head = make_head(layer)
    # A layer that is known by two names is exchanged under both.
    paths = [p for p, each in policy.named_modules(remove_duplicate=False) if each is layer]
    for path in paths:
        parent, _, attribute = path.rpartition(".")
        setattr(policy.get_submodule(parent), attribute, head)
    if not _outputs_of(head, policy):
        raise BuildError(
            f"{name!r} calls its value layer past its attribute {paths[0]!r}.",
            fix="Keep modules in attributes alone, not in plain lists or closures.",
        )


def _value_layer(policy: nn.Module) -> nn.Linear | None:
    if not isinstance(getattr(policy, "hidden_size", None), int):
        return None
    # Another subclass may compute something else with the same weights.
    plain = (nn.Linear, ValueHead)
    linears = (m for m in policy.modules() if isinstance(m, nn.Linear) and type(m) in plain)
    layers = [each for each in linears if each.out_features == 1]
    values = _values(policy)
    for layer in reversed(layers):
        # Equal numbers would not do: two layers of zeros give them, and so does a minimum.
        handle = layer.register_forward_hook(lambda _, inputs, output: output + 1.0)
        try:
            moved = _values(policy)
        finally:
            handle.remove()
        is_alone = any(
            each.numel() == len(values) and torch.equal(each.flatten().to(values), values)
            for each in _outputs_of(layer, policy)
        )
        if is_alone and torch.allclose(moved, values + 1.0, rtol=1e-2):
            return layer
    return None


def _outputs_of(module: nn.Module, policy: nn.Module) -> list[Tensor]:
    """Return what a module gives while a policy computes `_values`; nothing if it is not called."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    try:
        _values(policy)
    finally:
        handle.remove()
    return outputs


@torch.no_grad()
def _values(policy: nn.Module) -> Tensor:
    """Return the values (R,) of hidden features small and large, of both signs."""
    weight = next(policy.parameters(), torch.empty(0))
    # Not random, as a wrapper draws no number from the generator of others.
    size: Any = policy.hidden_size
    row = torch.linspace(-1.0, 1.0, size, device=weight.device, dtype=weight.dtype)
    hidden = row * row.new_tensor([0.1, -0.1, 1.0, -1.0, 100.0, -100.0]).unsqueeze(-1)
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()  # without dropout, and without a batch that normalization would count
    try:
        _, values = policy.decode_actions(hidden)  # type: ignore[operator]
    finally:
        for module, mode in modes:
            module.training = mode
    flat: Tensor = values.flatten()
    return flat


def _blank(layer: nn.Linear, outputs: int) -> nn.Linear:
    """Return a layer with a bias in the place of `layer`, whose weights are still to be set."""
    # Numbers drawn here would change all weights that are drawn later.
    weight = layer.weight
    options = {"device": weight.device, "dtype": weight.dtype}
    blank: nn.Linear = skip_init(nn.Linear, layer.in_features, outputs, **options)  # type: ignore[no-untyped-call]
    return blank


# -- values as classes -----------------------------------------------------------------------------


class BinnedValueHead(ValueHeadWithLoss):
    """A distribution over K bins, trained by cross-entropy: the value is its mean.

    The bins lie at equal distances from `low` to `high`, or at equal distances of their symlog,
    sign(x) log(1 + |x|), which is fine around 0 and coarse far from it. Returns beyond are taken
    for the last bin.

    A new head gives the values of the layer that it replaces, to first order, and starts from
    probabilities in proportion to 1 / (1 + |bin|), so that far bins do not drown the near ones.

    Args:
        layer: the value layer (N, H) -> (N, 1) that it replaces.
        bins: number K of bins.
        low: the lowest value.
        high: the highest value.
        spacing: ``"symlog"`` or ``"linear"``.

    Raises:
        BuildError: less than two bins, an empty range, or another spacing.
    """

    width: float
    """Of a bin, in symlog if they are spaced so."""
    centers: Tensor
    """(K,) float64: the middle of each bin, in symlog if they are spaced so."""
    places: Tensor
    """(K,) float32: the value that a bin stands for."""

    def __init__(
        self, layer: nn.Linear, *, bins: int, low: float, high: float, spacing: Spacing
    ) -> None:
        _require_bins(bins, low, high, spacing)
        super().__init__(_blank(layer, bins))
        self.bounds, self.spacing = (float(low), float(high)), spacing
        ends = self.spaced(torch.tensor(self.bounds, dtype=torch.float64))
        centers = torch.linspace(float(ends[0]), float(ends[1]), bins, dtype=torch.float64)
        self.width = float(centers[1] - centers[0])
        # Constants of the options: a checkpoint need not hold them.
        self.register_buffer("centers", centers.to(layer.weight.device), persistent=False)
        self.register_buffer("places", self._places().float(), persistent=False)
        self._start_from(layer)

    def spaced(self, values: Tensor) -> Tensor:
        """Return values, of any shape, on the scale on which bins are equally far apart."""
        return values.sign() * values.abs().log1p() if self.spacing == "symlog" else values

    def middles(self) -> Tensor:
        """Return the values in the middle of the bins, (K,) float64."""
        centers = self.centers
        return centers.sign() * centers.abs().expm1() if self.spacing == "symlog" else centers

    def targets(self, returns: Tensor) -> Tensor:
        """(N,) -> the probabilities (N, K) that the head is to give, whose mean is the return."""
        raise NotImplementedError

    def values(self, outputs: Tensor) -> Tensor:
        """(N, K) -> the means (N,) of the distributions."""
        # Not a matrix product, which autocast would round to bfloat16.
        return (outputs.float().softmax(-1) * self.places).sum(-1)

    def loss(self, outputs: Tensor, returns: Tensor) -> Tensor:
        """(N, K), (N,) -> the cross-entropy (N,) of the targets."""
        return -(self.targets(returns) * outputs.log_softmax(-1)).sum(-1)

    def _places(self) -> Tensor:
        return self.middles()

    @torch.no_grad()
    def _start_from(self, layer: nn.Linear) -> None:
        """Set the weights to those of a head whose values are the layer's near 0."""
        places, centers = self.places.double(), self.centers
        chances = 1.0 / (1.0 + self.middles().abs())
        chances = chances / chances.sum()
        # The slope of the mean where every output moves by its bin's center.
        slope = (chances * (places - (chances * places).sum()) * centers).sum()
        direction = centers / slope
        self.linear.weight.copy_(direction[:, None] * layer.weight)
        shift = 0.0 if layer.bias is None else direction * layer.bias
        self.linear.bias.copy_(chances.log() + shift)


class TwoHotHead(BinnedValueHead):
    """Bins whose target is the two nearest to a return, in the shares of which it is the mean.

    Hafner et al. 2023, DreamerV3, https://arxiv.org/abs/2301.04104. Arguments are those of
    `BinnedValueHead`.
    """

    def targets(self, returns: Tensor) -> Tensor:
        """(N,) -> (N, K), of which at most two in each row are not 0."""
        places = self.places.to(returns.dtype)
        inside = returns.clamp(*self.bounds)
        above = torch.searchsorted(places, inside).clamp(1, len(places) - 1)
        left, right = places[above - 1], places[above]
        share = ((inside - left) / (right - left)).clamp(0.0, 1.0)
        rows = returns.new_zeros(len(returns), len(places))
        rows.scatter_(1, above[:, None] - 1, (1.0 - share)[:, None])
        return rows.scatter_(1, above[:, None], share[:, None])


class HLGaussHead(BinnedValueHead):
    """Bins whose target is a Gaussian around the return: the mass of each bin under it.

    Farebrother et al. 2024, "Stop Regressing", https://arxiv.org/abs/2403.03950. It differs in the
    place of a bin, which is not its middle: places are such that the target of a middle has exactly
    that mean. With middles a value would be off by some percent wherever bins are not equally far
    apart, and near the ends of the range, and bootstrapping adds such an error up.

    Args:
        layer: the value layer that it replaces.
        smoothing: standard deviation of the Gaussian in widths of a bin.
        bins, low, high, spacing: as of `BinnedValueHead`.

    Raises:
        BuildError: as of `BinnedValueHead`, a smoothing outside of `SMOOTHING`, or bins that are
            too wide.
    """

    def __init__(
        self,
        layer: nn.Linear,
        *,
        smoothing: float,
        bins: int,
        low: float,
        high: float,
        spacing: Spacing,
    ) -> None:
        low_limit, high_limit = SMOOTHING
        if not low_limit <= smoothing <= high_limit:
            raise BuildError(
                f"smoothing={smoothing} should be {low_limit:g} to {high_limit:g} widths of a bin.",
                fix="Leave it out, or use more bins for narrower targets.",
            )
        self.smoothing = float(smoothing)
        super().__init__(layer, bins=bins, low=low, high=high, spacing=spacing)

    def targets(self, returns: Tensor) -> Tensor:
        """(N,) -> (N, K): the mass of each bin, in parts of that of all."""
        centers, half = self.centers, self.width / 2
        edges = torch.cat([centers - half, centers[-1:] + half]).to(returns.dtype)
        inside = self.spaced(returns.clamp(*self.bounds))
        below = torch.special.ndtr((edges - inside[:, None]) / (self.smoothing * self.width))
        mass: Tensor = below.diff(dim=-1) / (below[:, -1:] - below[:, :1])
        return mass

    def _places(self) -> Tensor:
        if self.spacing == "symlog" and self.width > MAX_SYMLOG_WIDTH:
            needed = math.ceil(self.width * (len(self.centers) - 1) / MAX_SYMLOG_WIDTH) + 1
            raise BuildError(
                f"{len(self.centers)} bins between {self.bounds[0]:g} and {self.bounds[1]:g} are "
                "too wide for smoothed targets.",
                fix=f"Use bins={needed} or more, or a smaller range.",
            )
        middles = self.middles()
        places: Tensor = torch.linalg.solve(self.targets(middles), middles)
        return places


def _require_bins(bins: int, low: float, high: float, spacing: str) -> None:
    options = get_args(Spacing)
    if spacing not in options:
        raise BuildError(f"spacing={spacing!r} is not one of {' and '.join(map(repr, options))}.")
    if bins < 2 or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BuildError(
            f"bins={bins} from low={low} to high={high} span nothing.",
            fix="Use at least two bins, and finite bounds with low < high.",
        )


# -- values in units of returns --------------------------------------------------------------------


class PopArtHead(ValueHeadWithLoss):
    """A value in units of the returns' running mean and deviation, trained by squared error.

    Van Hasselt et al. 2016, https://arxiv.org/abs/1602.07714: whenever the statistics move, the
    layer is rescaled so that no value does. The statistics are averages over batches that forget
    exponentially, and the first batch counts in full.

    Args:
        layer: the value layer (N, H) -> (N, 1) that it replaces, whose weights it takes over.
        rate: share of a new batch in the statistics.
        min_deviation: the smallest deviation that returns are divided by.

    Raises:
        BuildError: a rate that is not above 0 and at most 1, or a deviation that is not above 0.
    """

    weight: Tensor
    """() float64: the weights of all batches so far, which go to 1; 0 before the first."""
    mean: Tensor
    """() float64."""
    var: Tensor
    """() float64."""

    def __init__(self, layer: nn.Linear, *, rate: float, min_deviation: float) -> None:
        if not 0.0 < rate <= 1.0 or not min_deviation > 0.0:
            raise BuildError(
                f"rate={rate} should be above 0 and at most 1, and min_deviation={min_deviation} "
                "above 0."
            )
        super().__init__(_blank(layer, 1))
        with torch.no_grad():
            self.linear.weight.copy_(layer.weight)
            self.linear.bias.copy_(torch.zeros(()) if layer.bias is None else layer.bias)
        self.rate, self.min_deviation = float(rate), float(min_deviation)
        for name, number in (("weight", 0.0), ("mean", 0.0), ("var", 1.0)):
            buffer = torch.tensor(number, dtype=torch.float64, device=layer.weight.device)
            self.register_buffer(name, buffer)

    @property
    def deviation(self) -> Tensor:
        """The deviation that returns are divided by, () float64."""
        return self.var.sqrt().clamp(min=self.min_deviation)

    def values(self, outputs: Tensor) -> Tensor:
        """(N, 1) -> (N,): the outputs times the deviation, plus the mean."""
        return (outputs.float() * self.deviation.float() + self.mean.float()).squeeze(-1)

    def loss(self, outputs: Tensor, returns: Tensor) -> Tensor:
        """(N, 1), (N,) -> half the squared error (N,), in units of the deviation."""
        targets = (returns - self.mean.float()) / self.deviation.float()
        return 0.5 * (outputs.squeeze(-1) - targets).square()

    @torch.no_grad()
    def update_statistics(self, returns: Tensor) -> None:
        """Move the statistics by the returns (n,) of all processes, and rescale the layer."""
        moments = of_all_processes(moments_of(returns, ()))
        if not moments.count:
            return
        before, scale_before = self.mean.clone(), self.deviation.clone()
        self.weight.mul_(1.0 - self.rate).add_(self.rate)
        step = self.rate / self.weight
        mean = before + step * (moments.mean - before)
        spread = moments.m2 / moments.count + (moments.mean - mean).square()
        # The variance of the mixture of what was known and the batch, around their common mean.
        self.var.copy_((1.0 - step) * (self.var + (before - mean).square()) + step * spread)
        self.mean.copy_(mean)
        scale, layer = self.deviation, self.linear
        layer.bias.copy_((layer.bias.double() * scale_before + before - mean) / scale)
        layer.weight.copy_(layer.weight.double() * (scale_before / scale))
