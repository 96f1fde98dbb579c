"""From logits and values to plain numbers, and what a distribution says of given actions.

`N` rows, `n` numbers a row. Checks that compare a policy with itself use `numbers`: every number of
the logits, and the value. Checks of probabilities use `describe`: log-probabilities of fixed
actions, and the entropy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.parts import (
    form_of,
    label,
    parts_of,
    places_of,
    tensors_of,
)
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.nn.distributions import Distribution
from puffer_policies.spaces import ActionLayout

FIXED_ACTIONS = 3

LOGITS = "a Tensor, a tuple of Tensors, torch.distributions.Normal, or a dict or tuple of them"
"""What logits may be without a registered type."""


def flatten_logits(logits: Any) -> Tensor:
    """Return all numbers of logits beside each other, (N, n), with the rows that the policy gave.

    Raises:
        CheckFailed: the logits are of no type that the contract names.
    """
    tensors = tensors_of(logits)
    if tensors is None:
        raise CheckFailed(f"logits that are {LOGITS}", f"logits of type {type(logits).__name__}")
    return torch.cat(
        [each.flatten(1) if each.ndim > 1 else each.unsqueeze(1) for each in tensors], 1
    )


def numbers(subject: Subject, logits: Any, values: Tensor, rows: int) -> Tensor:
    """Return (rows, n): all numbers of the logits, and the value, whatever axes the policy uses.

    Logits of a type that a package registered have no numbers that could be compared; their
    description stands for them. Values of a wrong size are left out, as S1 judges them.

    Raises:
        CheckFailed: the logits can't be shared out among the rows.
    """
    tensors = tensors_of(logits) or [describe(subject, logits)]
    if any(each.numel() % rows for each in tensors):
        shapes = [tuple(each.shape) for each in tensors]
        raise CheckFailed(f"logits with {rows} rows", f"logits of shapes {shapes}")
    if values.numel() == rows:
        tensors.append(values)
    return torch.cat([each.detach().reshape(rows, -1).double() for each in tensors], 1)


def describe(subject: Subject, logits: Any) -> Tensor:
    """Return (N, n): log-probabilities of fixed actions, and the entropy."""
    dist = subject.distribution(logits)
    entropy = dist.entropy()
    # The same in every row, as rows change places; and drawn once, as an export would take the
    # draw for a part of the policy.
    few = subject.once(
        "fixed actions",
        lambda: [fixed_actions(subject.layout, 1, seed=i) for i in range(FIXED_ACTIONS)],
    )
    actions = [each.expand(entropy.shape[0], *each.shape[1:]) for each in few]
    columns = [dist.log_prob(action) for action in actions]
    return torch.stack([*columns, entropy], 1)


def fixed_actions(layout: ActionLayout, rows: int, *, seed: int = 0) -> Tensor:
    """Return random actions of a policy: int64 (N,) or (N, K), or float32 (N, *shape).

    Those of a Dict or Tuple are side by side, as `ActionLayout` has them. Real numbers are near 0,
    where a first policy acts, and within the Box: a distribution with bounds has no density
    outside.
    """
    with seeded(seed):
        if not layout.parts:
            return _fixed_actions(layout, rows)
        columns = [_fixed_actions(leaf, rows).reshape(rows, -1) for _, leaf, _ in layout.leaves()]
    return torch.cat(columns, 1)


def _fixed_actions(layout: ActionLayout, rows: int) -> Tensor:
    if layout.is_continuous:
        low, high = inner_range(layout)
        return low + (high - low) * (0.3 + 0.4 * torch.rand(rows, *layout.shape))
    columns = [torch.randint(n, (rows,)) for n in layout.nvec]
    return columns[0] if layout.kind == "discrete" else torch.stack(columns, 1)


def inner_range(layout: ActionLayout) -> tuple[Tensor, Tensor]:
    """Return the bounds of a Box of reals, within -1..1 where a fresh policy starts.

    A Box that lies elsewhere altogether keeps its own bounds.
    """
    low, high = (
        torch.from_numpy(np.array(bound, dtype=np.float32)) for bound in (layout.low, layout.high)
    )
    near, far = low.clamp(min=-1.0), high.clamp(max=1.0)
    overlaps = far > near
    low, high = torch.where(overlaps, near, low), torch.where(overlaps, far, high)
    # One bound of a Box elsewhere may be missing.
    low = torch.where(low.isinf(), high - 1, low)
    return low, torch.where(high.isinf(), low + 1, high)


def draw(dist: Distribution, count: int, *, seed: int = 0) -> Tensor:
    """Return `count` samples of every row, (count, N, ...)."""
    with seeded(seed):
        return torch.stack([dist.sample() for _ in range(count)])


def log_probs(subject: Subject, logits: Any, actions: Tensor) -> Tensor:
    """Return the log-probabilities of many actions of every row, (D, N, ...) -> (D, N).

    Logits of a known form are repeated, as one call costs much less than D.
    """
    count = len(actions)
    many = _repeated(logits, count)
    if many is None:
        dist = subject.distribution(logits)
        return torch.stack([dist.log_prob(action) for action in actions])
    flat: Tensor = subject.distribution(many).log_prob(actions.flatten(0, 1))
    return flat.reshape(count, -1)


def _repeated(logits: Any, count: int) -> Any:
    """Return the rows of logits `count` times, one after the other; None for another type."""

    def repeat(rows: Tensor) -> Tensor:
        return rows.repeat(count, *[1] * (rows.ndim - 1))

    if type(logits) is Tensor:
        return repeat(logits)
    if type(logits) is Normal:
        return Normal(repeat(logits.loc), repeat(logits.scale), validate_args=False)
    if type(logits) not in (tuple, list, dict):
        return None
    parts = logits if isinstance(logits, dict) else dict(enumerate(logits))
    many = {key: _repeated(each, count) for key, each in parts.items()}
    if any(each is None for each in many.values()):
        return None
    return many if isinstance(logits, dict) else tuple(many.values())


def sum_of_outputs(dist: Distribution, values: Tensor) -> Tensor:
    """Return the sum of a log-probability, the entropy and the values: a loss that reaches all."""
    log_prob = dist.log_prob(draw(dist, 1)[0])
    total: Tensor = log_prob.sum() + dist.entropy().sum() + values.sum()
    return total


def not_finite(subject: Subject, logits: Any) -> str:
    """Return words for the parts of an action whose log-probability or entropy is not finite."""
    names = []
    for part in parts_of(subject.layout, logits):
        dist = subject.distribution(part.logits_of(logits))
        numbers = torch.cat([dist.log_prob(draw(dist, 1)[0]), dist.entropy()])
        if part.keys and not bool(torch.isfinite(numbers).all()):
            names.append(label(part.keys))
    return " and".join(names)


def misfit(layout: ActionLayout, logits: Any, rows: int) -> tuple[str, str] | None:
    """Return what logits of some rows should be and are; None if they fit the action space.

    Logits of a type that a package registered fit, as only their distribution can tell.
    """
    return _misfit(layout, logits, rows, ())


def _misfit(
    layout: ActionLayout, logits: Any, rows: int, keys: tuple[Any, ...]
) -> tuple[str, str] | None:
    tensors, form = tensors_of(logits), form_of(logits)
    if tensors is None and form not in ("dict", "tuple"):
        return None
    where = label(keys, "for")
    if layout.parts:
        places = places_of(logits)
        if (form, places) != (layout.kind, list(layout.parts)):
            text = f"a {form} with {places}" if form in ("dict", "tuple") else f"a {form}"
            return f"a {layout.kind} with the parts {list(layout.parts)}{where}", text
        misfits = (
            _misfit(part, logits[key], rows, (*keys, key)) for key, part in layout.parts.items()
        )
        return next(filter(None, misfits), None)
    expected = {"discrete": "Tensor", "box": "Normal"}.get(layout.kind, "tuple")
    # A Normal has a location and a scale for each number of the action.
    sizes = [math.prod(layout.shape)] * 2 if layout.is_continuous else list(layout.nvec)
    counts = [each.numel() // rows for each in tensors or ()]
    if (form, counts) == (expected, sizes):
        return None
    return f"a {expected} with {sizes} numbers a row{where}", f"a {form} with {counts}"
