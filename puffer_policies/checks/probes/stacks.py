"""A wrapper around a memory and around a mask: what it is given there, it has to hand on.

A wrapper that is checked by itself goes around `Default`, which has neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from puffer_policies.assembly.factory import get_policy
from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import ContractError, PolicyError
from puffer_policies.registry.records import Capabilities
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.wrappers.base import PolicyWrapper

INSIDE = "Default"

A_MEMORY, A_MASK = "LSTMWrapper", "ActionMaskWrapper"
"""Wrappers that stand for all memories and for all masks."""


def is_bare_wrapper(subject: Subject) -> bool:
    """Whether it is one wrapper around `Default`, with default arguments and without a memory."""
    policy = subject.policy
    spec = getattr(policy, "spec", None)
    if not isinstance(policy, PolicyWrapper) or not isinstance(spec, PolicySpec):
        return False
    is_alone = len(spec.wrappers) == 1 and not spec.wrappers[0].kwargs and not spec.kwargs
    return is_alone and spec.name.endswith(f"/{INSIDE}") and not subject.recurrent


def around(subject: Subject, wrapper: str) -> Subject | None:
    """Return a bare wrapper around `wrapper` around `Default`; None where that can't be."""
    cls, spaces = type(subject.policy), subject.spaces
    needs_mask = Capabilities(needs_mask=True) if wrapper == A_MASK else None
    stack = replace(
        subject,
        name=f"{cls.__name__}({wrapper}({INSIDE}))",
        build=lambda: get_policy(INSIDE, spaces, wrappers=[wrapper, cls], validate="off"),
        cls=None,
        capabilities=needs_mask,
        _measurements={},
        _original=None,
    )
    try:
        _ = stack.policy
    except PolicyError:  # it refuses such a policy, and says so
        return None
    return stack


@contextmanager
def reported_around(subject: Subject, wrapper: str) -> Iterator[None]:
    """Say in a failure inside which stack it was found, and how to build that."""
    try:
        try:
            yield
        except ContractError as error:  # what is inside misses what it needs
            raise CheckFailed("the state to reach the policy inside", error.problem) from error
    except CheckFailed as failure:
        lines = (
            "from puffer_policies import get_policy",
            f"wrappers = [{wrapper!r}, type(policy)]",
            f"policy = get_policy({INSIDE!r}, spaces, wrappers=wrappers)",
        )
        raise CheckFailed(
            failure.expected,
            f"{failure.actual}, around {wrapper}({INSIDE})",
            example="\n".join((*lines, failure.example)),
        ) from failure
