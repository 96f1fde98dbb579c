"""R: what a policy makes of its last action and reward, which come in the state.

`B` rows, `T` steps. `recurrence.CHECKS` lists this check with the others of the family.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Scope, check
from puffer_policies.checks.probes.outputs import fixed_actions, numbers
from puffer_policies.checks.probes.parts import names_of_columns, options_of
from puffer_policies.checks.probes.rollouts import select, sequence_state
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import (
    CHANGE,
    difference,
    is_same,
    magnitude,
    require_same,
)
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.contract import EPISODE_START, PREV_ACTION, PREV_REWARD
from puffer_policies.spaces.nested import map_nested

FLAG = 3
"""The step at which episodes start: in the middle."""

NUMBERS = 16
"""Numbers of an action that are tried one by one."""

OPTIONS, AMOUNTS = 8, torch.tensor([-0.7, 0.2, 0.6])
"""Options of a choice that are tried, and amounts of a reward and of a real action."""

UNDECLARED = 2
"""Steps of a policy that does not ask for them: one reads them, and the next what a memory kept."""

TRIES = 3
"""Observations beside which a number is tried, before it counts as unread."""


@check(
    "R13",
    "previous-read-right",
    promise="The last action and reward move the outputs of their own row and step, every number "
    "of them and in both passes alike, and count for nothing where an episode starts.",
    why="The reward and the action before a start are of the episode before: whoever reads them "
    "acts on what a new episode does not have. What is shifted by a step, or read by one pass "
    "alone, makes the update score other actions than those taken.",
    fix="Read state['prev_action'] and state['prev_reward'] as they come, (B, ...) or (B, T, ...), "
    "and fill them with 0 where state['episode_start'] is true; set needs_previous = True.",
    scope=Scope.SPACES,
    needs=("R6", "S4", "S5"),
)
def previous_read_right(subject: Subject) -> None:
    """Change last actions and rewards at one step, and look which outputs follow."""
    if not subject.reads_previous:
        _require_declared(subject)
        raise CheckSkipped("it does not ask for the last action and reward")
    policy, previous = perturbed_copy(subject), _random(subject)
    _require_alike(subject, policy, previous)
    _require_forgotten(subject, policy, previous)
    _require_read(subject, policy, previous)


@dataclass(frozen=True)
class _Previous:
    """Last actions (B, T, ...) and rewards (B, T)."""

    actions: Tensor
    rewards: Tensor

    def at(self, step: int) -> dict[str, Tensor]:
        """Return those of a step, as entries of the state."""
        return {PREV_ACTION: self.actions[:, step], PREV_REWARD: self.rewards[:, step]}

    def all(self) -> dict[str, Tensor]:
        return {PREV_ACTION: self.actions.clone(), PREV_REWARD: self.rewards.clone()}


def _random(subject: Subject, seed: int = 0) -> _Previous:
    actions = fixed_actions(subject.layout, BATCH * STEPS, seed=seed)
    with seeded(seed):
        rewards = torch.randn(BATCH, STEPS)
    return _Previous(actions.reshape(BATCH, STEPS, *actions.shape[1:]), rewards)


def _steps(
    subject: Subject, policy: nn.Module, previous: _Previous, starts: Tensor, steps: int = STEPS
) -> Tensor:
    """Run some steps -> outputs (B, T, n)."""
    observations, state = subject.observations(steps=STEPS), subject.state(BATCH, policy)
    rows = []
    for step in range(steps):
        with seeded(step):
            logits, values, after = subject.step(
                map_nested(lambda leaf, at=step: leaf[:, at].clone(), observations),
                {**state, **previous.at(step)},
                starts=starts[:, step].clone(),
                policy=policy,
            )
        state = {key: each for key, each in after.items() if key in state}
        rows.append(numbers(subject, logits, values, BATCH))
    return torch.stack(rows, 1)


def _sequence(subject: Subject, policy: nn.Module, previous: _Previous, starts: Tensor) -> Tensor:
    """Run a sequence -> outputs (B, T, n)."""
    entries = {EPISODE_START: starts.clone(), **previous.all()}
    if subject.reads_rows_only:  # trainers merge time with the batch
        entries = {key: each.flatten(0, 1) for key, each in entries.items()}
    state = sequence_state(policy, subject.state(BATCH, policy))
    logits, values = subject.sequence(
        subject.observations(steps=STEPS), {**state, **entries}, policy=policy
    )
    return numbers(subject, logits, values, BATCH * STEPS).reshape(BATCH, STEPS, -1)


RUNS = {"forward_eval": _steps, "forward": _sequence}


def _require_alike(subject: Subject, policy: nn.Module, previous: _Previous) -> None:
    for starts in (subject.starts(), subject.starts(at=[(0, 0), (1, FLAG), (3, STEPS - 1)])):
        require_same(
            _sequence(subject, policy, previous, starts),
            _steps(subject, policy, previous, starts),
            "forward equals forward_eval step by step with the same last actions and rewards",
            where="between forward and steps" + (" with starts" if bool(starts.any()) else ""),
            example=_example(),
        )


def _require_forgotten(subject: Subject, policy: nn.Module, previous: _Previous) -> None:
    """Change them at a step where some rows start over: these rows must not follow."""
    reset = [0, 2, 4]
    starts = subject.starts(at=[(row, FLAG) for row in reset])
    other = _random(subject, seed=1)
    for name in ("actions", "rewards"):
        kept, new = getattr(previous, name), getattr(other, name)
        # Alike everywhere else, so that what follows is due to the step of the start alone.
        new[:, :FLAG], new[:, FLAG + 1 :] = kept[:, :FLAG], kept[:, FLAG + 1 :]
    for method, run in RUNS.items():
        one, two = (run(subject, policy, each, starts)[reset, FLAG:] for each in (previous, other))
        if not is_same(one, two):
            raise CheckFailed(
                f"no last action and reward where an episode starts, when {method}",
                f"outputs {difference(one, two):.2g} apart for others",
                example=_example("state['episode_start'] = torch.ones(len(rewards)).bool()"),
            )


def _require_read(subject: Subject, policy: nn.Module, previous: _Previous) -> None:
    """Give one observation with several values of each number in turn: all answers differ."""
    layout, rest = subject.layout, previous.at(0)
    action = rest[PREV_ACTION][0].reshape(-1)
    columns = zip(names_of_columns(layout), options_of(layout), strict=True)
    for place, (name, count) in enumerate(itertools.islice(columns, NUMBERS)):
        options = torch.arange(min(OPTIONS, count)) if count else AMOUNTS
        actions = action.expand(len(options), -1).clone()
        actions[:, place] = options
        actions = actions.reshape(-1, *previous.actions.shape[2:])
        rewards = torch.zeros(len(options))
        _require_apart(subject, policy, actions, rewards, f"{name} of the last action", options)
    actions = rest[PREV_ACTION][:1].expand(len(AMOUNTS), *previous.actions.shape[2:])
    _require_apart(subject, policy, actions, AMOUNTS, "the last reward", AMOUNTS)


def _require_apart(
    subject: Subject, policy: nn.Module, actions: Tensor, rewards: Tensor, name: str, values: Tensor
) -> None:
    rows = len(values)
    is_alike = torch.ones(rows - 1, dtype=torch.bool)
    for seed in range(TRIES):
        observations = select(subject.observations(1, seed=seed), [0] * rows)
        entries = {PREV_ACTION: actions.clone(), PREV_REWARD: rewards.clone()}
        logits, outputs, _ = subject.step(
            observations,
            {**subject.state(rows, policy), **entries},
            starts=torch.zeros(rows, dtype=torch.bool),
            policy=policy,
        )
        answers = numbers(subject, logits, outputs, rows)
        gaps = (answers[1:] - answers[:-1]).abs().amax(1)
        is_alike &= gaps <= CHANGE * magnitude(answers)
        if not is_alike.any():
            return
    first = int(is_alike.int().argmax())
    raise CheckFailed(
        "every number of the last action, and the last reward, to change an output",
        f"{name} is answered alike at {float(values[first]):g} and {float(values[first + 1]):g}",
        example=_example(),
    )


def _require_declared(subject: Subject) -> None:
    """Fail if outputs follow what no trainer sends to a policy that does not ask for it."""
    none, pairs = subject.starts(), (_random(subject, seed) for seed in (0, 1))
    try:
        before, after = (
            _steps(subject, perturbed_copy(subject), each, none, UNDECLARED) for each in pairs
        )
    except Exception:  # a key that it does not know is R12's matter
        return
    if difference(before.nan_to_num(), after.nan_to_num()) > 0:
        raise CheckFailed(
            "needs_previous = True on a policy that reads the last action or reward",
            "it reads them, and does not ask for them: no trainer sends them",
            example=_example(),
        )


def _example(*lines: str) -> str:
    return example(
        "from puffer_policies.checks.probes.outputs import fixed_actions",
        f"rewards = torch.randn({BATCH})",
        f"state['prev_action'] = fixed_actions(subject.layout, {BATCH})",
        *lines,
        "for sign in (1, -1):",
        "    state['prev_reward'] = sign * rewards",
        "    print(policy.forward_eval(observations, dict(state)))",
    )
