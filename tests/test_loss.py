"""The loss with its gradient written down, against the same loss under autograd."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal

from puffer_policies.config.schema import TrainConfig
from puffer_policies.nn.distributions import Gaussian, SquashedNormal, distribution
from puffer_policies.train.batch import Transitions
from puffer_policies.train.loss import Prediction, fused_loss, piece_loss, prepared

ROWS = 300
"""More than the rows from which few options are normalized as columns."""

CONFIG = TrainConfig(ent_coef=0.03, vf_coef=0.7, clip_coef=0.2)


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def one_choice(rows, dtype):
    return draw(rows, 3, dtype=dtype), lambda x: x


def many_options(rows, dtype):
    return draw(rows, 18, dtype=dtype), lambda x: x


def several_choices(rows, dtype):
    return draw(rows, 9, dtype=dtype), lambda x: x.split_with_sizes([2, 4, 3], -1)


def equal_choices(rows, dtype):
    return draw(rows, 6, dtype=dtype), lambda x: list(x.split(2, -1))


def masked_choice(rows, dtype):
    allowed = draw(rows, 4, seed=7) > -0.5
    allowed[:, 0] = True
    return draw(rows, 4, dtype=dtype), lambda x: x.masked_fill(~allowed, -math.inf)


def masked_choices(rows, dtype):
    allowed = draw(rows, 5, seed=8) > -0.5
    allowed[:, [0, 2]] = True

    def logits(x):
        return x.masked_fill(~allowed, -math.inf).split_with_sizes([2, 3], -1)

    return draw(rows, 5, dtype=dtype), logits


def numbers(rows, dtype):
    def logits(x):
        loc, log_std = x.reshape(rows, 2, 3).unbind(1)
        return Normal(loc, log_std.exp(), validate_args=False)

    return draw(rows, 6, dtype=dtype), logits


def one_number(rows, dtype):
    """Without a dimension of its own, and with one deviation for all rows."""

    def logits(x):
        return Normal(x[:, 0], x[0, 1].exp().expand(rows), validate_args=False)

    return draw(rows, 2, dtype=dtype), logits


KINDS = [
    one_choice,
    many_options,
    several_choices,
    equal_choices,
    masked_choice,
    masked_choices,
    numbers,
    one_number,
]


def problem(kind, rows=ROWS, dtype=torch.float32, weights=None):
    """Outputs of a policy (rows, n) and (rows,), how they are read, actions, and the old numbers.

    The old policy is near enough that ratios lie on both sides of both clips.
    """
    outputs, logits = kind(rows, dtype)
    with torch.no_grad():
        current = distribution(logits(outputs))
        actions = current.sample(torch.Generator().manual_seed(1))
        log_probs = current.log_prob(actions) + 0.3 * draw(rows, seed=2, dtype=dtype)
    columns = [draw(rows, seed=seed, dtype=dtype) for seed in (3, 4, 5, 6)]
    advantages, returns, old_values, values = columns
    weights = torch.ones(rows, dtype=dtype) if weights is None else weights.to(dtype)
    old = Transitions(log_probs.to(dtype), advantages, returns, old_values, weights)
    return outputs, logits, values, actions, old


def plain(outputs, logits, values, actions, old, config):
    current = distribution(logits(outputs))
    log_probs, entropy = current.log_prob(actions), current.entropy()
    new = Prediction(log_probs.to(old.returns), entropy.to(old.returns), values.to(old.returns))
    loss = piece_loss(old, new, config)
    return loss.parts, torch.autograd.grad(loss.total, [outputs, values])


def fused(outputs, logits, values, actions, old, config):
    loss = fused_loss(old, logits(outputs), values, actions, config, clip_coef=config.clip_coef)
    outputs.grad = values.grad = None
    loss.backward()
    return loss.parts, (outputs.grad, values.grad)


def assert_same(kind, config, *, weights=None):
    outputs, logits, values, actions, old = problem(kind, weights=weights)
    old = prepared(old, config)
    outputs.requires_grad_(), values.requires_grad_()
    expected_parts, expected = plain(outputs, logits, values, actions, old, config)
    parts, gradients = fused(outputs, logits, values, actions, old, config)
    assert 0.1 < parts[-1] < 0.9  # some ratios are clipped, and some are not
    torch.testing.assert_close(parts, expected_parts, atol=1e-6, rtol=1e-6)
    for found, each in zip(gradients, expected, strict=True):
        assert each.abs().max() > 1e-4
        torch.testing.assert_close(found, each, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_vloss", [False, True])
def test_the_loss_and_its_gradient_are_those_of_autograd(kind, clip_vloss):
    assert_same(kind, dataclasses.replace(CONFIG, clip_vloss=clip_vloss, vf_clip_coef=0.5))


@pytest.mark.parametrize("kind", [one_choice, several_choices, numbers])
def test_ghosts_and_priorities_count_as_under_autograd(kind):
    weights = draw(ROWS, seed=9).abs()
    weights[::3] = 0
    assert_same(kind, CONFIG, weights=weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_vloss", [False, True])
def test_the_gradient_is_that_of_finite_differences(kind, clip_vloss):
    config = dataclasses.replace(CONFIG, clip_vloss=clip_vloss, vf_clip_coef=0.5)
    outputs, logits, values, actions, old = problem(kind, rows=7, dtype=torch.float64)
    old = prepared(old, config)

    class Total(torch.autograd.Function):
        @staticmethod
        def forward(ctx, outputs, values):
            with torch.enable_grad():
                inputs = [each.detach().requires_grad_() for each in (outputs, values)]
                parts, ctx.gradients = fused(inputs[0], logits, inputs[1], actions, old, config)
            return parts[0].clone()

        @staticmethod
        def backward(ctx, grad):
            return tuple(each * grad for each in ctx.gradients)

    assert torch.autograd.gradcheck(
        Total.apply, (outputs.requires_grad_(), values.requires_grad_())
    )


def test_logits_in_half_precision_get_the_gradient_of_autograd():
    outputs, logits, values, actions, old = problem(one_choice)
    old, halves = prepared(old, CONFIG), outputs.bfloat16().requires_grad_()
    values.requires_grad_()
    _, (expected, _) = plain(halves, logits, values, actions, old, CONFIG)
    _, (found, _) = fused(halves, logits, values, actions, old, CONFIG)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_in_double_precision_gets_the_gradient_of_autograd(kind):
    outputs, logits, values, actions, old = problem(kind)
    old, doubles = prepared(old, CONFIG), outputs.double().requires_grad_()
    values = values.double().requires_grad_()
    _, expected = plain(doubles, logits, values, actions, old, CONFIG)
    _, found = fused(doubles, logits, values, actions, old, CONFIG)
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype is torch.float64
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_what_is_not_trained_gets_no_gradient():
    outputs, logits, values, actions, old = problem(numbers)
    values.requires_grad_()
    _, (by_outputs, by_values) = fused(outputs, logits, values, actions, old, CONFIG)
    assert by_outputs is None
    assert by_values.any()


def test_a_ghost_may_have_any_density():
    scale = torch.full((4, 1), 1e-3)
    loc, values = torch.zeros(4, 1, requires_grad=True), torch.zeros(4, requires_grad=True)
    actions = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    log_probs = Gaussian(Normal(loc, scale)).log_prob(actions).detach()
    # The third action has become likely, beyond float32: it was scored at the other end.
    old = Transitions(
        log_probs=log_probs - torch.tensor([0.0, 0.0, 1e6, 0.0]),
        advantages=torch.tensor([1.0, -1.0, 1.0, 2.0]),
        returns=torch.ones(4),
        values=torch.zeros(4),
        weights=torch.tensor([1.0, 1.0, 0.0, 1.0]),
    )
    old, logits = prepared(old, CONFIG), Normal(loc, scale)
    fused = fused_loss(old, logits, values, actions, CONFIG, clip_coef=0.2)
    current = distribution(logits)
    new = Prediction(current.log_prob(actions), current.entropy(), values)
    plain = piece_loss(old, new, CONFIG)
    assert fused.parts.isfinite().all()
    torch.testing.assert_close(fused.parts, plain.parts)
    plain.total.backward()
    gradients = loc.grad.clone(), values.grad.clone()
    loc.grad = values.grad = None
    fused.backward()
    assert gradients[0].isfinite().all()
    torch.testing.assert_close((loc.grad, values.grad), gradients)


def test_broken_logits_stay_visible():
    outputs, logits, values, actions, old = problem(one_choice)
    outputs[5] = math.nan
    outputs.requires_grad_(), values.requires_grad_()
    parts, _ = fused(outputs, logits, values, actions, old, CONFIG)
    assert parts[0].isnan()


class OwnNormal(Normal):
    """A Normal of a plug-in, with a distribution that only it knows."""


class OwnGaussian(Gaussian):
    """What a plug-in registers for it."""


distribution.register(OwnNormal, OwnGaussian)


def squashed(x):
    ones = torch.ones(3)
    return SquashedNormal(x[:, :3], x[:, 3:].exp(), -ones, ones)


@pytest.mark.parametrize(
    "logits",
    [
        squashed,
        lambda x: OwnNormal(x[:, :3], x[:, 3:].exp(), validate_args=False),
        lambda x: {"a": x[:, :3], "b": x[:, 3:]},
        lambda x: (x[:, :3], Normal(x[:, 3:5], x[:, 4:].exp(), validate_args=False)),
    ],
)
def test_there_is_no_formula_for_other_distributions(logits):
    outputs = draw(ROWS, 6)
    actions = distribution(logits(outputs)).sample(torch.Generator().manual_seed(1))
    old = problem(one_choice)[-1]
    assert fused_loss(old, logits(outputs), old.values, actions, CONFIG, clip_coef=0.2) is None
