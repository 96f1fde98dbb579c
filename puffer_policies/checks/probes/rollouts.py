"""Run a policy step by step and in one sequence, and cut observations and states to size.

`B` rows, `T` steps, `n` numbers a row (see `outputs.numbers`). All runs read copies of what they
are given, so that a policy that writes into its inputs (S7) spoils no other check.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckSkipped
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.subject import STEPS, Subject
from puffer_policies.spaces.nested import leaves, map_nested

State = dict[str, Any]

FLAG = 3
"""The step at which probes begin an episode: in the middle, with steps before and after it."""


# -- runs ------------------------------------------------------------------------------------------


def each_step(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    *,
    state: State | None = None,
    starts: Tensor | None = None,
    mask: Tensor | None = None,
) -> Iterator[tuple[Any, Tensor, State]]:
    """Step through (B, T, *obs) -> logits, values and the state after it, of each step.

    Args:
        subject: what is checked.
        policy: a copy of its policy.
        observations: a batch of sequences.
        state: the state before the first step; that of a new episode if None.
        starts: bool (B, T), where episodes start.
        mask: bool (B, T, A), the allowed options.
    """
    batch, steps = lead_of(observations)
    state = subject.state(batch, policy) if state is None else state
    for t in range(steps):
        logits, values, state = subject.step(
            map_nested(torch.clone, select(observations, (slice(None), t))),
            copy_state(state),
            starts=None if starts is None else starts[:, t].clone(),
            mask=None if mask is None else mask[:, t],
            policy=policy,
        )
        yield logits, values, copy_state(state)


def step_through(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    *,
    state: State | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, list[State]]:
    """Step through (B, T, *obs) -> outputs (B, T, n), the T + 1 states before and after steps."""
    batch, _ = lead_of(observations)
    states = [copy_state(subject.state(batch, policy) if state is None else state)]
    rows = []
    for logits, values, after in each_step(
        subject, policy, observations, state=states[0], starts=starts
    ):
        rows.append(numbers(subject, logits, values, batch))
        states.append(after)
    return torch.stack(rows, 1), states


def one_step(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Run one step on (B, *obs) from the initial state -> outputs (B, n)."""
    outputs, _ = step_through(subject, policy, map_nested(lambda x: x.unsqueeze(1), observations))
    return outputs[:, 0]


def in_sequence(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    *,
    state: State | None = None,
    starts: Tensor | None = None,
    grad: bool = False,
) -> Tensor:
    """Run ``forward`` once on (B, T, *obs) -> outputs (B, T, n); with `grad` as an update does."""
    batch, steps = lead_of(observations)
    logits, values = subject.sequence(
        map_nested(torch.clone, observations),
        None if state is None else sequence_state(policy, copy_state(state)),
        starts=starts,
        policy=policy,
        grad=grad,
    )
    return numbers(subject, logits, values, batch * steps).reshape(batch, steps, -1)


def run_both_ways(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Return outputs (2, B, T, n) of steps and of the sequence, with episodes starting inside."""
    batch, steps = lead_of(observations)
    starts = subject.starts(batch, steps=steps, at=[(0, 0), (1, steps // 2), (3, steps - 1)])
    by_step, _ = step_through(subject, policy, observations, starts=starts)
    return torch.stack([by_step, in_sequence(subject, policy, observations, starts=starts)])


def update_statistics(policy: nn.Module, observations: Any) -> None:
    """Let a policy that keeps statistics see observations (N, *obs), as trainers do."""
    update = getattr(policy, "update_statistics", None)
    if callable(update):
        with torch.no_grad():
            update(map_nested(torch.clone, observations))


# -- observations ----------------------------------------------------------------------------------


def lead_of(observations: Any) -> tuple[int, int]:
    """Return B and T of observations (B, T, *obs)."""
    batch, steps = next(leaves(observations)).shape[:2]
    return int(batch), int(steps)


def select(observations: Any, index: Any) -> Any:
    """Return ``leaf[index]`` of every leaf of nested observations."""
    return map_nested(lambda leaf: leaf[index], observations)


def from_step(observations: Any, step: int) -> Any:
    """Return observations (B, T - step, *obs): those from a step on."""
    return select(observations, (slice(None), slice(step, None)))


def join(first: Any, second: Any, *, cut: int) -> Any:
    """Return observations (B, T, *obs): `first` before step `cut`, `second` from there on."""
    return map_nested(lambda a, b: torch.cat([a[:, :cut], b[:, cut:]], 1), first, second)


def two_pasts(subject: Subject, *, until: int = FLAG) -> tuple[Any, Any]:
    """Return two batches of sequences that differ before step `until` and are equal from there."""
    observations = subject.observations(steps=STEPS)
    return observations, join(subject.observations(steps=STEPS, seed=9), observations, cut=until)


def replace_at(subject: Subject, observations: Any, index: tuple[int, ...]) -> Any:
    """Return `observations` with another observation at `index`, a row or a row and a step.

    Raises:
        CheckSkipped: the space seems to hold only one.
    """
    lead = tuple(next(leaves(observations)).shape[: len(index)])
    steps = lead[1] if len(lead) == 2 else None

    def put(leaf: Tensor, other: Tensor) -> Tensor:
        changed = leaf.clone()
        changed[index] = other[index]
        return changed

    for seed in range(1, 6):  # a space of few members may give the same one again
        others = subject.observations(lead[0], steps=steps, seed=seed)
        changed = map_nested(put, observations, others)
        if differs(changed, observations):
            return changed
    raise CheckSkipped("its observation space holds one observation only")


def differs(first: Any, second: Any) -> bool:
    """Whether two nested observations differ anywhere."""
    return any(not torch.equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))


def to_double(observations: Any) -> Any:
    """Return observations whose floating-point leaves are float64."""
    return map_nested(
        lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, observations
    )


# -- states ----------------------------------------------------------------------------------------


def copy_state(state: State) -> State:
    """Return a copy of a state that later steps can't reach."""
    return {
        key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def state_rows(state: State, rows: Any) -> State:
    """Return some rows of a state."""
    return {
        key: value[rows] if isinstance(value, Tensor) else value for key, value in state.items()
    }


def sequence_state(policy: nn.Module, state: State) -> State:
    """Return a stepping state as ``forward`` takes it: PufferLib's form has (1, B, H) there."""
    if callable(getattr(policy, "initial_state", None)):
        return state
    return {key: value.unsqueeze(0) for key, value in state.items()}


def warm_state(subject: Subject, policy: nn.Module, batch: int) -> State:
    """Return the state after a few steps, which is not that of a beginning."""
    observations = subject.observations(batch, steps=3, seed=77)
    return step_through(subject, policy, observations)[1][-1]


def needs_memory(subject: Subject) -> str:
    """Return why a check of memory does not apply, or an empty string."""
    try:
        return "" if subject.recurrent else "the policy has no memory"
    except Exception as error:
        # The check whose promise this breaks reports it: R6, or S and B.
        return f"its memory can't be looked at: {type(error).__name__}: {error}"
