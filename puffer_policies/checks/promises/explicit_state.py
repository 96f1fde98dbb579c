"""R: what a policy remembers is in its state, and nowhere else.

`B` rows, `T` steps. `recurrence.CHECKS` lists this check with the others of the family.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Scope, check
from puffer_policies.checks.probes.outputs import numbers
from puffer_policies.checks.probes.rollouts import (
    copy_state,
    each_step,
    in_sequence,
    one_step,
    select,
    sequence_state,
    step_through,
)
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.checks.probes.tolerances import difference, is_same, require_same
from puffer_policies.checks.probes.weights import perturb, perturbed_copy
from puffer_policies.checks.promises.masks import random_mask
from puffer_policies.contract import EPISODE_START
from puffer_policies.spaces.nested import map_nested

LATER = 4
"""Steps after which what grows has grown."""


@check(
    "R6",
    "state-is-explicit",
    promise="All memory is in the state: detached tensors of constant form, with a row per env.",
    why="Trainers store, index and restore the state. What is kept on the module, grows, or holds "
    "the graph of the last segment breaks replay, evaluation and memory.",
    fix="Keep nothing on self between calls. initial_state(batch_size, device) returns a dict of "
    "tensors (B, ...) on that device; write tensors of the same form into `state`, detached.",
    scope=Scope.MODULES,
)
def state_is_explicit(subject: Subject) -> None:
    """Look at the initial state, at that after steps and after forward, and at repeated calls."""
    policy = perturbed_copy(subject)
    if callable(getattr(policy, "initial_state", None)):
        for batch in (1, 2, BATCH):
            _require_rows(policy.initial_state(batch, torch.device("cpu")), batch)  # type: ignore[operator]
        _require_device(policy)
    _require_pure(subject, policy)
    _require_pure_decoder(subject, policy)
    _require_constant_form(subject, policy)
    _require_defaults(subject, policy)
    _require_no_cache(subject, policy)
    if subject.state(1, policy):
        _require_detached(subject, policy)


def _require_rows(state: Any, batch: int) -> None:
    expected = f"initial_state({batch}) to be a dict of tensors with {batch} rows"
    if not isinstance(state, Mapping):
        raise CheckFailed(expected, f"a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckFailed(expected, f"{key!r} is {type(value).__name__}")
        if not value.ndim or len(value) != batch:
            raise CheckFailed(expected, f"{key!r} is {tuple(value.shape)}")


def _require_device(policy: nn.Module) -> None:
    """Ask for the meta device, which every machine has and nobody takes by default."""
    state = policy.initial_state(2, torch.device("meta"))  # type: ignore[operator]
    for key, value in state.items():
        # A learned initial state lives where the weights are.
        if value.device.type != "meta" and not value.requires_grad:
            raise CheckFailed(
                "initial_state(batch_size, device) to make tensors on that device",
                f"{key!r} is on {value.device} for the device 'meta'",
            )


def _require_pure(subject: Subject, policy: nn.Module) -> None:
    """Fail if a call changes what the next one with equal arguments returns."""
    observations = subject.observations(steps=STEPS)

    def require_again(runs: Any, before: list[Tensor]) -> None:
        for run, expected in zip(runs, before, strict=True):
            require_same(
                run(),
                expected,
                "the same observations from the same state give the same outputs again",
                where="after other calls: something is remembered outside the state",
            )

    def steps() -> Tensor:
        with seeded(0):
            return step_through(subject, policy, observations)[0]

    def sequence() -> Tensor:
        with seeded(0):
            return in_sequence(subject, policy, observations)

    # What is remembered of many other steps is remembered of the first and of one with a start.
    before, few = [steps(), sequence()], (slice(None), slice(2))
    for batch in (2, BATCH):
        other = subject.observations(batch, steps=STEPS, seed=3)
        starts = subject.starts(batch, at=[(0, 1)]) if subject.recurrent else None
        _ = list(each_step(subject, policy, select(other, few), starts=starts))
        in_sequence(subject, policy, other, starts=starts)
    require_again((steps, sequence), before)
    if subject.layout.nvec:
        # A mask of the last call has the form of the next one of the same kind.
        mask = random_mask(subject.layout, (BATCH, STEPS))
        _ = list(each_step(subject, policy, select(other, few), mask=mask))
        require_again((steps,), before[:1])
        subject.sequence(other, mask=mask, policy=policy)
        require_again((sequence,), before[1:])


def _require_pure_decoder(subject: Subject, policy: nn.Module) -> None:
    """Fail if what is decoded depends on what was encoded last."""
    width, decode = getattr(policy, "hidden_size", None), getattr(policy, "decode_actions", None)
    if subject.recurrent or not isinstance(width, int) or not callable(decode):
        return
    with seeded(0):
        hidden, answers = torch.rand(BATCH, width), list[Tensor]()
    for seed in (0, 1):
        with torch.no_grad(), suppress(Exception):  # B3 judges whether the halves fit
            policy.encode_observations(subject.observations(seed=seed))  # type: ignore[operator]
            logits, values = decode(hidden)
            answers.append(numbers(subject, logits, values, BATCH))
    if len(answers) == 2 and not is_same(answers[0], answers[1]):
        raise CheckFailed(
            "decode_actions to answer to what it is given alone",
            "the same hidden is answered otherwise after other observations were encoded",
            fix="Hand on in hidden whatever the heads need: a memory between the two halves "
            "decodes other rows than the last that were encoded.",
            example=example(
                "hidden = policy.encode_observations(observations)",
                "policy.encode_observations(subject.observations(seed=1))",
                "print(policy.decode_actions(hidden))",
            ),
        )


def _require_constant_form(subject: Subject, policy: nn.Module) -> None:
    """Fail if a step changes keys, shapes, dtypes or devices of the state, or if anything grows.

    Entries that the first step adds may stay, as PufferLib's `hidden` does.
    """
    observations = subject.observations(steps=LATER)
    first = select(observations, (slice(None), 0))
    state = subject.add_required(dict(subject.state(BATCH, policy)), first)
    forms, sizes = [{key: _form(value) for key, value in state.items()}], []
    for step in range(LATER):
        with torch.no_grad():
            policy.forward_eval(select(observations, (slice(None), step)), state)  # type: ignore[operator]
        forms.append({key: _form(value) for key, value in state.items()})
        sizes.append(_containers(policy))
        # The first step may add entries, but none may change or go.
        before = forms[0] if step == 0 else forms[1]
        after = {key: forms[-1][key] for key in forms[-1] if step or key in before}
        if changed := [key for key in before | after if before.get(key) != after.get(key)]:
            raise CheckFailed(
                "the state to keep its keys, shapes and dtypes from step to step",
                "; ".join(f"{k!r} from {before.get(k)} to {after.get(k)}" for k in changed)
                + f" after {step + 1} steps",
                example=example(
                    f"for _ in range({LATER}):",
                    "    policy.forward_eval(observations, state)",
                    "    print({key: getattr(each, 'shape', each) for key, each in state.items()})",
                ),
            )
    if grown := [key for key in sizes[-1] if _grows([each.get(key, 0) for each in sizes])]:
        raise CheckFailed(
            "nothing on the module to grow from step to step",
            f"{grown[0]} holds {sizes[-1][grown[0]]} entries after {LATER} steps, "
            f"{sizes[0].get(grown[0], 0)} after one",
        )


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} on {value.device}"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return type(value).__name__ + size


def _containers(policy: nn.Module) -> dict[str, int]:
    """Return how many entries each list, dict or queue on a module has."""
    return {
        f"{path}.{name}".lstrip("."): len(value)
        for path, module in policy.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, value in vars(module).items()
        if isinstance(value, list | dict | set | deque)
    }


def _grows(sizes: list[int]) -> bool:
    return all(after > before for before, after in itertools.pairwise(sizes))


def _require_defaults(subject: Subject, policy: nn.Module) -> None:
    """Fail unless no state, None, an empty dict and entries of None all mean the initial state."""
    keys = list(subject.state(1, policy))
    for steps in (None, STEPS):
        if steps and subject.reads_rows_only:
            continue
        observations = subject.observations(steps=steps)
        call: Any = policy if steps else policy.forward_eval
        required = subject.add_required({}, observations)
        empty = dict(required)
        forms: dict[str, Any] = {
            "{}": lambda empty=empty: (empty,),
            "{key: None}": lambda required=required: ({**dict.fromkeys(keys), **required},),
        }
        if not required:
            # Twice without a state: a default that is shared would be another one by then.
            forms |= {"None": lambda: (None,), "no state": tuple, "no state again": tuple}
        with seeded(0):
            run = in_sequence if steps else one_step
            expected = run(subject, policy, observations).reshape(-1, 1)
        for name, arguments in forms.items():
            try:
                with torch.no_grad(), seeded(0):
                    logits, values = call(map_nested(torch.clone, observations), *arguments())
            except Exception as error:
                raise _default_failure(name, steps, error_line(error)) from error
            outputs = numbers(subject, logits, values, BATCH * (steps or 1)).reshape(-1, 1)
            if name == "{}" and steps is None and (absent := [k for k in keys if k not in empty]):
                raise CheckFailed(
                    "forward_eval to write its state into an empty dict, too",
                    f"{', '.join(map(repr, absent))} is not in it afterwards",
                    fix="Test `state is None`, as an empty dict is false as well.",
                    example=example(
                        "state = {}", "policy.forward_eval(observations, state)", "print(state)"
                    ),
                )
            if not is_same(outputs, expected):
                gap = f"outputs {difference(outputs, expected):.2g} apart"
                raise _default_failure(name, steps, gap)


def _default_failure(name: str, steps: int | None, actual: str) -> CheckFailed:
    method = "forward" if steps else "forward_eval"
    state = {"{key: None}": ", dict.fromkeys(state)", "{}": ", {}", "None": ", None"}.get(name, "")
    call = f"print(policy.{method}(observations{state}))"
    return CheckFailed(
        f"{method} to take {name} for the initial state",
        actual,
        example=example(*[call] * (2 if name.endswith("again") else 1), steps=steps),
    )


def _require_no_cache(subject: Subject, policy: nn.Module) -> None:
    """Roll out through one buffer and one dict that are filled anew; then change the weights."""
    observations = subject.observations(steps=STEPS)
    starts = subject.starts(at=[(0, 0), (1, 2)]) if subject.recurrent else None
    with seeded(0):
        expected, _ = step_through(subject, policy, observations, starts=starts)
    buffer = map_nested(torch.clone, select(observations, (slice(None), 0)))
    state = subject.add_required(dict(copy_state(subject.state(BATCH, policy))), buffer)
    rows, flags = [], None if starts is None else starts[:, 0].clone()
    with seeded(0), torch.no_grad():
        for step in range(STEPS):
            map_nested(lambda to, of, t=step: to.copy_(of[:, t]), buffer, observations)
            if starts is not None and flags is not None:
                state[EPISODE_START] = flags.copy_(starts[:, step])
            logits, values = policy.forward_eval(buffer, state)  # type: ignore[operator]
            rows.append(numbers(subject, logits, values, BATCH).clone())
    require_same(
        torch.stack(rows, 1),
        expected,
        "a buffer that is filled anew at each step is read anew",
        where="to new tensors",
        example=example(
            "for _ in range(2):",
            "    subject.map(lambda leaf: leaf.copy_(torch.rand(leaf.shape)), observations)",
            "    print(policy.forward_eval(observations, dict(state)))",
        ),
    )
    last = select(observations, (slice(None), STEPS - 1))
    one_step(subject, policy, last)
    perturb(policy, seed=5)
    other = perturbed_copy(subject)
    other.load_state_dict(policy.state_dict())
    for run, inputs in ((one_step, last), (in_sequence, observations)):
        with seeded(0):
            outputs = run(subject, policy, inputs)
        with seeded(0):
            anew = run(subject, other, inputs)
        require_same(
            outputs,
            anew,
            "outputs follow the weights at once, as after a step of the optimizer",
            where="to a policy that gets the same weights before its first pass",
            example=example(
                "policy.forward_eval(observations, dict(state))",
                "with torch.no_grad(): [each.mul_(2) for each in policy.parameters()]",
                "print(policy.forward_eval(observations, dict(state)))",
            ),
        )


def _require_detached(subject: Subject, policy: nn.Module) -> None:
    """Fail if forward leaves a state that holds the graph of its sequence."""
    observations = subject.observations(steps=2)
    state = sequence_state(policy, copy_state(subject.state(BATCH, policy)))
    with torch.enable_grad():
        policy(observations, subject.add_required(state, observations))
    for key, value in state.items():
        if isinstance(value, Tensor) and value.grad_fn is not None:
            raise CheckFailed(
                f"state[{key!r}] to be detached after forward",
                f"it holds the graph of the whole sequence ({value.grad_fn.name()})",
            )
