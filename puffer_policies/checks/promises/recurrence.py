"""R: what a memory promises over time: steps equal sequences, and episodes begin anew.

`B` rows, `T` steps. What forward promises of the segments of a trainer (R7, R8, R10, R11) is in
segments.py, that of its state (R6) in explicit_state.py, the last action and reward (R13) in
previous.py. These checks run a policy in eval mode, so that dropout does not blur them; R11 runs it
as a trainer does.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Scope, check
from puffer_policies.checks.probes.outputs import numbers, sum_of_outputs
from puffer_policies.checks.probes.rollouts import (
    FLAG,
    State,
    copy_state,
    from_step,
    in_sequence,
    join,
    needs_memory,
    select,
    sequence_state,
    state_rows,
    step_through,
    two_pasts,
    warm_state,
)
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.probes.tolerances import difference, is_same, require_same
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.checks.promises import explicit_state, previous, segments
from puffer_policies.checks.promises.segments import require_forgotten
from puffer_policies.contract import EPISODE_START
from puffer_policies.spaces.nested import map_nested

LONG = 40
"""Steps of a sequence beyond what a memory of a few observations, such as a window, holds."""


# -- steps and sequences ---------------------------------------------------------------------------


@check(
    "R1",
    "step-equals-sequence",
    promise="Stepping through observations gives what forward gives for the whole sequence.",
    why="Rollouts step and updates run sequences: a policy that differs trains on other outputs "
    "than it acted by.",
    fix="Run the same layers, norms and residual paths in the same order in forward_eval and in "
    "forward; forward sees the past only, and row b at time t is b*T + t.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6"),
)
def step_equals_sequence(subject: Subject) -> None:
    """Compare both paths, without ``episode_start`` and with it all false."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    steps, _ = step_through(subject, policy, observations)
    none = subject.starts()
    runs = {
        "between forward and steps": in_sequence(subject, policy, observations),
        "with episode_start all false": in_sequence(subject, policy, observations, starts=none),
        "with gradients, as an update runs it": in_sequence(
            subject, policy, observations, grad=True
        ),
        "between steps with episode_start false and without it": step_through(
            subject, policy, observations, starts=none
        )[0],
    }
    promise = "forward equals forward_eval step by step"
    for where, outputs in runs.items():
        require_same(outputs, steps, promise, where=where, example=_both_paths(BATCH, STEPS))
    observations = subject.observations(2, steps=LONG)
    require_same(
        in_sequence(subject, policy, observations),
        step_through(subject, policy, observations)[0],
        f"{promise}, however long the sequence",
        where=f"over {LONG} steps",
        example=_both_paths(2, LONG),
    )


def _both_paths(batch: int, steps: int) -> str:
    return example(
        "from puffer_policies.checks.probes.rollouts import in_sequence, step_through",
        "from puffer_policies.checks.probes.weights import perturbed_copy",
        "policy = perturbed_copy(subject)",
        "steps, _ = step_through(subject, policy, observations)",
        "print(in_sequence(subject, policy, observations) - steps)",
        batch=batch,
        steps=steps,
    )


@check(
    "R2",
    "step-equals-sequence-with-resets",
    promise="Steps and sequences agree wherever episodes start: first, middle, last, in a row.",
    why="Where only one path resets, the update trains on a memory that the rollout did not have.",
    fix="Zero the rows of the state where episode_start is true before the step, at every step of "
    "the sequence and for every row alone.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6", "R1"),
)
def step_equals_sequence_with_resets(subject: Subject) -> None:
    """Compare both paths under several patterns of starts."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    for name, starts in _patterns(subject).items():
        # Where all rows start over at once, whatever state comes before must not matter.
        state = warm_state(subject, policy, BATCH) if bool(starts[:, 0].all()) else None
        steps, _ = step_through(subject, policy, observations, state=state, starts=starts)
        require_same(
            in_sequence(subject, policy, observations, state=state, starts=starts),
            steps,
            "forward equals forward_eval step by step with the same episode_start",
            where=f"with starts {name}",
            example=f"starts = torch.tensor({starts.int().tolist()}).bool()  # row b, step t",
        )


def _patterns(subject: Subject) -> dict[str, Tensor]:
    every = range(BATCH)
    at = {
        "of single rows at different steps": [(0, 0), (1, 2), (2, STEPS - 1), (3, 1), (3, 4)],
        "in a row": [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4)],
        "of all rows in the middle": [(row, FLAG) for row in every],
        "of all rows at the first step": [(row, 0) for row in every],
        "of all rows at the last step": [(row, STEPS - 1) for row in every],
        "everywhere": [(row, t) for row in every for t in range(STEPS)],
    }
    return {name: subject.starts(at=pairs) for name, pairs in at.items()}


# -- episode starts --------------------------------------------------------------------------------


@check(
    "R3",
    "reset-forgets",
    promise="After a start a row is like new, whatever came before, and the other rows remember.",
    why="Otherwise an episode acts on the memory of another one, which no update can explain.",
    fix="Where state['episode_start'] is true replace every tensor of that row by its initial "
    "value before the step; keep the other rows.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S5", "R6"),
)
def reset_forgets(subject: Subject) -> None:
    """Change the past of rows that start over; compare their steps after the start."""
    policy, pasts = perturbed_copy(subject), two_pasts(subject)
    for rows in (range(BATCH), range(0, BATCH, 2)):
        starts = subject.starts(at=[(row, FLAG) for row in rows])
        one, two = (step_through(subject, policy, each, starts=starts)[0] for each in pasts)
        reset = list(rows)
        require_forgotten(one[reset, FLAG + 1 :], two[reset, FLAG + 1 :], "stepping")
        if is_same(one[reset, FLAG], two[reset, FLAG]):  # otherwise the reset is late: R4
            first = select(pasts[0], (slice(None), slice(FLAG, FLAG + 1)))
            # A policy that reads the last action learns from a start only that there was none.
            every_row = subject.starts(steps=1, at=[(row, 0) for row in range(BATCH)])
            fresh, _ = step_through(
                subject, policy, first, starts=every_row if subject.reads_previous else None
            )
            require_same(
                one[reset, FLAG],
                fresh[reset, 0],
                "the first step of an episode equals that from the initial state",
                where="between them",
            )
    rest = [row for row in range(BATCH) if row % 2]
    require_same(
        one[rest],
        step_through(subject, policy, pasts[0])[0][rest],
        "rows that do not start over are untouched by the start of others",
        where=f"in rows {rest}",
    )


@check(
    "R4",
    "reset-on-time",
    promise="The state is reset before the step whose observation begins the episode.",
    why="One step late, and the first action of an episode follows from the last one; one early, "
    "and the last step of an episode is forgotten.",
    fix="Reset, then step: episode_start[t] belongs to observation t, and is done[t-1].",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6"),
)
def reset_on_time(subject: Subject) -> None:
    """Look which of the steps around a start see what came before it."""
    policy, pasts = perturbed_copy(subject), two_pasts(subject)
    starts = subject.starts(at=[(row, FLAG) for row in range(BATCH)])
    one, two = (step_through(subject, policy, each, starts=starts)[0] for each in pasts)
    is_late = not is_same(one[:, FLAG], two[:, FLAG])
    if is_late and is_same(one[:, FLAG + 1 :], two[:, FLAG + 1 :]):
        raise CheckFailed(
            "the step with episode_start true to see nothing of the past",
            "it does, and the next step does not: the reset comes one step late",
        )
    _require_first_remembered(subject, policy, starts)
    plain = in_sequence(subject, policy, pasts[0])
    flagged = in_sequence(subject, policy, pasts[0], starts=starts)
    require_same(
        flagged[:, :FLAG],
        plain[:, :FLAG],
        "the steps before a start are those without it",
        where="in forward: the reset comes early",
    )


def _require_first_remembered(subject: Subject, policy: nn.Module, starts: Tensor) -> None:
    """Fail if the step after a start remembers nothing of it, though the memory could."""
    after = FLAG + 1
    first, second = two_pasts(subject, until=after)
    # The same observations, but for the step of the start.
    swapped = join(join(first, second, cut=FLAG), first, cut=after)
    plain, flagged = (
        [
            step_through(subject, policy, each, starts=flags)[0][:, after]
            for each in (first, swapped)
        ]
        for flags in (None, starts)
    )
    if difference(*plain) > 0 and difference(*flagged) == 0:
        raise CheckFailed(
            "the step after the first of an episode to remember that first step",
            "it does not: the state is reset after the step",
        )


# -- the state -------------------------------------------------------------------------------------


@check(
    "R5",
    "replay-from-stored-state",
    promise="A segment replayed from the state before its first step gives the same outputs, and "
    "can be differentiated; a state that forward writes is that after its last step.",
    why="Trainers store the state where a segment begins and replay from it; a state that forward "
    "ignores, that a later step overwrites or that autograd refuses makes every second segment "
    "wrong. What goes on after a sequence, such as a burn-in, needs the state of its end.",
    fix="Let forward begin from the tensors in `state`, and write a step's result as new tensors "
    "into the dict, never into the old ones; run steps under no_grad, not inference_mode.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6", "R1"),
)
def replay_from_stored_state(subject: Subject) -> None:
    """Replay from the middle of a rollout, and look for states that a step overwrote."""
    policy, observations = perturbed_copy(subject), subject.observations(steps=STEPS)
    steps, states = step_through(subject, policy, observations)
    for cut in (1, FLAG):
        require_same(
            in_sequence(subject, policy, from_step(observations, cut), state=states[cut]),
            steps[:, cut:],
            "forward from the state before a step equals the steps from there",
            where=f"from step {cut}",
        )
    state = copy_state(states[FLAG])
    subject.step(select(observations, (slice(None), FLAG)), state, policy=policy)
    for key, value in state.items():
        if isinstance(value, Tensor) and not torch.equal(value, states[FLAG][key]):
            raise CheckFailed(
                f"forward_eval to leave the tensor that came as state[{key!r}] as it was",
                "it wrote into it: a trainer's stored state changes afterwards",
            )
    _require_differentiable(subject, policy)
    for starts in (None, subject.starts(at=[(0, 0), (1, FLAG), (2, STEPS - 1), (3, STEPS - 1)])):
        _require_state_after(subject, policy, starts)


def _require_differentiable(subject: Subject, policy: nn.Module) -> None:
    """Fail if autograd refuses a sequence from a state that steps made."""
    first, rest = subject.observations(), subject.observations(steps=2, seed=1)
    state = subject.state(BATCH, policy)
    _, _, state = subject.step(first, state, policy=policy)
    logits, values = subject.sequence(rest, sequence_state(policy, state), policy=policy, grad=True)
    try:
        torch.autograd.backward(sum_of_outputs(subject.distribution(logits), values))
    except RuntimeError as error:
        raise CheckFailed(
            "gradients of a sequence that begins from the state of a step",
            error_line(error),
            example=example(
                "_, _, state = subject.step(observations)",
                "policy(observations.unsqueeze(1), state)[1].sum().backward()",
            ),
        ) from error


def _require_state_after(subject: Subject, policy: nn.Module, starts: Tensor | None) -> None:
    """Fail if steps that go on from the state of a sequence are not those of a whole rollout."""
    observations = subject.observations(steps=STEPS + 2)
    some = select(observations, (slice(None), slice(STEPS)))
    steps, states = step_through(subject, policy, some, starts=starts)
    if not is_same(in_sequence(subject, policy, some, starts=starts), steps):
        return  # R1's and R2's matter
    initial = sequence_state(policy, copy_state(states[0]))
    carry = subject.add_required(dict(initial), some)
    if starts is not None:
        carry[EPISODE_START] = starts.clone()
    with torch.no_grad():
        policy(map_nested(torch.clone, some), carry)
    after = {key: carry.get(key) for key in initial}
    if all(value is initial[key] or _is_equal(value, initial[key]) for key, value in after.items()):
        return  # it leaves the state to steps
    # PufferLib's forward has an axis of layers in front.
    state = {
        key: value.squeeze(0)
        if isinstance(value, Tensor) and value.ndim > states[-1][key].ndim
        else value
        for key, value in after.items()
    }
    rest = from_step(observations, STEPS)
    outputs, expected = (
        step_through(subject, policy, rest, state=each)[0] for each in (state, states[-1])
    )
    require_same(
        outputs,
        expected,
        "steps that go on from the state that forward wrote equal those after the same steps",
        where=f"after {STEPS} steps" + ("" if starts is None else " with starts"),
        example=example(
            "policy(observations, state)",
            "print(state)  # compare with the state after the same steps",
            steps=STEPS,
        ),
    )


def _is_equal(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and torch.equal(one, other)


@check(
    "R9",
    "state-has-rows",
    promise="The state can be indexed and permuted along its rows, as observations can.",
    why="Trainers cut minibatches and drop finished envs: row i of the state must belong to row i.",
    fix="Put the batch first in every tensor, and transpose for layers-first kernels: reshape "
    "mixes rows.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("S4", "S5", "R6"),
)
def state_has_rows(subject: Subject) -> None:
    """Step a permuted and a smaller batch from indexed states."""
    policy = perturbed_copy(subject)
    state, observations = warm_state(subject, policy, BATCH), subject.observations(steps=2)
    steps, _ = step_through(subject, policy, observations, state=state)
    sequence = in_sequence(subject, policy, observations, state=state)
    for rows in ([3, 0, 4, 1, 2], [4, 1], [2]):
        index = torch.tensor(rows)
        some, some_state = select(observations, index), state_rows(state, index)
        some_steps, _ = step_through(subject, policy, some, state=some_state)
        some_sequence = in_sequence(subject, policy, some, state=some_state)
        for method, outputs, whole in (
            ("forward_eval", some_steps, steps),
            ("forward", some_sequence, sequence),
        ):
            require_same(
                outputs,
                whole[index],
                f"{method} of some rows and their states equals these rows of the whole batch",
                where=f"for rows {rows} of {BATCH}",
                example=f"rows = {rows}  # policy.forward_eval(observations[rows], state[rows])",
            )


@check(
    "R12",
    "state-through-wrappers",
    promise="The state works beside other keys, in any order, and in a copy of the policy; a "
    "wrapper hands it on.",
    why="PufferLib's trainer puts reward, done, env_id and mask into the state; distributed and "
    "compiled policies rebuild the dict and run in copies.",
    fix="Read the state's tensors by their keys, leave unknown keys alone, and keep no reference "
    "to a dict, a tensor or another module. A wrapper passes `state` to what it holds.",
    applies=needs_memory,
    scope=Scope.MODULES,
    needs=("R6",),
)
def state_through_wrappers(subject: Subject) -> None:
    """Run one step from the state as others hand it on."""
    policy = perturbed_copy(subject)
    state = warm_state(subject, policy, BATCH)
    # What PufferLib's trainer puts beside the state.
    extras = {
        "reward": torch.ones(BATCH),
        "done": torch.ones(BATCH),
        "env_id": torch.arange(BATCH),
        "mask": torch.ones(BATCH, dtype=torch.bool),
    }
    expected = _step(subject, policy, state)
    for where, outputs in {
        "with reward, done, env_id and mask": _step(subject, policy, {**extras, **state}),
        "in another order": _step(subject, policy, dict(reversed(state.items()))),
        "in a copy of the policy": _step(subject, copy.deepcopy(policy), state),
    }.items():
        for key, value in expected.items():
            if isinstance(value, Tensor) and not is_same(outputs[key].double(), value.double()):
                raise CheckFailed(
                    f"the same {key} from the same state",
                    f"they differ when the state comes {where}",
                )


def _step(subject: Subject, policy: nn.Module, state: State) -> State:
    """Run a step that begins an episode in one row -> its outputs, and the state after it."""
    starts = subject.starts(steps=1, at=[(1, 0)])[:, 0]
    logits, values, after = subject.step(
        subject.observations(), copy_state(state), starts=starts, policy=policy
    )
    memory = {key: after.get(key) for key in subject.state(1, policy)}
    return {"outputs": numbers(subject, logits, values, BATCH), **memory}


CHECKS = (
    step_equals_sequence,
    step_equals_sequence_with_resets,
    reset_forgets,
    reset_on_time,
    replay_from_stored_state,
    explicit_state.state_is_explicit,
    segments.memory_is_used,
    segments.no_look_across_episodes,
    state_has_rows,
    segments.padding_is_inert,
    segments.first_ratio_is_one,
    state_through_wrappers,
    previous.previous_read_right,
)
