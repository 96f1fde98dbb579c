"""R, second half: what the recurrent state itself promises: its form, its use and its rows.

`B` rows, `T` steps. `recurrence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.rollouts import (
    State,
    in_sequence,
    is_same,
    judged,
    kept,
    part,
    picked,
    require_same,
    sequence_state,
    step_through,
    warm_state,
    without_memory,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.contract import EPISODE_START


@check(
    "R6",
    "state-is-explicit",
    promise="All memory is in the state: detached tensors of constant form, with a row per env.",
    why="Trainers store, index and restore the state. What is kept on the module, grows, or holds "
    "the graph of the last segment breaks replay, evaluation and memory.",
    fix="Keep nothing on self between calls. initial_state(batch_size, device) returns a dict of "
    "tensors (B, ...) on that device; write tensors of the same form into `state`, detached.",
)
def state_is_explicit(subject: Subject) -> None:
    """Look at the initial state, at that after steps and after forward, and at repeated calls."""
    policy = judged(subject)
    if callable(getattr(policy, "initial_state", None)):
        for batch in (1, 2, BATCH):
            _require_rows(policy.initial_state(batch, torch.device("cpu")), batch)  # type: ignore[operator]
        _require_device(policy)
    _require_pure(subject, policy)
    if subject.state(1, policy):
        _require_form_kept(subject, policy)
        _require_detached(subject, policy)


def _require_rows(state: Any, batch: int) -> None:
    wanted = f"initial_state({batch}) to be a dict of tensors with {batch} rows"
    if not isinstance(state, Mapping):
        raise CheckFailed(wanted, f"a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckFailed(wanted, f"{key!r} is {type(value).__name__}")
        if not value.ndim or len(value) != batch:
            raise CheckFailed(wanted, f"{key!r} is {tuple(value.shape)}")


def _require_device(policy: nn.Module) -> None:
    state = policy.initial_state(2, torch.device("meta"))  # type: ignore[operator]
    for key, value in state.items():
        # A learned initial state lives where the weights are.
        if value.device.type != "meta" and not value.requires_grad:
            raise CheckFailed(
                "initial_state(batch_size, device) to make tensors on the device it is given",
                f"{key!r} is on {value.device} when 'meta' was asked for",
            )


def _require_pure(subject: Subject, policy: nn.Module) -> None:
    """Fail if a call changes what the next one with equal arguments returns."""
    seen = subject.observations(steps=STEPS)
    with seeded(0):
        before, _ = step_through(subject, policy, seen)
    for batch in (BATCH, 2):
        other = subject.observations(batch, steps=2, seed=3)
        step_through(subject, policy, other)
        in_sequence(subject, policy, other)
    with seeded(0):
        after, _ = step_through(subject, policy, seen)
    require_same(
        after,
        before,
        "the same observations from the same state give the same outputs again",
        where="after other calls: something is kept outside the state",
    )


def _require_form_kept(subject: Subject, policy: nn.Module) -> None:
    """Fail if a step changes the keys, shapes, dtypes or devices of the state."""
    seen = subject.observations(steps=3)
    _, states = step_through(subject, policy, seen)
    forms = [{key: _form(value) for key, value in state.items()} for state in states]
    for number, form in enumerate(forms):
        if form != forms[0]:
            changed = [key for key in form if form[key] != forms[0][key]]
            raise CheckFailed(
                "the state to keep its shapes and dtypes from step to step",
                "; ".join(f"{key!r} from {forms[0][key]} to {form[key]}" for key in changed)
                + f" after {number} steps",
            )


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} on {value.device}"
    return type(value).__name__


def _require_detached(subject: Subject, policy: nn.Module) -> None:
    """Fail if forward leaves a state that holds the graph of its sequence."""
    seen = subject.observations(steps=2)
    state: State = sequence_state(policy, kept(subject.state(BATCH, policy)))
    with torch.enable_grad():
        policy(seen, subject.unmasked(state, seen))
    for key, value in state.items():
        if isinstance(value, Tensor) and value.grad_fn is not None:
            raise CheckFailed(
                f"state[{key!r}] to be detached after forward",
                f"it holds the graph of the whole sequence ({value.grad_fn.name()})",
            )


@check(
    "R9",
    "state-has-rows",
    promise="The state can be indexed and permuted along its rows, as observations can.",
    why="Trainers cut minibatches and drop finished envs: row i of the state must belong to row i.",
    fix="Put the batch first in every tensor, and transpose for layers-first kernels: reshape "
    "mixes rows.",
    applies=without_memory,
)
def state_has_rows(subject: Subject) -> None:
    """Step a permuted and a smaller batch from indexed states."""
    policy = judged(subject)
    state, seen = warm_state(subject, policy, BATCH), subject.observations(steps=2)
    whole, _ = step_through(subject, policy, seen, state=state)
    sequence = in_sequence(subject, policy, seen, state=state)
    for rows in ([3, 0, 4, 1, 2], [4, 1], [2]):
        index = torch.tensor(rows)
        some, chosen = part(subject, seen, index), picked(state, index)
        example = f"rows = {rows}  # policy.forward_eval(observations[rows], state[rows])"
        for found, expected, method in (
            (step_through(subject, policy, some, state=chosen)[0], whole, "forward_eval"),
            (in_sequence(subject, policy, some, state=chosen), sequence, "forward"),
        ):
            require_same(
                found,
                expected[index],
                f"{method} of some rows and their states equals these rows of the whole batch",
                where=f"for rows {rows} of {BATCH}",
                example=example,
            )


@check(
    "R12",
    "state-through-wrappers",
    promise="The state works beside other keys, in any order, and in a copy of the policy.",
    why="PufferLib's trainer puts reward, done, env_id and mask into the state; distributed and "
    "compiled policies rebuild the dict and run in copies.",
    fix="Read the state's tensors by their keys, leave unknown keys alone, and keep no reference "
    "to a dict, a tensor or another module.",
    applies=without_memory,
)
def state_through_wrappers(subject: Subject) -> None:
    """Run from the state as others hand it on."""
    policy = judged(subject)
    state, seen = warm_state(subject, policy, BATCH), subject.observations()
    starts = subject.starts(steps=1, at=[(1, 0)])[:, 0]
    expected = _one_step(subject, policy, seen, {**kept(state), EPISODE_START: starts})
    others = {
        "with reward, done, env_id and mask": {
            "reward": torch.ones(BATCH),
            "done": torch.ones(BATCH),
            "env_id": torch.arange(BATCH),
            "mask": torch.ones(BATCH, dtype=torch.bool),
            **kept(state),
            EPISODE_START: starts,
        },
        "in another order": {EPISODE_START: starts, **dict(reversed(kept(state).items()))},
    }
    for name, given in others.items():
        _require_equal_step(_one_step(subject, policy, seen, given), expected, name)
    twin = copy.deepcopy(policy)
    given = {**kept(state), EPISODE_START: starts}
    _require_equal_step(_one_step(subject, twin, seen, given), expected, "in a copy of the policy")


def _one_step(subject: Subject, policy: nn.Module, observations: Any, state: State) -> State:
    """Return the outputs of one step, and the state after it, by name."""
    starts = state.pop(EPISODE_START)
    keys = subject.state(1, policy)
    found, states = step_through(
        subject,
        policy,
        subject.map(lambda leaf: leaf.unsqueeze(1), observations),
        state=state,
        starts=starts.unsqueeze(1),
    )
    return {"outputs": found, **{key: states[-1].get(key) for key in keys}}


def _require_equal_step(found: State, expected: State, where: str) -> None:
    for key, value in expected.items():
        if isinstance(value, Tensor) and not is_same(found[key].double(), value.double()):
            raise CheckFailed(
                f"the same {key} from the same state", f"they differ when the state comes {where}"
            )
