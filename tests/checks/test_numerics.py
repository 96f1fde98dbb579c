"""N1-N8 catch what they name, in every style, and find no fault with correct policies."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from good import CONTINUOUS, DISCRETE, IMAGE, GoodLSTM, GoodMLP, layer
from gymnasium import spaces as gym
from mutant import assert_passes, outcomes, subject_of
from mutants_numerics import (
    MUTANTS_NUMERICS,
    Around,
    CleansLogits,
    CleansObservations,
    DetachedEncoder,
    InitialisesAll,
    LeftOver,
    OpinionatedActor,
    OptimisticCritic,
)
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Status, by_code
from puffer_policies.checks.promises import actions, numerics
from puffer_policies.checks.promises.numerics import CHECKS
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.mlp import Default

BOTH = (*actions.CHECKS, *numerics.CHECKS)
BY_CODE = by_code(CHECKS)


def test_a_wrapper_that_changes_nothing_passes() -> None:
    assert outcomes(CHECKS, subject_of(Around))["N4"] == (Status.PASSED, "")


def test_our_wrapper_around_a_foreign_policy_and_a_foreign_one_around_ours() -> None:
    assert_passes(CHECKS, subject_of(lambda s: LSTMWrapper(s, GoodMLP(s)), name="foreign inside"))

    class Foreign(Around):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.policy = Default(env, hidden_size=16)

    assert_passes(CHECKS, subject_of(Foreign))


def test_init_of_a_third_party_is_judged_only_where_it_declares_it() -> None:
    own = {"first_entropy": 0.0}
    assert outcomes(CHECKS, subject_of(OpinionatedActor, declared=own))["N4"][0] is Status.SKIPPED
    gain = {**own, "init": {"actor_gain": 0.01}}
    assert outcomes(CHECKS, subject_of(OpinionatedActor, declared=gain))["N4"][0] is Status.FAILED
    true = {**own, "init": {"actor_gain": 2**0.5, "critic_gain": 1.0}}
    assert outcomes(CHECKS, subject_of(OpinionatedActor, declared=true))["N4"][0] is Status.PASSED


def test_a_wrapper_may_declare_that_it_initialises() -> None:
    declared = {"initialises_wrapped": "spectral norm", "first_entropy": 0.0}
    assert_passes(CHECKS, subject_of(InitialisesAll, declared=declared))


@pytest.mark.parametrize(
    ("cls", "declared"),
    [(OpinionatedActor, {"first_entropy": 0.5}), (OptimisticCritic, {"first_value": 30})],
)
def test_a_first_policy_with_opinions_may_be_declared(cls: type, declared: dict[str, Any]) -> None:
    assert_passes(CHECKS, subject_of(cls, declared=declared))


def test_frozen_parameters_are_declared_by_name_or_by_torch() -> None:
    assert_passes(CHECKS, subject_of(LeftOver, declared={"frozen": ["old_head.*"]}))
    assert_passes(CHECKS, subject_of(DetachedEncoder, declared={"frozen": ["encoder.*"]}))

    class Frozen(DetachedEncoder):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.encoder.requires_grad_(False)

    assert_passes(CHECKS, subject_of(Frozen, declared={"frozen": ["encoder.*"]}))

    class Adapted(Frozen):
        """Under a layer that learns, torch's word is enough."""

        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.adapter = layer(nn.Linear(16, 16))

        def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
            return self.adapter(super().encode_observations(observations, state))

    assert_passes(CHECKS, subject_of(Adapted))


def test_a_branch_behind_a_gate_that_starts_at_nought_is_no_dead_layer() -> None:
    """ReZero, https://arxiv.org/abs/2003.04887, and LoRA start so."""

    class Gated(GoodMLP):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.branch = layer(nn.Linear(16, 16))
            self.gate = nn.Parameter(torch.zeros(()))

        def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
            hidden = super().encode_observations(observations, state)
            return hidden + self.gate * self.branch(hidden)

    assert_passes(CHECKS, subject_of(Gated))


def test_a_learned_initial_state_learns() -> None:
    class LearnedStart(GoodLSTM):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.first = nn.Parameter(torch.zeros(2, 16))

        def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
            h, c = (each.expand(batch_size, 16).clone() for each in self.first)
            return {"lstm_h": h, "lstm_c": c}

        def reset(self, h: Tensor, c: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
            if start is None:
                return h, c
            rows = start.bool().unsqueeze(-1)
            return torch.where(rows, self.first[0], h), torch.where(rows, self.first[1], c)

    assert_passes(CHECKS, subject_of(LearnedStart))


@pytest.mark.parametrize("bounded", [torch.tanh, torch.nn.functional.hardtanh])
def test_saturating_on_infinity_is_no_hiding(bounded: Any) -> None:
    class Saturated(GoodMLP):
        def features(self, observations: Any) -> Tensor:
            return bounded(super().features(observations))

    assert outcomes(CHECKS, subject_of(Saturated))["N1"] == (Status.PASSED, "")


def test_raising_on_a_nan_is_visible_enough() -> None:
    class Strict(GoodMLP):
        def features(self, observations: Any) -> Tensor:
            if not torch.isfinite(observations).all():
                raise FloatingPointError("observations hold NaN")
            return super().features(observations)

    assert outcomes(CHECKS, subject_of(Strict))["N1"] == (Status.PASSED, "")


def test_a_nan_that_nothing_depends_on_is_no_matter() -> None:
    class Unused(GoodMLP):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.register_parameter("spare", nn.Parameter(torch.zeros(3)))

        def features(self, observations: Any) -> Tensor:
            return super().features(observations) * torch.tensor([1.0, 1.0, 1.0, 1.0])

    assert outcomes(CHECKS, subject_of(Unused))["N1"] == (Status.PASSED, "")


def test_the_message_names_the_observation_or_the_weight() -> None:
    with pytest.raises(CheckFailed, match=r"observations\[0\]"):
        BY_CODE["N1"].run(subject_of(CleansObservations))
    integers = Spaces(gym.Discrete(3), DISCRETE.action)
    with pytest.raises(CheckFailed, match=r"the parameter encoder\.weight"):
        BY_CODE["N1"].run(subject_of(CleansLogits, integers))


@pytest.mark.parametrize(
    "scale",
    [
        lambda raw: torch.exp(-1.5 + 3.5 * torch.tanh(raw)),  # SAC
        lambda raw: nn.functional.softplus(raw) + 1e-3,
        lambda raw: raw.clamp(-5, 2).exp(),
    ],
    ids=["tanh", "softplus", "clamp"],
)
def test_every_usual_bound_of_a_scale_passes(scale: Any) -> None:
    class Bounded(GoodMLP):
        def logits(self, hidden: Tensor) -> Any:
            loc = self.actor.linear(hidden)
            return Normal(loc, scale(self.actor.log_std).expand_as(loc), validate_args=False)

    assert outcomes(CHECKS, subject_of(Bounded, CONTINUOUS))["N3"] == (Status.PASSED, "")


def test_a_fixed_scale_is_skipped_with_the_reason() -> None:
    class Fixed(GoodMLP):
        def logits(self, hidden: Tensor) -> Any:
            loc = self.actor.linear(hidden)
            return Normal(loc, torch.full_like(loc, 0.5), validate_args=False)

    status, reason = outcomes(CHECKS, subject_of(Fixed, CONTINUOUS))["N3"]
    assert (status, reason) == (Status.SKIPPED, "no bias or log_std moves its scale alone")


def test_a_policy_that_casts_to_float32_itself_is_not_compared_with_float64() -> None:
    class Casting(GoodMLP):
        def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
            return torch.tanh(self.encoder(observations.float()))

    status, reason = outcomes(CHECKS, subject_of(Casting))["N8"]
    assert status is Status.SKIPPED
    assert "float64" in reason


def test_extremes_are_those_of_the_space() -> None:
    class Logarithm(GoodMLP):
        """Legitimate within the bounds, nowhere else."""

        def features(self, observations: Any) -> Tensor:
            return super().features(observations).log()

    positive = Spaces(gym.Box(0.1, 5.0, (4,), np.float32), DISCRETE.action)
    declared = {"first_value": 100, "first_entropy": 0.0}
    results = outcomes(CHECKS, subject_of(Logarithm, positive, declared=declared))
    assert results["N2"] == (Status.PASSED, "")


def test_checks_leave_policy_and_generator_alone() -> None:
    subject = subject_of(GoodLSTM, IMAGE)
    before = {key: value.clone() for key, value in subject.policy.state_dict().items()}
    generator = torch.get_rng_state()
    for check in CHECKS:
        with suppress(CheckSkipped):
            check.run(subject)
    assert all(torch.equal(value, before[k]) for k, value in subject.policy.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.policy.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert subject.policy.training


def test_a_failing_example_runs_when_pasted(request: pytest.FixtureRequest) -> None:
    """After the lines that build `policy` for `spaces`, which a report puts before it."""
    one_of_each = {mutant.code: mutant for mutant in MUTANTS_NUMERICS}.values()
    every = request.config.getoption("--exhaustive")
    for mutant in MUTANTS_NUMERICS if every else one_of_each:
        subject = mutant.subject()
        with pytest.raises(CheckFailed) as failure:
            BY_CODE[mutant.code].run(subject)
        lines = f"import torch\n{failure.value.example}".replace("print(", "(")
        exec(lines, {"policy": subject.fresh(), "spaces": mutant.spaces})


def test_vectors_of_integers_have_no_nan_to_poison() -> None:
    spaces = Spaces(gym.MultiDiscrete([3, 2]), DISCRETE.action)
    assert outcomes(CHECKS, subject_of(GoodMLP, spaces))["N1"] == (Status.PASSED, "")
