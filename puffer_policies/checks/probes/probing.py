"""What checks of build and shape do to a policy: run, vary, rebuild, and show it in text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed, CheckSkipped
from puffer_policies.checks.probes.outputs import described
from puffer_policies.checks.probes.subject import BATCH, Subject, seeded
from puffer_policies.nested import leaves, map_nested
from puffer_policies.spaces import Spaces

WAKE = 0.05
"""Standard deviation of what `awake` adds to every parameter."""


def built(subject: Subject) -> nn.Module:
    """Return the policy, or skip: that it can't be built is the matter of B1."""
    try:
        return subject.policy
    except Exception as error:
        raise CheckSkipped(f"it can't be built (B1): {type(error).__name__}: {error}") from error


def constructor(subject: Subject) -> Callable[..., nn.Module] | None:
    """Return the class if it is known and takes the spaces alone, else None."""
    if subject.cls is None:
        return None
    try:
        inspect.signature(subject.cls).bind(subject.spaces)
    except (TypeError, ValueError):
        return None
    return subject.cls


def needs_constructor(subject: Subject) -> str:
    """Say why a check that builds the class with other arguments does not apply, or ''."""
    if subject.cls is None:
        return "its class is not known, only how to build it"
    return "" if constructor(subject) else "its class takes more than an env"


def rebuilt(
    subject: Subject, *, spaces: Spaces | None = None, arguments: dict[str, Any] | None = None
) -> nn.Module:
    """Build the class for other spaces or arguments, under a fixed seed."""
    cls = constructor(subject)
    assert cls is not None, "guard the check with needs_constructor"
    with seeded(0):
        return cls(spaces or subject.spaces, **(arguments or {}))


def awake(subject: Subject, *, training: bool = False) -> nn.Module:
    """Return a copy whose every parameter has a little noise, in eval mode unless `training`.

    A policy whose last layers start at zero answers to nothing, and so would hide its defects.
    """
    policy = subject.copied()
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.parameters():
            drawn = torch.randn(parameter.shape, generator=noise, dtype=torch.float32)
            parameter.add_(WAKE * drawn.to(parameter))
    return policy.train(training)


def parts(logits: Any) -> list[Tensor] | None:
    """Return the tensors of logits, loc and scale of a Normal; None for a type of another kind."""
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(logits, tuple | list) and all(isinstance(each, Tensor) for each in logits):
        return list(logits)
    return [logits.loc, logits.scale] if isinstance(logits, Normal) else None


def table(subject: Subject, logits: Any, values: Tensor, rows: int) -> Tensor:
    """Return all outputs as (rows, n), whatever axes the policy gave them.

    Logits of a type that a package registered are described by log-probabilities.

    Raises:
        CheckFailed: some output can't be shared out among the rows.
    """
    found = [*(parts(logits) or [described(subject, logits)]), values]
    if any(each.numel() % rows for each in found):
        shapes = [tuple(each.shape) for each in found]
        raise CheckFailed(f"outputs with {rows} rows", f"logits and values of shapes {shapes}")
    return torch.cat([each.detach().reshape(rows, -1).double() for each in found], 1)


def stepped(subject: Subject, observations: Any, policy: nn.Module) -> Tensor:
    """Run one step from the initial state on a copy of `observations` -> (B, n)."""
    rows = len(next(leaves(observations)))
    logits, values, _ = subject.step(subject.map(torch.clone, observations), policy=policy)
    return table(subject, logits, values, rows)


def unrolled(subject: Subject, observations: Any, policy: nn.Module) -> Tensor:
    """Run a sequence from the initial state on a copy of `observations` -> (B*T, n)."""
    rows, steps = next(leaves(observations)).shape[:2]
    logits, values = subject.sequence(subject.map(torch.clone, observations), policy=policy)
    return table(subject, logits, values, rows * steps)


def tolerance(reference: Tensor) -> float:
    """Return 1e-5, scaled by the magnitude of the numbers that are compared."""
    return 1e-5 * max(1.0, float(reference.abs().max()) if reference.numel() else 1.0)


def other_at(subject: Subject, observations: Any, index: tuple[int, ...]) -> Any:
    """Return `observations` with another observation at `index`.

    Raises:
        CheckSkipped: the space seems to hold only one.
    """
    lead = tuple(next(leaves(observations)).shape[: len(index)])
    steps = lead[1] if len(lead) == 2 else None
    for seed in range(1, 6):
        drawn = iter(leaves(subject.observations(lead[0], steps=steps, seed=seed)))
        changed = map_nested(partial(_put, drawn=drawn, index=index), observations)
        pairs = zip(leaves(changed), leaves(observations), strict=True)
        if any(not torch.equal(new, old) for new, old in pairs):
            return changed
    raise CheckSkipped("its observation space holds one observation only")


def given(subject: Subject, batch: int = BATCH, steps: int | None = None) -> str:
    """Return lines of Python that make zero observations and a state, for examples."""
    observations = _literal(subject.observations(batch, steps=steps))
    state = f"policy.initial_state({batch})"
    if not callable(getattr(subject.policy, "initial_state", None)):
        state = "{}"
        if subject.state(1):
            zeros = f"torch.zeros({batch}, policy.hidden_size)"
            state = f'{{"lstm_h": {zeros}, "lstm_c": {zeros}}}'
    return f"import torch\nobservations = {observations}\nstate = {state}\n"


def _literal(observations: Any) -> str:
    if isinstance(observations, dict):
        members = (f"{key!r}: {_literal(each)}" for key, each in observations.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(observations, tuple):
        return f"({''.join(_literal(each) + ', ' for each in observations)})"
    return f"torch.zeros({tuple(observations.shape)}, dtype={observations.dtype})"


def _put(leaf: Tensor, *, drawn: Iterator[Tensor], index: tuple[int, ...]) -> Tensor:
    """Return `leaf` with the element of the next drawn leaf at `index`."""
    changed = leaf.clone()
    changed[index] = next(drawn)[index]
    return changed
