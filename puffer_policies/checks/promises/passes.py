"""B9: a pass runs and returns what others are judged by.

It is the first check that runs a policy. Where it fails, no other does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, Level, check
from puffer_policies.checks.probes.cures import cure_of
from puffer_policies.checks.probes.outputs import LOGITS
from puffer_policies.checks.probes.parts import label, leaves_of, tensors_of
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, seeded
from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces.nested import leaves

STEP = "forward_eval(observations, state)"
SEQUENCE = "forward(observations, state)"


@check(
    "B9",
    "runs",
    promise="Runs on a few rows, a step and a sequence, and returns logits and values.",
    why="Nothing trains, and no other promise can be judged, before they do.",
    fix="Return the pair (logits, values), of floating-point tensors.",
    level=Level.ERROR,
)
def runs(subject: Subject) -> None:
    """Run a step, forward on rows, and forward on sequences where the policy reads them."""
    policy = _Judged(subject.copy_policy())
    rows, sequence = subject.observations(), subject.observations(steps=STEPS)
    with seeded(0):
        with _running(STEP, rows, "B"):
            subject.step(rows, policy=policy)  # type: ignore[arg-type]
        with _running(SEQUENCE, rows, "B"):
            subject.sequence(rows, policy=policy)  # type: ignore[arg-type]
        if not subject.reads_rows_only:
            with _running(SEQUENCE, sequence, "B, T", steps=STEPS):
                subject.sequence(sequence, policy=policy)  # type: ignore[arg-type]


class _Judged:
    """A policy whose outputs are judged before anybody unpacks them."""

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._policy, name)
        return partial(self._judge, member, name, STEP) if name == "forward_eval" else member

    def __call__(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self._judge(self._policy, "forward", SEQUENCE, observations, state)

    def _judge(
        self, run: Callable[..., Any], method: str, call: str, observations: Any, state: Any = None
    ) -> tuple[Any, Tensor]:
        return _pair(run(observations, state), call, _place(self._policy, method))


@contextmanager
def _running(
    call: str, observations: Any, lead: str, *, steps: int | None = None
) -> Iterator[None]:
    """Run a pass; what it raises is a failure of it, on observations that begin with `lead`."""
    try:
        with torch.no_grad():
            yield
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        axes = lead.count(",") + 1
        shapes = ", ".join(
            f"({', '.join([lead, *map(str, each.shape[axes:])])}) {_dtype(each)}"
            for each in leaves(observations)
        )
        raise CheckFailed(
            f"{call} runs on observations of {shapes}",
            error_line(error),
            fix=cure_of(error),
            example=example(f"print(policy.{call})", steps=steps),
        ) from error


def _pair(outputs: Any, call: str, place: str) -> tuple[Any, Tensor]:
    """Return outputs that are logits and values.

    Raises:
        CheckFailed: they are not.
    """

    def failure(expected: str, actual: str, fix: str = "") -> CheckFailed:
        lines = example(f"print(policy.{call})", batch=BATCH)
        return CheckFailed(f"{expected} from {call}", actual, example=lines, where=place, fix=fix)

    if not (isinstance(outputs, tuple | list) and len(outputs) == 2):
        raise failure(
            "the pair (logits, values)",
            _kind(outputs),
            "Return logits and values and nothing else: what is carried on belongs into state, "
            "and what is only looked at into attributes.",
        )
    logits, values = outputs
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise failure("values in a floating-point tensor", _kind(values))
    parts = list(leaves_of(logits)) or [((), None)]
    for keys, part in parts:
        if distribution.dispatch(type(part)) is distribution.dispatch(object):
            raise failure(
                f"logits that are {LOGITS}",
                f"{_kind(part)}{label(keys, 'for')}",
                "Return the logits themselves, such as the logits of a Categorical, or register "
                "the type with puffer_policies.nn.distributions.distribution.register.",
            )
        if not all(each.is_floating_point() for each in tensors_of(part) or ()):
            text = f"{_kind(part)}{label(keys, 'for')}"
            raise failure("logits in floating-point tensors", text)
        if keys and not hasattr(distribution(part), "event_shape"):
            raise failure(
                f"a distribution with an event_shape{label(keys, 'for')}",
                f"a {type(distribution(part)).__name__}, which has none",
                "Give it the property event_shape, the shape of one action: () for one choice, "
                "(K,) for K of them. Of a part of a Dict or Tuple it is asked for.",
            )
    return logits, values


def _place(policy: nn.Module, method: str) -> str:
    """Return ``file:line in method`` of a method that was written in Python."""
    code = getattr(inspect.unwrap(getattr(type(policy), method)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno} in {method}" if code else ""


def _kind(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {_dtype(value)}, of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(each).__name__ for each in value)
        return f"a {type(value).__name__} of {len(value)}: {kinds}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


CHECKS = (runs,)
