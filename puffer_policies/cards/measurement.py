"""Measures the card of a policy or wrapper, by building it.

Times are of one thread of this machine, so that they are comparable between policies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import Blueprint, prepare
from puffer_policies.cards.card import Card, Weight
from puffer_policies.checks.engine.matrix import spaces_for
from puffer_policies.checks.engine.targets import stack_around, subject_of
from puffer_policies.checks.probes.outputs import flatten_logits
from puffer_policies.checks.probes.rollouts import in_sequence, step_through
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.checks.probes.tolerances import difference
from puffer_policies.checks.probes.weights import perturbed_copy
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.init import drawn_as
from puffer_policies.registry import Registry
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.nested import leaves

_V = Box(-1.0, 1.0, (8,), np.float32)
_SET = {"entities": Box(-1.0, 1.0, (8, 5), np.float32), "mask": MultiBinary(8)}

TASKS: dict[str, Spaces] = {
    "V": Spaces(_V, Discrete(4)),
    "P84": Spaces(Box(0, 255, (4, 84, 84), np.uint8), Discrete(4)),
    "V to Box(2)": Spaces(_V, Box(-1.0, 1.0, (2,), np.float32)),
    "V to MultiDiscrete(4, 3)": Spaces(_V, MultiDiscrete([4, 3])),
    "codes": Spaces(MultiDiscrete([8, 8, 8, 8]), Discrete(4)),
    "set": Spaces(Dict(_SET), Discrete(4)),
}
"""The spaces that cards are measured on. A stack is measured on the first that it fits."""

COUNTED = ("V", "P84")
"""The reference tasks, on which parameters are counted wherever the stack fits."""

OWN_TASK = "its own smallest"
"""The task of a policy that fits none of `TASKS`, with tiny spaces of the kinds it declares."""

BATCH = 64
STEPS = 64
LARGE = 1024
"""The size above which an observation is an image. Its training pass then has one step per row, as
sequences of images would not fit in the memory of small machines."""

START_SHARE = 0.1
"""The share of steps that start an episode, in the sequences that are compared with steps."""
COMPARED_ROWS, COMPARED_DRAWS = 5, 3

TURN_SECONDS = 0.4
MAX_TURNS = 20


def measure_card(name: str, registry: Registry) -> Card:
    """Build a policy, or a wrapper around Default, and measure it. Takes seconds.

    Args:
        name: a registered name, an expression or a preset.
        registry: where names are looked up.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        PluginError, MissingDependency, ContractError, BuildError: it can't be built.
        IncompatibleSpace: it fits neither a task nor spaces of the kinds that it declares.
    """
    spec = PolicySpec.parse(stack_around(name, registry))
    task, blueprint = _first_fit(spec, registry)
    subject = subject_of(blueprint)
    counted = _counts(spec, registry, task)
    bare = _counts(PolicySpec(spec.name, spec.kwargs), registry, task) if spec.wrappers else {}
    with _one_thread():
        return Card(
            name=name,
            expression=str(spec),
            task=task,
            parameters=counted,
            added={each: counted[each] - bare[each] for each in counted if each in bare},
            weights=_weights(subject.policy, skipped="policy." if spec.wrappers else ""),
            parity_error=_parity_error(subject) if subject.recurrent else None,
            step_ms=_step_ms(subject),
            training_ms=_training_ms(subject),
            training_rows=_training_rows(subject),
        )


def count_parameters(policy: nn.Module) -> int:
    """Return the number of values that a policy trains. Shared parameters count once."""
    return sum(parameter.numel() for parameter in policy.parameters())


# -- stacks ---------------------------------------------------------------------------------------


def _first_fit(spec: PolicySpec, registry: Registry) -> tuple[str, Blueprint]:
    for task in (*TASKS, OWN_TASK):
        fitting = _fitting(spec, registry, task)
        if fitting is not None:
            return task, fitting[0]
    record = registry.get(spec.name, kind="policy")
    raise IncompatibleSpace(
        f"{str(spec)!r} fits none of the tasks that cards are measured on: {', '.join(TASKS)}.",
        fix=f"Correct what {record.provenance.origin} declares of its observations and actions.",
    )


def _fitting(spec: PolicySpec, registry: Registry, task: str) -> tuple[Blueprint, int] | None:
    """Return the stack for a task and its number of parameters, or None where it does not fit."""
    try:
        blueprint = prepare(spec, _spaces(spec, registry, task), registry=registry)
        with seeded(0):
            return blueprint, count_parameters(blueprint.build(strict=True))
    except IncompatibleSpace:
        return None


def _spaces(spec: PolicySpec, registry: Registry, task: str) -> Spaces:
    if task in TASKS:
        return TASKS[task]
    record = registry.get(spec.name, kind="policy")
    return spaces_for(getattr(record, "capabilities", None))[0]


def _counts(spec: PolicySpec, registry: Registry, task: str) -> dict[str, int]:
    """Return the number of parameters for `task` and for each reference task that fits."""
    fittings = {each: _fitting(spec, registry, each) for each in dict.fromkeys((*COUNTED, task))}
    return {each: fitting[1] for each, fitting in fittings.items() if fitting is not None}


def _weights(policy: nn.Module, *, skipped: str) -> dict[str, Weight]:
    return {
        name: Weight(tuple(parameter.shape), drawn_as(parameter))
        for name, parameter in policy.named_parameters()
        if not skipped or not name.startswith(skipped)
    }


# -- measurements ---------------------------------------------------------------------------------


def _parity_error(subject: Subject) -> float:
    # With noise in the weights: behind a gate that starts at zero, a difference would not show.
    policy = perturbed_copy(subject)
    return max(_gap(subject, policy, seed) for seed in range(COMPARED_DRAWS))


def _gap(subject: Subject, policy: nn.Module, seed: int) -> float:
    observations = subject.observations(COMPARED_ROWS, steps=STEPS, seed=seed)
    uniform = torch.rand(COMPARED_ROWS, STEPS, generator=torch.Generator().manual_seed(seed))
    starts = uniform < START_SHARE
    steps, _ = step_through(subject, policy, observations, starts=starts)
    return difference(in_sequence(subject, policy, observations, starts=starts), steps)


def _step_ms(subject: Subject) -> float:
    policy = subject.copy_policy()
    observations, state = subject.observations(BATCH), subject.state(BATCH, policy)
    starts = torch.zeros(BATCH, dtype=torch.bool)
    return _fastest_ms(lambda: subject.step(observations, state, starts=starts, policy=policy))


def _training_ms(subject: Subject) -> float:
    policy = subject.copy_policy(training=True)
    batch, steps = _training_rows(subject)
    observations = subject.observations(batch, steps=steps)
    starts = torch.zeros(batch, steps, dtype=torch.bool)

    def run() -> None:
        logits, values = subject.sequence(observations, starts=starts, policy=policy, grad=True)
        loss: Tensor = flatten_logits(logits).sum() + values.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        policy.zero_grad()

    return _fastest_ms(run)


def _training_rows(subject: Subject) -> tuple[int, int]:
    size = sum(leaf.numel() for leaf in leaves(subject.observations(1)))
    return BATCH, 1 if size > LARGE else STEPS


def _fastest_ms(run: Callable[[], object]) -> float:
    """Return the CPU milliseconds of the fastest turn, as a busy machine only ever adds time."""
    run()  # warms up: the first call compiles, allocates and fills caches
    turns: list[float] = []
    while len(turns) < 2 or (sum(turns) < TURN_SECONDS and len(turns) < MAX_TURNS):
        start = time.process_time()
        run()
        turns.append(time.process_time() - start)
    return round(min(turns) * 1e3, 3)


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
