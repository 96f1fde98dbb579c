"""S6, S7, S10: what a policy accepts (dtypes, strides, orders of keys) and leaves alone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.probing import (
    awake,
    constructor,
    given,
    parts,
    rebuilt,
    stepped,
    table,
    tolerance,
    unrolled,
)
from puffer_policies.checks.probes.rollouts import sequence_state
from puffer_policies.checks.probes.subject import BATCH, STEPS, Subject, difference
from puffer_policies.nested import leaves
from puffer_policies.spaces import Spaces


def has_keys(subject: Subject) -> str:
    """Say why the order of keys is no matter, or ''."""
    return "" if _has_keys(subject.spaces.observation) else "its observations have no keys"


@check(
    "S6",
    "dtypes-cast",
    promise="Reads observations in the space's dtype, and real ones in float64; returns float32.",
    why="Environments hand out what NumPy gives them: float64 fails in the first layer, or turns "
    "the losses into float64 (DLR-RM/stable-baselines3#675).",
    fix="Cast where features enter: observations.to(self.encoder.weight.dtype).",
)
def dtypes_cast(subject: Subject) -> None:
    """Run the same numbers in both dtypes."""
    observations, policy = subject.observations(), awake(subject)
    _require_float32(subject, policy, observations)
    double = subject.map(_doubled, observations)
    single = subject.map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, double)
    try:
        _require_float32(subject, policy, double)
        found = stepped(subject, double, policy)
    except (RuntimeError, TypeError, ValueError) as error:
        example = given(subject) + "policy.forward_eval(observations.double(), state)"
        raise CheckFailed("float64 observations are read", str(error), example=example) from error
    wanted = stepped(subject, single, policy)
    if difference(found, wanted) > tolerance(wanted):
        raise CheckFailed(
            "the same outputs for float32 and float64", f"{difference(found, wanted):.2g} apart"
        )


@check(
    "S7",
    "inputs-left-alone",
    promise="Reads inputs of any strides, and writes into none: observations, state, hidden.",
    why="Rollout buffers are views, and are read again in training: an update in place corrupts "
    "them after the action was drawn.",
    fix="Use reshape instead of view, and no operation that ends in an underscore on inputs.",
)
def inputs_left_alone(subject: Subject) -> None:
    """Run on strided copies, and compare what was passed before and after."""
    policy = awake(subject)
    for run, steps in ((stepped, None), (unrolled, STEPS)):
        observations = subject.observations(steps=steps)
        strided = subject.map(_strided, observations)
        wanted = run(subject, observations, policy)
        try:
            found = _direct(subject, strided, policy, steps)
        except RuntimeError as error:
            raise CheckFailed("observations of any strides are read", str(error)) from error
        if difference(found, wanted) > tolerance(wanted):
            gap = difference(found, wanted)
            raise CheckFailed("outputs that do not depend on strides", f"{gap:.2g} apart")
    _require_unwritten(subject, policy)


@check(
    "S10",
    "key-order-free",
    promise="Dict observations mean the same in every order of their keys.",
    why="Environments, vectorisers and checkpoints order keys differently: features then land in "
    "front of the wrong weights (ray-project/ray#24105).",
    fix="Concatenate in sorted order of keys, at construction and in every pass.",
    applies=has_keys,
)
def key_order_free(subject: Subject) -> None:
    """Reverse the keys of observations, then those of the space that the policy is built for."""
    policy, observations = awake(subject), subject.observations()
    wanted = stepped(subject, observations, policy)
    gap = difference(stepped(subject, _reversed(observations), policy), wanted)
    if gap > tolerance(wanted):
        raise _order_failure(
            subject, f"outputs {gap:.2g} apart for observations with keys reversed"
        )
    if constructor(subject) is None:
        return
    other = rebuilt(subject, spaces=_reversed_spaces(subject.spaces)).eval()
    try:
        other.load_state_dict(policy.state_dict())
    except RuntimeError as error:
        raise _order_failure(subject, f"built for reversed keys, it has others: {error}") from error
    gap = difference(stepped(subject, observations, other), wanted)
    if gap > tolerance(wanted):
        raise _order_failure(
            subject, f"built for reversed keys, with the same weights, outputs are {gap:.2g} apart"
        )


CHECKS = (dtypes_cast, inputs_left_alone, key_order_free)


def _doubled(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def _require_float32(subject: Subject, policy: nn.Module, observations: Any) -> None:
    logits, values, _ = subject.step(observations, policy=policy)
    found = {str(each.dtype) for each in (*(parts(logits) or []), values)}
    if found != {"torch.float32"}:
        given_dtypes = {str(each.dtype) for each in leaves(observations)}
        raise CheckFailed(
            f"float32 logits and values from observations of {', '.join(sorted(given_dtypes))}",
            ", ".join(sorted(found)),
            example=given(subject) + "print(policy.forward_eval(observations, state)[1].dtype)",
        )


def _strided(leaf: Tensor) -> Tensor:
    """Return a copy whose first axis is the fastest in memory: what a transposed buffer is."""
    axes = list(range(leaf.ndim))[::-1]
    return leaf.permute(axes).contiguous().permute(axes)


def _direct(subject: Subject, observations: Any, policy: nn.Module, steps: int | None) -> Tensor:
    """Run on `observations` themselves, not on a copy."""
    if steps is None:
        logits, values, _ = subject.step(observations, policy=policy)
        return table(subject, logits, values, BATCH)
    logits, values = subject.sequence(observations, policy=policy)
    return table(subject, logits, values, BATCH * steps)


def _require_unwritten(subject: Subject, policy: nn.Module) -> None:
    for steps, call in ((None, policy.forward_eval), (STEPS, policy)):
        if steps is not None and subject.knows_no_time:
            continue
        observations = subject.observations(steps=steps)
        state = subject.state(BATCH, policy)
        state = state if steps is None else sequence_state(policy, state)
        state = subject.unmasked(dict(state), observations)
        inputs = {f"state[{key!r}]": each for key, each in state.items()}
        inputs |= {f"observations {i}": each for i, each in enumerate(leaves(observations))}
        kept = {name: each.clone() for name, each in inputs.items()}
        with torch.no_grad():
            call(observations, dict(state))  # type: ignore[operator]
        _require_equal(subject, kept, inputs, steps)
    _require_hidden_unwritten(subject, policy)


def _require_hidden_unwritten(subject: Subject, policy: nn.Module) -> None:
    hidden = torch.rand(BATCH, int(policy.hidden_size))  # type: ignore[arg-type]
    kept = hidden.clone()
    with torch.no_grad(), suppress(RuntimeError, TypeError):  # it can't read them: B2, B3
        policy.decode_actions(hidden)  # type: ignore[operator]
    _require_equal(subject, {"hidden": kept}, {"hidden": hidden}, None)


def _require_equal(
    subject: Subject, kept: dict[str, Tensor], now: dict[str, Tensor], steps: int | None
) -> None:
    written = [name for name in kept if not torch.equal(kept[name], now[name])]
    if written:
        raise CheckFailed(
            "tensors that are passed in stay as they are",
            f"written in place: {', '.join(written)}",
            example=given(subject, steps=steps) + "# clone them, call the policy, and compare",
        )


def _has_keys(space: Any) -> bool:
    members = getattr(space, "spaces", None)
    if isinstance(members, Mapping):
        return len(members) > 1 or any(map(_has_keys, members.values()))
    return isinstance(members, tuple) and any(map(_has_keys, members))


def _reversed(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: _reversed(each) for key, each in reversed(observations.items())}
    if isinstance(observations, tuple):
        return tuple(map(_reversed, observations))
    return observations


def _reversed_spaces(spaces: Spaces) -> Spaces:
    return Spaces(_reversed_space(spaces.observation), spaces.action)


def _reversed_space(space: Any) -> Any:
    """Return a copy with the keys of every Dict in it in reverse order."""
    members, other = getattr(space, "spaces", None), copy.copy(space)
    if isinstance(members, Mapping):
        pairs = reversed(list(members.items()))
        other.spaces = OrderedDict((key, _reversed_space(each)) for key, each in pairs)
    elif isinstance(members, tuple):
        other.spaces = tuple(map(_reversed_space, members))
    return other


def _order_failure(subject: Subject, found: str) -> CheckFailed:
    example = given(subject) + "# pass dict(reversed(observations.items())) and compare"
    return CheckFailed("the same outputs for every order of keys", found, example=example)
