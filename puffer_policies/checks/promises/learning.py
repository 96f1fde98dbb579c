"""T: trained for seconds, on request, a policy learns a bandit, a context and a cue.

`B` rows, `T` steps. The problems fit any pair of spaces; see `probes.bandits`.
"""

from __future__ import annotations

import torch
from torch import nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Tier, check
from puffer_policies.checks.probes.bandits import (
    ROWS,
    Problem,
    columns_of,
    cues,
    distinct,
    last_distribution,
    right_actions,
    train,
)
from puffer_policies.checks.probes.parts import options_of, parts_of
from puffer_policies.checks.probes.rollouts import in_sequence, needs_memory, two_pasts
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.checks.probes.tolerances import difference
from puffer_policies.checks.probes.weights import perturbed_copy, trained_parameters
from puffer_policies.checks.promises.segments import counts_steps
from puffer_policies.spaces.nested import map_nested

SHORT, LONG = 4, 120
"""Updates of PPO. Of all policies and memories here the slowest takes 30 for a problem."""

RECALL_STEPS = 4

MARGIN = 0.5
"""Share of the way from the reward of the best constant action to 1."""

RERUN = "from puffer_policies.checks import check_policy"


@check(
    "T1",
    "a-short-run-moves-everything",
    promise="Over a short run of PPO the loss is finite, and every parameter moves unless it has "
    "requires_grad=False or is declared frozen.",
    why="A loss of NaN, or a layer that never moves, shows only after hours otherwise.",
    fix='Find the layer in the message; declare {"frozen": ["its.name*"]} if that is meant.',
    tier=Tier.TRAINABILITY,
    level=Level.ERROR,
    needs=("N6", "R6"),
)
def short_run_moves_everything(subject: Subject) -> None:
    """Train on fresh random observations with a random right action."""
    # Modes are P1's matter. Whoever declares a difference learns in the mode that trains.
    policy = subject.copy_policy(training="train_differs" in subject.declared)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    losses = train(subject, policy, lambda update: _random(subject, update), updates=SHORT)
    if not all(torch.isfinite(torch.tensor(losses))):
        actual = f"{[round(loss, 3) for loss in losses]}"
        raise CheckFailed("finite losses", actual, example=_run_again("T1"))
    unmoved = [
        name
        for name, parameter in trained_parameters(subject, policy).items()
        if torch.equal(parameter.detach(), before[name])
    ]
    if unmoved:
        raise CheckFailed(
            "every parameter moved",
            f"these did not: {', '.join(unmoved)}",
            example=_run_again("T1"),
        )


@check(
    "T2",
    "entropy-falls",
    promise="On a bandit whose best action is constant the entropy falls.",
    why="A policy that stays as random as it began does not turn reward into preference.",
    fix="Check that logits depend on trained weights and that their scale can grow.",
    tier=Tier.TRAINABILITY,
    level=Level.ERROR,
    needs=("A1", "N7", "R6"),
)
def entropy_falls(subject: Subject) -> None:
    """Train on one observation with one right action, and compare entropies."""
    policy = subject.copy_policy()
    problem = _contexts(subject, 1)
    start = _entropies(subject, policy, problem)
    if not start:
        raise CheckSkipped("its entropy depends on no parameter")

    def fell() -> bool:
        end = _entropies(subject, policy, problem)
        return all(end[part] < start[part] - 0.1 for part in start)

    # Without a bonus, which would hold the entropy up.
    train(subject, policy, lambda _: problem, updates=LONG, stop=fell, entropy=0.0)
    end = _entropies(subject, policy, problem)
    for part in start:
        if not end[part] < start[part] - 0.05:
            raise CheckFailed(
                f"an entropy{part} that falls on a constant bandit",
                f"{start[part]:.3f} -> {end[part]:.3f}",
                example=_run_again("T2"),
            )


@check(
    "T3",
    "beats-random",
    promise="On a contextual bandit of its own spaces it earns more than the best constant action.",
    why="A policy that learns a constant only does not look at what it observes.",
    fix="Check the road from observation to logits: scaling, a cut gradient, a wrong axis.",
    tier=Tier.TRAINABILITY,
    level=Level.ERROR,
    needs=("A1", "A3", "N7", "R6"),
)
def beats_random(subject: Subject) -> None:
    """Train on two observations with a right action each."""
    problem = _contexts(subject, 2)
    if not distinct(cues(subject, 2)):
        raise CheckSkipped("its observation space has a single member")
    _require_learning(subject, problem, "two contexts", "T3")


@check(
    "T4",
    "recalls-a-cue",
    promise="With memory, it learns an action that depends on an observation some steps ago.",
    why="A memory that is not read, or whose gradient is cut between steps, is only cost.",
    fix="Differentiate through the sequence in forward; detach only what is written to `state`.",
    tier=Tier.TRAINABILITY,
    applies=needs_memory,
    needs=("R6",),
)
def recalls_a_cue(subject: Subject) -> None:
    """Train on sequences that differ in their first observation only; the last action counts."""
    if not distinct(cues(subject, 2)):
        raise CheckSkipped("its observation space has a single member")
    if counts_steps(subject, perturbed_copy(subject)):
        raise CheckSkipped("its state counts steps, and remembers no observation")
    problem = _contexts(subject, 2)
    # A third observation, which is neither cue, so that only the first step tells them apart.
    blank = map_nested(lambda leaf: leaf[2:, None], cues(subject, 3))
    after = _reach(subject)
    sequence = map_nested(
        lambda leaf, rest: torch.cat([leaf, rest.expand(len(leaf), after, *rest.shape[2:])], 1),
        problem.observations,
        blank,
    )
    _require_learning(subject, Problem(sequence, problem.targets, problem.columns), "a cue", "T4")


def _reach(subject: Subject) -> int:
    """Return how many steps after a cue to ask for it: fewer if the memory is a short window."""
    policy, (first, second) = perturbed_copy(subject), two_pasts(subject, until=1)
    outputs = [in_sequence(subject, policy, each) for each in (first, second)]
    for after in range(RECALL_STEPS - 1, 1, -1):
        if difference(*(each[:, after] for each in outputs)) > 0:
            return after
    return RECALL_STEPS - 1


def _require_learning(subject: Subject, problem: Problem, what: str, code: str) -> None:
    policy = subject.copy_policy()
    constant = problem.constant_rewards()
    required = {part: each + MARGIN * (1 - each) for part, each in constant.items()}

    def has_learned() -> bool:
        end = _rewards(subject, policy, problem)
        return all(end[part] >= required[part] for part in required)

    train(subject, policy, lambda _: problem, updates=LONG, stop=has_learned)
    end = _rewards(subject, policy, problem)
    for part in required:
        if not end[part] >= required[part]:
            raise CheckFailed(
                f"a mean reward{part} of {required[part]:.2f} with {what}; the best constant "
                f"action earns {constant[part]:.2f}",
                f"{end[part]:.2f} after {LONG} updates",
                example=_run_again(code),
            )


def _rewards(subject: Subject, policy: nn.Module, problem: Problem) -> dict[str, float]:
    """Return the mean reward of the likeliest actions, part by part."""
    actions = last_distribution(subject, policy, problem).mode()
    return problem.rewards_of_parts(actions.unsqueeze(0))


def _contexts(subject: Subject, count: int) -> Problem:
    """Return B rows of T = 1 that share `count` observations and their right actions."""
    which = torch.arange(ROWS) % count
    observations = map_nested(lambda leaf: leaf[which].unsqueeze(1), cues(subject, count))
    columns = columns_of(subject.layout)
    return Problem(observations, right_actions(columns, count)[which], columns)


def _random(subject: Subject, update: int) -> Problem:
    """Return sequences with random observations and any right actions, another for each update."""
    observations = subject.observations(ROWS, steps=RECALL_STEPS, seed=update)
    columns = columns_of(subject.layout)
    targets = right_actions(columns, 2)[torch.arange(ROWS) % 2]
    return Problem(observations, targets, columns)


def _entropies(subject: Subject, policy: nn.Module, problem: Problem) -> dict[str, float]:
    """Return the entropies of parts that weights can change.

    They can't where a deviation is fixed, or a choice has a single option.
    """
    first = map_nested(lambda leaf: leaf[:1], problem.observations)
    logits, _ = subject.sequence(first, policy=policy, grad=True)
    entropies = {
        str(part): subject.distribution(part.logits_of(logits)).entropy().mean()
        for part in parts_of(subject.layout, logits)
        if set(options_of(part.layout)) != {1}
    }
    return {part: float(each.detach()) for part, each in entropies.items() if each.requires_grad}


def _run_again(code: str) -> str:
    return f'{RERUN}\nprint(check_policy(policy, spaces, select="{code}", isolate=False))'


CHECKS = (short_run_moves_everything, entropy_falls, beats_random, recalls_a_cue)
