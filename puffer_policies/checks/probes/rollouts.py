"""Runs a policy step by step and in one sequence, for the checks that compare the two.

`B` rows, `T` steps, `n` outputs a row: all numbers of the logits, and the value.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.subject import (
    STEPS,
    TOLERANCE,
    Subject,
    difference,
    numbers,
    seeded,
)

State = dict[str, Any]

FLAG = 3
"""The step at which probes begin an episode."""


def judged(subject: Subject, *, training: bool = False, seed: int = 1) -> nn.Module:
    """Return a copy of the policy with stirred weights, in eval mode unless `training`.

    Stirred, because a memory behind a gate that begins at zero would look unused, and a leak
    behind it harmless.
    """
    return stirred(duplicate(subject), seed=seed).train(training)


def duplicate(subject: Subject) -> nn.Module:
    """Return a copy of the policy, or another of the same seed where copies fail (P8)."""
    try:
        twin = copy.deepcopy(subject.policy)
    except Exception:
        return subject.fresh()
    # Scripted modules are copied into parameters that no optimiser takes.
    return twin if all(each.is_leaf for each in twin.parameters()) else subject.fresh()


def stirred(policy: nn.Module, *, seed: int = 1) -> nn.Module:
    """Add noise to every weight that is trained."""
    with seeded(seed), torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad and parameter.is_floating_point() and _is_made(parameter):
                scale = 0.02 + 0.1 * float(parameter.square().mean().sqrt())
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return policy


def _is_made(parameter: Tensor) -> bool:
    return not isinstance(parameter, nn.parameter.UninitializedParameter) and parameter.numel() > 0


def outputs(logits: Any, values: Tensor) -> Tensor:
    """Return (N, n): what decides, and the value. Values of a wrong size are left to S1."""
    found = numbers(logits)
    if values.numel() != len(found):
        return found
    return torch.cat([found, values.reshape(-1, 1).to(found.dtype)], 1)


def part(subject: Subject, observations: Any, index: Any) -> Any:
    """Return ``leaf[index]`` of every leaf of nested observations."""
    return subject.map(lambda leaf: leaf[index], observations)


def joined(subject: Subject, first: Any, second: Any, *, cut: int) -> Any:
    """Return observations (B, T, *obs): `first` before step `cut`, `second` from there on."""
    tails = iter(_leaves(subject, part(subject, second, (slice(None), slice(cut, None)))))
    return subject.map(lambda leaf: torch.cat([leaf[:, :cut], next(tails)], 1), first)


def _leaves(subject: Subject, observations: Any) -> list[Tensor]:
    found: list[Tensor] = []
    subject.map(found.append, observations)
    return found


def kept(state: State) -> State:
    """Return a copy of a state that later steps can't reach."""
    return {
        key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def picked(state: State, rows: Any) -> State:
    """Return the rows of a state."""
    return {
        key: value[rows] if isinstance(value, Tensor) else value for key, value in state.items()
    }


def step_through(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    *,
    state: State | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, list[State]]:
    """Run a step at a time -> outputs (B, T, n), the T + 1 states before, between and after."""
    batch, steps = _lead(subject, observations)
    states = [kept(subject.state(batch, policy) if state is None else state)]
    rows = []
    for t in range(steps):
        seen = part(subject, observations, (slice(None), t))
        start = None if starts is None else starts[:, t]
        logits, values, after = subject.step(seen, kept(states[-1]), starts=start, policy=policy)
        rows.append(outputs(logits, values))
        states.append(kept(after))
    return torch.stack(rows, 1), states


def in_sequence(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    *,
    state: State | None = None,
    starts: Tensor | None = None,
) -> Tensor:
    """Run ``forward`` once -> outputs (B, T, n)."""
    batch, steps = _lead(subject, observations)
    given = None if state is None else sequence_state(policy, kept(state))
    logits, values = subject.sequence(observations, given, starts=starts, policy=policy)
    found = outputs(logits, values)
    if len(found) != batch * steps:
        raise CheckFailed(
            f"one row of logits for each of {batch} x {steps} observations from forward",
            f"{len(found)} rows",
        )
    return found.reshape(batch, steps, -1)


def sequence_state(policy: nn.Module, state: State) -> State:
    """Return a stepping state as ``forward`` takes it: PufferLib's form has (1, B, H) there."""
    if callable(getattr(policy, "initial_state", None)):
        return state
    return {key: value.unsqueeze(0) for key, value in state.items()}


def warm_state(subject: Subject, policy: nn.Module, batch: int) -> State:
    """Return the state after a few steps: not that of a beginning."""
    seen = subject.observations(batch, steps=3, seed=77)
    return step_through(subject, policy, seen)[1][-1]


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Whether two results agree to `TOLERANCE`, scaled by their magnitude."""
    return difference(found, expected) <= TOLERANCE * _magnitude(expected)


def require_same(
    found: Tensor, expected: Tensor, promise: str, *, where: str, example: str = ""
) -> None:
    """Raise `CheckFailed` unless both agree; outputs (B, T, n) are told by their first bad step."""
    if is_same(found, expected):
        return
    gap = difference(found, expected)
    limit = TOLERANCE * _magnitude(expected)
    told = f"a difference of {gap:.2g} {where}"
    if found.ndim == 3 and found.shape == expected.shape:
        by_step = (found - expected).abs().amax((0, 2))
        bad = int((~(by_step <= limit)).nonzero()[0])
        told += f", first at step {bad} of {found.shape[1]}"
    raise CheckFailed(f"{promise}, to {limit:.1g}", told, example=example)


def _magnitude(values: Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return max(1.0, float(finite.abs().max())) if finite.numel() else 1.0


def _lead(subject: Subject, observations: Any) -> tuple[int, int]:
    first = _leaves(subject, observations)[0]
    return int(first.shape[0]), int(first.shape[1])


def two_pasts(subject: Subject, *, until: int = FLAG) -> tuple[object, object]:
    """Return two batches of sequences that differ before step `until` and are equal from there."""
    seen = subject.observations(steps=STEPS)
    return seen, joined(subject, subject.observations(steps=STEPS, seed=9), seen, cut=until)


def require_forgotten(one: Tensor, two: Tensor, path: str) -> None:
    """Raise `CheckFailed` unless steps after a start are equal for two pasts."""
    if is_same(one, two):
        return
    raise CheckFailed(
        f"the steps after a start to be the same whatever came before it, when {path}",
        f"a difference of {difference(one, two):.2g}: the last episode leaks into the next",
        example="# step with state['episode_start'] true: the outputs still depend on the past",
    )


def without_memory(subject: Subject) -> str:
    """Return why checks of memory do not apply, or ''."""
    try:
        return "" if subject.recurrent else "the policy has no memory"
    except Exception as error:
        # The check that this breaks says so: R6 for a state that can't be read, else S and B.
        return f"its memory can't be looked at: {type(error).__name__}: {error}"
