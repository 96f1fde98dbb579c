"""R: what a memory promises over time: steps equal sequences, and episodes begin anew.

`B` rows, `T` steps. These checks run a policy in eval mode, so that dropout does not blur them; R11
runs it as a trainer does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.outputs import example as shown
from puffer_policies.checks.probes.rollouts import (
    FLAG,
    in_sequence,
    is_same,
    joined,
    judged,
    kept,
    part,
    require_forgotten,
    require_same,
    step_through,
    two_pasts,
    warm_state,
    without_memory,
)
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, difference
from puffer_policies.checks.promises import carried, segments

LONG = 40
"""Steps of a sequence beyond what a memory of a few observations holds."""


@check(
    "R1",
    "step-equals-sequence",
    promise="Stepping through observations gives what forward gives for the whole sequence.",
    why="Rollouts step and updates run sequences: a policy that differs trains on other outputs "
    "than it acted by.",
    fix="Run the same layers, norms and residual paths in the same order in forward_eval and in "
    "forward; forward sees the past only, and row b at time t is b*T + t.",
    applies=without_memory,
)
def step_equals_sequence(subject: Subject) -> None:
    """Compare both paths, without ``episode_start`` and with it all false."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    steps, _ = step_through(subject, policy, seen)
    example = shown(
        "from puffer_policies.checks.probes.rollouts import in_sequence, judged, step_through",
        f"policy, seen = judged(subject), subject.observations(steps={STEPS})",
        "print(in_sequence(subject, policy, seen) - step_through(subject, policy, seen)[0])",
    )
    none = subject.starts()
    found = {
        "between forward and steps": in_sequence(subject, policy, seen),
        "with episode_start all false": in_sequence(subject, policy, seen, starts=none),
        "between steps with episode_start false and without it": step_through(
            subject, policy, seen, starts=none
        )[0],
    }
    for where, outputs in found.items():
        require_same(
            outputs, steps, "forward equals forward_eval step by step", where=where, example=example
        )
    seen = subject.observations(2, steps=LONG)
    require_same(
        in_sequence(subject, policy, seen),
        step_through(subject, policy, seen)[0],
        "forward equals forward_eval step by step, however long the sequence",
        where=f"over {LONG} steps",
        example=example.replace(f"steps={STEPS}", f"steps={LONG}"),
    )


@check(
    "R2",
    "step-equals-sequence-with-resets",
    promise="Steps and sequences agree wherever episodes start: first, middle, last, in a row.",
    why="Where only one path resets, the update trains on a memory that the rollout did not have.",
    fix="Zero the rows of the state where episode_start is true before the step, at every step of "
    "the sequence and for every row alone.",
    applies=without_memory,
)
def step_equals_sequence_with_resets(subject: Subject) -> None:
    """Compare both paths under several patterns of starts."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    for name, starts in _patterns(subject).items():
        # All rows start over, so that what was carried in must not matter.
        state = warm_state(subject, policy, BATCH) if bool(starts[:, 0].all()) else None
        steps, _ = step_through(subject, policy, seen, state=state, starts=starts)
        found = in_sequence(subject, policy, seen, state=state, starts=starts)
        require_same(
            found,
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


@check(
    "R3",
    "reset-forgets",
    promise="After a start a row is like new, whatever came before, and the other rows remember.",
    why="Otherwise an episode acts on the memory of another one, which no update can explain.",
    fix="Where state['episode_start'] is true replace every tensor of that row by its initial "
    "value before the step; keep the other rows.",
    applies=without_memory,
)
def reset_forgets(subject: Subject) -> None:
    """Change the past of rows that start over; compare their steps after the start."""
    policy, (seen, other) = judged(subject), two_pasts(subject)
    for rows in (range(BATCH), range(0, BATCH, 2)):
        starts = subject.starts(at=[(row, FLAG) for row in rows])
        one, two = (step_through(subject, policy, each, starts=starts)[0] for each in (seen, other))
        reset = list(rows)
        require_forgotten(one[reset, FLAG + 1 :], two[reset, FLAG + 1 :], "stepping")
        if is_same(one[reset, FLAG], two[reset, FLAG]):  # else it is late: R4
            first = part(subject, seen, (slice(None), slice(FLAG, FLAG + 1)))
            # What came before the first step is nothing, which only a start says where it is sent.
            begun = subject.starts(steps=1, at=[(row, 0) for row in range(BATCH)])
            fresh, _ = step_through(
                subject, policy, first, starts=begun if subject.reads_previous else None
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
        step_through(subject, policy, seen)[0][rest],
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
    applies=without_memory,
)
def reset_on_time(subject: Subject) -> None:
    """Look which of the steps around a start see what came before it."""
    policy, (seen, other) = judged(subject), two_pasts(subject)
    starts = subject.starts(at=[(row, FLAG) for row in range(BATCH)])
    one, two = (step_through(subject, policy, each, starts=starts)[0] for each in (seen, other))
    is_late = not is_same(one[:, FLAG], two[:, FLAG])
    if is_late and is_same(one[:, FLAG + 1 :], two[:, FLAG + 1 :]):
        raise CheckFailed(
            "the step with episode_start true to see nothing of the past",
            "it does, and the next step does not: the reset comes one step late",
        )
    _require_first_kept(subject, starts)
    plain = in_sequence(subject, policy, seen)
    flagged = in_sequence(subject, policy, seen, starts=starts)
    require_same(
        flagged[:, :FLAG],
        plain[:, :FLAG],
        "the steps before a start are those without it",
        where="in forward: the reset comes early",
    )


def _require_first_kept(subject: Subject, starts: Tensor) -> None:
    """Fail if the step after a start remembers nothing of it, though the memory could."""
    policy, (seen, other) = judged(subject), two_pasts(subject, until=FLAG + 1)
    behind = joined(subject, seen, other, cut=FLAG)  # `seen`, but for the step of the start
    swapped = joined(subject, behind, seen, cut=FLAG + 1)
    after = FLAG + 1
    plain = [step_through(subject, policy, each)[0][:, after] for each in (seen, swapped)]
    flagged = [
        step_through(subject, policy, each, starts=starts)[0][:, after] for each in (seen, swapped)
    ]
    if difference(*plain) > 0 and difference(*flagged) == 0:
        raise CheckFailed(
            "the step after the first of an episode to remember that first step",
            "it does not: the state is reset after the step",
        )


@check(
    "R5",
    "replay-from-stored-state",
    promise="A segment replayed from the state before its first step gives the same outputs.",
    why="Trainers store the state where a segment begins and replay from it; a state that forward "
    "ignores, or that a later step overwrites, makes every second segment wrong.",
    fix="Let forward begin from the tensors in `state`, and write a step's result as new tensors "
    "into the dict, never into the given ones.",
    applies=without_memory,
)
def replay_from_stored_state(subject: Subject) -> None:
    """Replay from the middle of a rollout, and look for states that a step overwrote."""
    policy, seen = judged(subject), subject.observations(steps=STEPS)
    steps, states = step_through(subject, policy, seen)
    for cut in (1, FLAG):
        rest = part(subject, seen, (slice(None), slice(cut, None)))
        found = in_sequence(subject, policy, rest, state=states[cut])
        require_same(
            found,
            steps[:, cut:],
            "forward from the state before a step equals the steps from there",
            where=f"from step {cut}",
        )
    given = kept(states[FLAG])
    subject.step(part(subject, seen, (slice(None), FLAG)), given, policy=policy)
    for key, value in given.items():
        if isinstance(value, Tensor) and not torch.equal(value, states[FLAG][key]):
            raise CheckFailed(
                f"forward_eval to leave the tensor given as state[{key!r}] as it was",
                "it wrote into it: a trainer's stored state changes afterwards",
            )


CHECKS = (
    step_equals_sequence,
    step_equals_sequence_with_resets,
    reset_forgets,
    reset_on_time,
    replay_from_stored_state,
    carried.state_is_explicit,
    segments.memory_is_used,
    segments.no_look_across_episodes,
    carried.state_has_rows,
    segments.padding_is_inert,
    segments.first_ratio_is_one,
    carried.state_through_wrappers,
)
