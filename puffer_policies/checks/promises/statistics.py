"""P: running statistics of observations, which `update_statistics` alone changes.

`N` rows. `persistence.CHECKS` lists this check with the others of the family.
"""

from __future__ import annotations

from typing import Any

import torch

from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, check
from puffer_policies.checks.probes.edges import filled
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.rollouts import differs, select, update_statistics
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, Subject
from puffer_policies.checks.probes.tolerances import difference
from puffer_policies.checks.probes.weights import perturb
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.wrappers.base import PolicyWrapper

MANY = 32
"""Observations of an ordinary update of the statistics."""


@check(
    "P10",
    "statistics-stay-sound",
    promise="Takes any number of rows in update_statistics, equal ones too, and outputs stay "
    "finite; it changes neither these rows nor a weight, and a wrapper hands it on.",
    why="The deviation of one row, or of a sensor that never moves, is NaN or 0, and so is every "
    "answer after it. Statistics that never arrive at the policy inside normalize nothing.",
    fix="Use the biased variance, and add an epsilon before the root; call super() or the "
    "update_statistics of what a wrapper holds, with the observations that it sees.",
    scope=Scope.MODULES,
    needs=("S2", "R6"),
)
def statistics_stay_sound(subject: Subject) -> None:
    """Update with one row, equal rows and ordinary ones; then look inside a wrapper."""
    inside = [
        name
        for name, each in subject.policy.named_modules()
        if name and callable(getattr(each, "update_statistics", None))
    ]
    if not callable(getattr(subject.policy, "update_statistics", None)):
        if inside:
            raise _not_called(inside[0], "the policy has no update_statistics, and nobody calls")
        raise CheckSkipped("it has no update_statistics")
    if isinstance(subject.policy, PolicyWrapper):
        _require_handed_on(subject)
    elif inside:
        _require_called(subject, inside)
    few, many = subject.observations(1, seed=1), subject.observations(MANY, seed=2)
    equal = select(few, [0] * MANY)
    zeros = subject.admit(filled(subject.spaces.observation, many, 0.0))
    _require_each(subject, many)
    for first, updates in {
        "one row": (few, few),
        "equal rows": (equal, equal),
        "rows of zeros": (zeros, zeros),
        "one row after others": (many, few),
        "equal rows after others": (many, equal),
    }.items():
        _require_sound(subject, first, updates)


def _require_called(subject: Subject, names: list[str]) -> None:
    """Fail if the policy's own method calls none of those inside it."""
    policy, called = subject.copy_policy(), list[str]()
    for name in names:
        # On the instance, in front of the method of the class.
        policy.get_submodule(name).update_statistics = lambda *_, at=name, **__: called.append(at)  # type: ignore[assignment]
    update_statistics(policy, subject.observations(MANY, seed=2))
    if not called:
        raise _not_called(names[0], "the policy's own does not call")


def _not_called(name: str, what: str) -> CheckFailed:
    return CheckFailed(
        "statistics to arrive at every part that keeps some",
        f"{what} that of {name!r}",
        example=example("policy.update_statistics(observations)"),
    )


def _require_sound(subject: Subject, rows: str, updates: tuple[Any, ...]) -> None:
    policy = perturb(subject.copy_policy())
    weights = {name: each.detach().clone() for name, each in policy.named_parameters()}
    lines = example(
        "policy.update_statistics(observations)",
        "print(policy.forward_eval(observations, dict(state)))",
        batch=1 if rows == "one row" else BATCH,
    )
    for observations in updates:
        passed = map_nested(torch.clone, observations)
        try:
            with torch.no_grad():
                policy.update_statistics(passed)  # type: ignore[operator]
        except Exception as error:
            raise CheckFailed(f"statistics of {rows}", error_line(error), example=lines) from error
        if differs(passed, observations):
            raise CheckFailed(
                "update_statistics to leave its observations as they are",
                "it wrote into them",
                example=lines,
            )
    for name, each in policy.named_parameters():
        if name in weights and not torch.equal(each.detach(), weights[name]):
            raise CheckFailed(
                "update_statistics to leave the weights as they are", f"it changed {name}"
            )
    logits, values, _ = subject.step(subject.observations(), policy=policy)
    outputs = numbers(subject, logits, values, BATCH)
    if not bool(torch.isfinite(outputs).all()):
        raise CheckFailed(
            f"finite outputs after statistics of {rows}",
            f"{int((~torch.isfinite(outputs)).sum())} of {outputs.numel()} are not",
            example=lines,
        )


def _require_each(subject: Subject, observations: Any) -> None:
    """Advise statistics of each number where those of a vector are single numbers."""
    is_vector = isinstance(observations, torch.Tensor) and observations.ndim == 2
    if not is_vector or observations.shape[1] < 2:
        return
    policy = subject.copy_policy()
    before = {name: each.clone() for name, each in policy.named_buffers()}
    update_statistics(policy, observations)
    moved = [
        name
        for name, each in policy.named_buffers()
        if each.is_floating_point() and not torch.equal(each, before[name])
    ]
    sizes = dict(policy.named_buffers())
    # A count alone is a number in any case.
    if len(moved) > 1 and all(sizes[name].numel() == 1 for name in moved):
        raise CheckFailed(
            "statistics of each number of the observations",
            f"{', '.join(moved)} are single numbers: the smallest features vanish beside the "
            "largest",
            fix="Take mean and variance over axis 0 alone.",
            example=example(
                "policy.update_statistics(observations)", "print(dict(policy.named_buffers()))"
            ),
            level=Level.ADVICE,
        )


def _require_handed_on(subject: Subject) -> None:
    """Compare what the policy inside gets to count, if it wants to, with what it gets to see."""
    policy = subject.copy_policy()
    inside: Any = policy.policy
    counts: list[Any] = []
    sights: list[Any] = []
    step = getattr(inside, "forward_eval", None)

    def note_count(observations: Any, **_: Any) -> None:
        counts.append(map_nested(torch.clone, observations))

    def note_step(observations: Any, *arguments: Any, **options: Any) -> Any:
        sights.append(map_nested(torch.clone, observations))
        return step(observations, *arguments, **options)  # type: ignore[misc]

    inside.update_statistics = note_count
    if callable(step):  # a memory around both halves needs none
        inside.forward_eval = note_step
    observations = subject.observations()
    update_statistics(policy, observations)
    if not counts:
        raise CheckFailed(
            "the wrapped policy to get its update_statistics",
            "it is never called",
            example=example(
                "policy.policy.update_statistics = print",
                "policy.update_statistics(observations)",
            ),
        )
    subject.step(map_nested(torch.clone, observations), policy=policy)
    if not sights:
        return
    passed_raw = _is_alike(counts[0], observations)
    if passed_raw and not _is_alike(sights[0], observations):
        raise CheckFailed(
            "statistics of what the wrapped policy sees",
            "it counts the observations of the env, and sees others",
        )


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two nested observations have equal leaves, of whatever dtype."""
    first, second = list(leaves(one)), list(leaves(other))
    return len(first) == len(second) and all(
        difference(a, b) == 0 for a, b in zip(first, second, strict=True)
    )
