"""R1-R13 catch what they name, in every style, and find no fault with correct memories."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from good import CONTINUOUS, DICT, DISCRETE, IMAGE, SEVERAL, GoodLSTM, GoodMLP
from good_memories import Attention
from mutant import assert_passes, outcomes, subject_of
from mutants_recurrence import MUTANTS_RECURRENCE, GuidesWrapper
from torch import Tensor, nn

from puffer_policies.checks.model import CheckSkipped, Scope, Status
from puffer_policies.checks.promises import persistence
from puffer_policies.checks.promises.recurrence import CHECKS
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.mlp import Default

QUICK = (*CHECKS, *(check for check in persistence.CHECKS if check.scope is not Scope.POLICY))


class ResettingPufferForm(GuidesWrapper):
    """PufferLib's form, without initial_state, that honours episode starts all the same."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        if state is not None and state.get("episode_start") is not None:
            keep = ~state["episode_start"].unsqueeze(-1)
            state["lstm_h"], state["lstm_c"] = state["lstm_h"] * keep, state["lstm_c"] * keep
        return super().forward_eval(observations, state)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        starts = None if state is None else state.pop("episode_start", None)
        if starts is None:
            return super().forward(observations, state)
        outputs = []
        for t in range(observations.shape[1]):
            if state["lstm_h"] is not None:
                keep = ~starts[:, t].reshape(1, -1, 1)
                state["lstm_h"], state["lstm_c"] = state["lstm_h"] * keep, state["lstm_c"] * keep
            hidden: list[Tensor] = []
            hook = self.lstm.register_forward_hook(lambda *args, kept=hidden: kept.append(args[2]))
            super().forward(observations[:, t : t + 1], state)
            hook.remove()
            outputs.append(hidden[0][0][0])
            state["lstm_h"], state["lstm_c"] = hidden[0][1]
        logits, values = self.decode_actions(torch.stack(outputs, 1).flatten(0, 1))
        state["lstm_h"], state["lstm_c"] = state["lstm_h"].detach(), state["lstm_c"].detach()
        return logits, values.reshape(starts.shape)


def resetting_puffer_form(spaces: Spaces) -> nn.Module:
    return ResettingPufferForm(spaces, GoodMLP(spaces), 16, 16)


class LearnedStart(GoodLSTM):
    """The state before the first step is a parameter."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.start = nn.Parameter(torch.full((2, self.hidden_size), 0.3))

    def initial_state(self, batch_size: int, device: Any = None) -> dict[str, Tensor]:
        h, c = self.start.unsqueeze(1).expand(-1, batch_size, -1)
        return {"lstm_h": h, "lstm_c": c}

    def reset(self, h: Tensor, c: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        if start is None:
            return h, c
        rows = start.bool().unsqueeze(-1)
        return torch.where(rows, self.start[0], h), torch.where(rows, self.start[1], c)


class ZeroGate(GoodLSTM):
    """The memory's share begins at zero, as in ReZero."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.gate = nn.Parameter(torch.zeros(()))

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return super().decode_actions(hidden * self.gate)


def two_layers(spaces: Spaces) -> nn.Module:
    return LSTMWrapper(spaces, Default(spaces, hidden_size=16), num_layers=2)


# Memories see hidden vectors only, so each is tried on two of the spaces in every run.
SPACES = [DISCRETE, SEVERAL, CONTINUOUS, IMAGE, DICT]
CASES = [
    pytest.param(
        make,
        spaces,
        id=f"{make.__name__}-{spaces}",
        marks=[] if (2 * i + j) % len(SPACES) < 2 else pytest.mark.exhaustive,
    )
    for i, make in enumerate([Attention, LearnedStart, ZeroGate, two_layers])
    for j, spaces in enumerate(SPACES)
]


@pytest.mark.parametrize(("make", "spaces"), CASES)
def test_other_memories_pass(make: Any, spaces: Spaces) -> None:
    assert_passes(CHECKS, subject_of(make, spaces))


def test_pufferlibs_form_passes_where_it_resets() -> None:
    results = outcomes(CHECKS, subject_of(resetting_puffer_form))
    assert results.pop("R13")[0] is Status.SKIPPED  # it does not read what came before
    assert {status for status, _ in results.values()} == {Status.PASSED}, results


def test_a_policy_without_memory_is_told_so_but_searched_for_a_hidden_one() -> None:
    results = outcomes(CHECKS, subject_of(GoodMLP))
    assert results.pop("R6")[0] is Status.PASSED
    assert results.pop("R13")[0] is Status.SKIPPED
    assert set(results.values()) == {(Status.SKIPPED, "the policy has no memory")}


class TupleState(GoodLSTM):
    """PufferLib 4.0's form of a state."""

    def initial_state(self, batch_size: int, device: Any = None) -> Any:
        return tuple(super().initial_state(batch_size, device).values())


class CountingState(GoodLSTM):
    """A Python number among the tensors."""

    def initial_state(self, batch_size: int, device: Any = None) -> Any:
        return {**super().initial_state(batch_size, device), "step": 0}

    def read(self, state: Any, rows: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(rows, self.hidden_size)
        values = [None if state is None else state.get(key) for key in ("lstm_h", "lstm_c")]
        h, c = (zeros if each is None else each for each in values)
        return h, c


@pytest.mark.parametrize(("make", "offence"), [(TupleState, "tuple"), (CountingState, "step")])
def test_a_state_of_another_form_is_named_by_r6_alone(make: Any, offence: str) -> None:
    results = outcomes(CHECKS, subject_of(make))
    status, text = results.pop("R6")
    assert status is Status.FAILED
    assert offence in text
    assert Status.ERROR not in {status for status, _ in results.values()}
    assert Status.FAILED not in {status for status, _ in results.values()}


def test_a_failure_says_what_was_expected_and_where_it_differs() -> None:
    mutant = next(each for each in MUTANTS_RECURRENCE if each.code == "R2")
    _, text = outcomes(CHECKS, mutant.subject())["R2"]
    assert "episode_start" in text
    assert "first at step" in text


def test_checks_leave_the_shared_policy_and_the_generators_as_they_were() -> None:
    subject = subject_of(GoodLSTM)
    before = {key: value.clone() for key, value in subject.policy.state_dict().items()}
    generator = torch.get_rng_state()
    for check in CHECKS:
        with suppress(CheckSkipped):
            check.run(subject)
    assert torch.equal(torch.get_rng_state(), generator)
    assert subject.policy.training
    for key, value in subject.policy.state_dict().items():
        assert torch.equal(value, before[key])
