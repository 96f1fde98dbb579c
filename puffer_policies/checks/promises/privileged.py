"""S: what only the critic may see never reaches the actor.

A module names such keys of a Dict observation in its attribute ``privileged_keys``. `B` rows, `T`
steps. `shapes.CHECKS` lists this check with the others of the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Scope, check
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.rollouts import (
    FLAG,
    differs,
    each_step,
    select,
    update_statistics,
)
from puffer_policies.checks.probes.snippets import example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject
from puffer_policies.checks.probes.tolerances import difference
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.contract import CRITIC_STATE, PRIVILEGED_KEYS

NO_VALUES = torch.empty(0)


def has_privileged_keys(subject: Subject) -> str:
    """Return why a check of privileged keys does not apply, or ''."""
    return "" if _privileged(subject) else "its actor and its critic see the same"


@check(
    "S13",
    "privileged-keys-unseen",
    promise="Keys that only the critic may see move values alone: the logits and the actor's state "
    "stay the same to the last bit, in both passes, and the statistics of the actor stay its own.",
    why="An actor that was helped by what a simulator knows meets a world without it, and fails "
    "there in ways that no training run shows.",
    fix="Give actor and critic encoders, memories and statistics of their own, each for its keys; "
    "put the critic's memory under state keys that begin with 'critic_'.",
    applies=has_privileged_keys,
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def privileged_keys_unseen(subject: Subject) -> None:
    """Change nothing but these keys, and compare logits, states and statistics bit by bit."""
    keys = _privileged(subject)
    observations = subject.observations(steps=STEPS)
    if not isinstance(observations, Mapping) or any(key not in observations for key in keys):
        known = list(observations) if isinstance(observations, Mapping) else "none"
        raise CheckFailed(
            f"privileged keys {list(keys)} that are keys of the observation", f"its keys: {known}"
        )
    others = _others(subject, observations, keys)
    policy = perturbed_copy(subject)
    patterns = [subject.starts(at=[(0, 0), (1, FLAG), (2, STEPS - 1)])] * subject.recurrent
    for starts in (None, *patterns):
        _require_same_steps(subject, policy, observations, others, starts, keys)
        _require_same_sequence(subject, policy, observations, others, starts, keys)
    _require_own_statistics(subject, observations, others, keys)


def _privileged(subject: Subject) -> tuple[Any, ...]:
    modules = subject.policy.modules()
    return next(filter(None, (getattr(each, PRIVILEGED_KEYS, ()) for each in modules)), ())


def _others(subject: Subject, observations: Any, keys: tuple[Any, ...]) -> dict[Any, Any]:
    """Return the same observations with others under the keys of the critic."""
    for seed in range(1, 6):  # a space of few members may give the same ones again
        drawn = subject.observations(steps=STEPS, seed=seed)
        others = {**observations, **{key: drawn[key] for key in keys}}
        if differs(others, observations):
            return others
    raise CheckSkipped("the keys that only its critic sees seem to hold one value only")


def _require_same_steps(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    others: Any,
    starts: Tensor | None,
    keys: tuple[Any, ...],
) -> None:
    runs = (each_step(subject, policy, each, starts=starts) for each in (observations, others))
    for step, ((logits, _, state), (same, _, after)) in enumerate(zip(*runs, strict=True)):
        where = f"of forward_eval at step {step}"
        _require_same(_actions(subject, [logits, same], BATCH), f"logits {where}", keys)
        for name in (each for each in state if not each.startswith(CRITIC_STATE)):
            _require_same([state[name], after[name]], f"state[{name!r}] {where}", keys)


def _require_same_sequence(
    subject: Subject,
    policy: nn.Module,
    observations: Any,
    others: Any,
    starts: Tensor | None,
    keys: tuple[Any, ...],
) -> None:
    # A policy may take another road in training than in acting.
    for grad in (False, True):
        logits = [
            subject.sequence(each, starts=starts, policy=policy, grad=grad)[0]
            for each in (observations, others)
        ]
        _require_same(_actions(subject, logits, BATCH * STEPS), "logits of forward", keys)


def _require_own_statistics(
    subject: Subject, observations: Any, others: Any, keys: tuple[Any, ...]
) -> None:
    """Let two copies see observations of which these keys differ; both then answer the same."""
    logits = []
    for each in (observations, others):
        policy = perturbed_copy(subject)
        update_statistics(policy, subject.map(lambda leaf: leaf.flatten(0, 1), each))
        first = select(observations, (slice(None), 0))
        logits.append(subject.step(first, policy=policy)[0])
    _require_same(_actions(subject, logits, BATCH), "logits after update_statistics", keys)


def _actions(subject: Subject, logits: list[Any], rows: int) -> list[Tensor]:
    """Return the numbers of two logits, (rows, n) each, without values."""
    return [numbers(subject, each, NO_VALUES, rows) for each in logits]


def _require_same(pair: list[Tensor], what: str, keys: tuple[Any, ...]) -> None:
    # NaN is unequal to itself, and is judged by other checks.
    one, two = (each.double().nan_to_num() for each in pair)
    if not torch.equal(one, two):
        raise CheckFailed(
            f"the same {what}, whatever stands under {' and '.join(map(repr, keys))}",
            f"they are {difference(one, two):.2g} apart",
            example=example(
                f"key = {keys[0]!r}",
                "print(policy.forward_eval(observations, state)[0])",
                "observations[key] = subject.observations(seed=1)[key]",
                "print(policy.forward_eval(observations, state)[0])",
            ),
        )
