"""Distributions agree with torch.distributions, and never draw what is forbidden."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as reference

from puffer_policies.errors import ContractError
from puffer_policies.nn.distributions import (
    FEW_OPTIONS,
    MANY_ROWS,
    Categorical,
    SquashedNormal,
    distribution,
    sample_logits,
    sample_with_log_prob,
)

INF = math.inf
WIDTHS = [2, FEW_OPTIONS, FEW_OPTIONS + 1, 40]


def normal(*shape: int) -> reference.Normal:
    return reference.Normal(torch.randn(shape), torch.rand(shape) + 0.1)


@pytest.mark.parametrize("rows", [9, MANY_ROWS])
@pytest.mark.parametrize("options", WIDTHS)
def test_one_choice_agrees_with_torch(options: int, rows: int) -> None:
    logits = torch.randn(rows, options)
    ours, theirs = distribution(logits), reference.Categorical(logits=logits)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), theirs.mode)


@pytest.mark.parametrize("widths", [(3, 3), (2, 5, 4), (6,), (2,) * 7])
@pytest.mark.parametrize("kind", [tuple, list])
def test_several_choices_agree_with_torch(widths: tuple[int, ...], kind: Any) -> None:
    logits = kind(torch.randn(9, width) for width in widths)
    ours, theirs = distribution(logits), [reference.Categorical(logits=each) for each in logits]
    action = torch.stack([each.sample() for each in theirs], 1)
    columns = list(zip(theirs, action.unbind(1), strict=True))
    torch.testing.assert_close(ours.log_prob(action), sum(d.log_prob(a) for d, a in columns))
    torch.testing.assert_close(ours.entropy(), sum(each.entropy() for each in theirs))
    assert torch.equal(ours.mode(), torch.stack([each.mode for each in theirs], 1))
    assert ours.sample().shape == (9, len(widths))


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 3), (9, 2, 3)])
def test_real_numbers_agree_with_torch(shape: tuple[int, ...]) -> None:
    logits = normal(*shape)
    ours, theirs = distribution(logits), reference.Independent(logits, len(shape) - 1)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.loc)
    assert ours.sample().shape == shape


@pytest.mark.parametrize("options", WIDTHS)
def test_frequencies_of_samples_are_the_probabilities(options: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(options, generator=generator)
    draws = distribution(logits.expand(100_000, -1)).sample(generator)
    found = torch.bincount(draws, minlength=options) / len(draws)
    torch.testing.assert_close(found, logits.softmax(-1), atol=8e-3, rtol=0)


def test_moments_of_real_samples_are_those_of_the_normal() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = reference.Normal(torch.full((100_000,), 2.0), torch.full((100_000,), 0.5))
    draws = distribution(logits).sample(generator)
    assert draws.mean().item() == pytest.approx(2.0, abs=0.01)
    assert draws.std().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("options", WIDTHS)
@pytest.mark.parametrize("forbidden", [0, -1, "all but one"])
def test_a_forbidden_option_is_never_drawn(options: int, forbidden: int | str) -> None:
    logits = torch.randn(options)
    allowed = torch.ones(options, dtype=torch.bool)
    if forbidden == "all but one":
        allowed[:] = False
        allowed[options // 2] = True
    else:
        allowed[int(forbidden)] = False
    logits = logits.masked_fill(~allowed, -INF)
    draws = distribution(logits.expand(100_000, -1)).sample()
    assert allowed[draws].all()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
@pytest.mark.parametrize("options", WIDTHS)
def test_the_ends_of_the_uniform_draw_possible_options(
    options: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
    logits = torch.randn(500, options).masked_fill(torch.eye(options)[0].bool(), -INF)
    logits[:, -1] = -INF if options > 2 else 0.0
    draws = distribution(logits).sample()
    assert logits.gather(1, draws[:, None]).isfinite().all()


def test_entropy_ignores_forbidden_options_in_value_and_gradient() -> None:
    logits = torch.tensor([[0.0, 1.0, -INF], [0.0, -INF, -INF]], requires_grad=True)
    dist = distribution(logits)
    expected = reference.Categorical(logits=torch.tensor([0.0, 1.0])).entropy()
    torch.testing.assert_close(dist.entropy(), torch.stack([expected, torch.tensor(0.0)]))
    (dist.entropy().sum() + dist.log_prob(torch.tensor([1, 0])).sum()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_unequal_choices_have_a_finite_gradient() -> None:
    logits = tuple(torch.randn(4, n, requires_grad=True) for n in (2, 5))
    action, log_prob, entropy = sample_logits(logits)
    (log_prob.sum() + entropy.sum()).backward()
    assert action.shape == (4, 2)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in logits)


@pytest.mark.parametrize("options", WIDTHS)
def test_nan_stays_visible_and_draws_an_index_in_range(options: int) -> None:
    logits = torch.zeros(3, options)
    logits[1, 1] = math.nan
    action, log_prob, entropy = sample_logits(logits)
    assert log_prob.isnan().tolist() == entropy.isnan().tolist() == [False, True, False]
    assert ((action >= 0) & (action < options)).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    _, log_prob, entropy = sample_logits(logits)
    (log_prob + entropy).sum().backward()
    assert log_prob.isfinite().all()
    assert entropy.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("logits", [torch.zeros(4, 3), (torch.zeros(4, 2),) * 2, normal(4, 2)])
def test_a_generator_decides_the_samples(logits: Any) -> None:
    first = distribution(logits).sample(torch.Generator().manual_seed(5))
    again = distribution(logits).sample(torch.Generator().manual_seed(5))
    assert torch.equal(first, again)


class Greedy(Categorical):
    """A choice of the likeliest option, by a method of a subclass."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mode()


class Preferences(Tensor):
    """Logits of a type of their own."""


SCORED: dict[str, Any] = {
    "one row": torch.randn(1, 4),
    "few options": torch.randn(9, FEW_OPTIONS),
    "few options of many rows": torch.randn(MANY_ROWS, FEW_OPTIONS),
    "many options": torch.randn(MANY_ROWS, 40),
    "masked": torch.randn(50, 30).masked_fill(torch.rand(50, 30) < 0.7, -INF),
    "half precision": torch.randn(50, 18).bfloat16(),
    "double precision": torch.randn(50, 4).double(),
    "NaN": torch.full((3, 4), math.nan),
    "no rows": torch.zeros(0, 4),
    "several choices": (torch.randn(9, 3), torch.randn(9, 5)),
    "real numbers": normal(9, 3),
    "bounded numbers": SquashedNormal(
        torch.randn(9, 2), torch.rand(9, 2) + 0.1, -torch.ones(2), torch.ones(2)
    ),
    "parts": {"turn": torch.randn(9, 3), "push": normal(9, 2), "keys": (torch.randn(9, 2),)},
}


@pytest.mark.parametrize("name", SCORED)
def test_a_draw_has_the_score_that_the_distribution_gives_it(name: str) -> None:
    logits, generator = SCORED[name], torch.Generator()
    dist = distribution(logits)
    sample = dist.sample(generator.manual_seed(5))
    action, log_prob = sample_with_log_prob(logits, generator.manual_seed(5))
    torch.testing.assert_close(action, sample, rtol=0, atol=0)
    expected = dist.log_prob(sample)
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=0, equal_nan=True)


def test_logits_of_a_type_of_their_own_are_drawn_by_its_distribution() -> None:
    distribution.register(Preferences, Greedy)
    logits = torch.randn(500, 4)
    action, _ = sample_with_log_prob(logits.as_subclass(Preferences))
    assert torch.equal(action.as_subclass(Tensor), logits.argmax(-1))


def test_a_scored_draw_compiles_without_a_break() -> None:
    torch.compiler.reset()
    draw = torch.compile(sample_with_log_prob, fullgraph=True, backend="eager")
    logits = torch.randn(9, 4)
    action, log_prob = draw(logits)
    torch.testing.assert_close(log_prob, distribution(logits).log_prob(action))


@pytest.mark.parametrize(
    ("logits", "dtype"),
    [(torch.zeros(4, 3), torch.int64), ((torch.zeros(4, 2),), torch.int64), (normal(4, 2), None)],
)
def test_samples_carry_no_gradient(logits: Any, dtype: torch.dtype | None) -> None:
    leaves = logits if isinstance(logits, tuple) else [getattr(logits, "loc", logits)]
    for leaf in leaves:
        leaf.requires_grad_()
    sample = distribution(logits).sample()
    assert not sample.requires_grad
    assert sample.dtype == (dtype or torch.float32)


def test_half_precision_logits_are_normalized_in_float32() -> None:
    _, log_prob, entropy = sample_logits(torch.randn(3, 50).bfloat16())
    assert log_prob.dtype == entropy.dtype == torch.float32


@pytest.mark.parametrize("scale", [torch.bfloat16, torch.float32])
def test_a_half_precision_mean_is_sampled_and_measured_in_float32(scale: torch.dtype) -> None:
    loc = torch.randn(3, 2).bfloat16()
    logits = reference.Normal(loc, torch.ones(3, 2).to(scale), validate_args=False)
    action, log_prob, entropy = sample_logits(logits)
    assert action.dtype == log_prob.dtype == entropy.dtype == torch.float32
    exact = reference.Normal(loc.float(), 1.0).log_prob(action).sum(1)
    torch.testing.assert_close(log_prob, exact)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.float32])
def test_actions_of_a_buffer_are_read(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.randn(4, 3)
    action = torch.tensor([0, 1, 2, 1])
    expected = distribution(logits).log_prob(action)
    assert torch.equal(distribution(logits).log_prob(action.to(dtype).reshape(shape)), expected)


def test_too_few_actions_are_refused() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        distribution(torch.zeros(4, 3)).log_prob(torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("logits", [torch.randn(4, 3), (torch.randn(4, 2),) * 2, normal(4, 2)])
def test_sample_logits_returns_what_the_distribution_says(logits: Any) -> None:
    action, log_prob, entropy = sample_logits(logits)
    assert log_prob.shape == entropy.shape == (4,)
    again: Tensor = sample_logits(logits, action)[1]
    assert torch.equal(log_prob, again)


def test_logits_of_another_type_say_how_to_register() -> None:
    with pytest.raises(ContractError, match=r"distribution\.register"):
        distribution("logits")


def test_the_race_for_parallel_devices_draws_the_same_distribution() -> None:
    from puffer_policies.nn.distributions import _race

    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    draws = _race(probs.expand(100_000, -1), torch.Generator().manual_seed(1)).squeeze(-1)
    found = torch.bincount(draws, minlength=4) / len(draws)
    assert found[1] == 0
    torch.testing.assert_close(found, probs, atol=8e-3, rtol=0)
