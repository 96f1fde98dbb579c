"""Which registered policies fit an environment, and the reasons of the others. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from puffer_policies.errors import BuildError, IncompatibleSpace, PolicyError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import Capabilities, PolicyRecord, WrapperRecord
from puffer_policies.spaces import (
    Spaces,
    action_layout,
    described,
    image_size,
    spaces_of,
)
from puffer_policies.spaces.entities import observation_kinds


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether one policy fits one environment, with every reason why it does not."""

    name: str
    """The shortest unambiguous name of the policy."""
    record: PolicyRecord
    reasons: tuple[str, ...]
    """Empty if the policy fits."""

    @property
    def fits(self) -> bool:
        """Whether the policy can be built for the environment."""
        return not self.reasons


def fits(env: Any, *, registry: Registry) -> list[Fit]:
    """Compare the capabilities of every policy of `registry` with the spaces of `env`.

    Raises:
        EnvError: `env` is not an environment.
    """
    spaces = spaces_of(env)
    records = {name: registry.get(name) for name in registry.names("policy")}
    return [
        Fit(name, record, tuple(misfits(record.capabilities, spaces)))
        for name, record in records.items()
        if isinstance(record, PolicyRecord)
    ]


def misfits(capabilities: Capabilities, spaces: Spaces) -> list[str]:
    """Return every reason why a policy of these capabilities can't serve `spaces`."""
    return [*_observation_misfits(capabilities, spaces), *_action_misfits(capabilities, spaces)]


def require_fit(record: PolicyRecord, spaces: Spaces, *, registry: Registry) -> None:
    """Raise `IncompatibleSpace` unless the policy of `record` can serve `spaces`."""
    reasons = misfits(record.capabilities, spaces)
    if not reasons:
        return
    fitting = [fit.name for fit in fits(spaces, registry=registry) if fit.fits]
    fix = f"Policies that fit: {', '.join(fitting)}." if fitting else "No registered policy fits."
    raise IncompatibleSpace(f"{record.name!r} does not fit: {'; '.join(reasons)}.", fix=fix)


def require_stack(policy: PolicyRecord, wrappers: Iterable[WrapperRecord]) -> None:
    """Raise `BuildError` if a wrapper can't go around what is inside it. Nothing is imported.

    A stack has the traits of its policy and those that its wrappers provide.
    """
    holders = dict.fromkeys(policy.capabilities.traits, policy.name)
    stack = policy.name
    for wrapper in wrappers:
        missing = [trait for trait in wrapper.requires if trait not in holders]
        clashing = [trait for trait in wrapper.forbids if trait in holders]
        if missing:
            raise BuildError(
                f"{wrapper.name!r} can't wrap {stack}: it requires {missing[0]!r}, which nothing "
                "in that stack has.",
                fix=f"Put a wrapper that provides {missing[0]!r} inside {wrapper.name!r}.",
            )
        if clashing:
            holder, own = holders[clashing[0]], wrapper.name
            raise BuildError(
                f"{own!r} can't wrap {stack}: it forbids {clashing[0]!r}, which {holder!r} in "
                "that stack has.",
                fix=f"Use one of {holder!r} and {own!r}." if holder != own else "Use it once.",
            )
        holders.update(dict.fromkeys(wrapper.provides, wrapper.name))
        stack = f"{wrapper.name}({stack})"


def _observation_misfits(capabilities: Capabilities, spaces: Spaces) -> list[str]:
    try:
        kinds = observation_kinds(spaces.observation)
    except PolicyError as error:
        return [error.problem.rstrip(".")]
    readable = capabilities.observations
    if readable and not set(kinds) & set(readable):
        label = f"{kinds[0]} {described(spaces.observation)}"
        return [f"it reads {' or '.join(readable)} observations, got {label}"]
    # A stack of convolutions has a smallest input, below which nothing is left to flatten.
    size = image_size(spaces.observation) if kinds[0] == "image" else None
    if size and min(size) < capabilities.min_image_size:
        smallest = capabilities.min_image_size
        return [f"it reads images of at least {smallest}x{smallest}, got {size[0]}x{size[1]}"]
    return []


def _action_misfits(capabilities: Capabilities, spaces: Spaces) -> list[str]:
    try:
        kind = action_layout(spaces.action).kind
    except PolicyError as error:
        return [error.problem.rstrip(".")]
    if capabilities.actions and kind not in capabilities.actions:
        kinds = " or ".join(capabilities.actions)
        return [f"it serves {kinds} actions, got {kind} {described(spaces.action)}"]
    return []
