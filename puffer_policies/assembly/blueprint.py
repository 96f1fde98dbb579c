"""From a name to a `Blueprint`, which can be built any number of times.

Names are resolved, and what can't fit is refused, before anything is imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import nn

from puffer_policies.assembly.fit import require_fit, require_stack
from puffer_policies.contract import NEEDS_MASK, NEEDS_PREVIOUS, require_members
from puffer_policies.errors import BuildError, ContractError, PolicyError, did_you_mean, short
from puffer_policies.foreign import error_text, foreign_code
from puffer_policies.nn.observations import require_readable
from puffer_policies.registry import Registry
from puffer_policies.registry.names import target_of
from puffer_policies.registry.records import (
    Capabilities,
    Layer,
    PolicyRecord,
    Provenance,
    Record,
    WrapperRecord,
)
from puffer_policies.registry.specs import PolicySpec, WrapperSpec
from puffer_policies.spaces import Spaces, spaces_of, with_four_names

WrapperLike = str | WrapperSpec | type[nn.Module]
PolicyLike = str | PolicySpec | type[nn.Module]


def prepare(
    policy: PolicyLike,
    env: Any,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry,
    kwargs: Mapping[str, Any] | None = None,
) -> Blueprint:
    """Resolve every name, and refuse a stack or spaces that can't fit. Nothing is imported.

    A checker can so import and build in another process. Arguments and errors are those of
    `get_policy`.
    """
    if isinstance(policy, type):
        inner, outer = _Component(_class_record(policy, PolicyRecord, registry), kwargs or {}), []
    else:
        spec = spec_of(policy, registry).with_kwargs(kwargs or {})
        record = registry.get(spec.name, kind="policy")
        assert isinstance(record, PolicyRecord)
        inner, outer = _Component(record, spec.kwargs), [*spec.wrappers]
    # A string is iterable, but its characters are not wrappers.
    if isinstance(wrappers, str | Mapping) or not isinstance(wrappers, Iterable):
        raise BuildError(
            f"wrappers should be a list, the innermost first, got {wrappers!r}.",
            fix="Write wrappers=['LSTMWrapper'].",
        )
    stack = tuple(_wrapper_component(each, registry) for each in [*outer, *wrappers])
    spaces = spaces_of(env)
    require_stack(inner.record, [wrapper.record for wrapper in stack])
    require_fit(inner.record, spaces, registry=registry)
    require_readable(spaces.observation)
    # Constructors get the env itself, as some read more of it than its spaces; an id has no more.
    return Blueprint(inner, stack, spaces, spaces if isinstance(env, str) else with_four_names(env))


def plain_defaults(record: Record) -> dict[str, Any]:
    """Return the defaults of a record's constructor that are plain data, as a spec holds them."""
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(record.load()).parameters.items():
        with suppress(BuildError):  # of a parameter without a default, too
            defaults |= WrapperSpec(record.name, {name: parameter.default}).kwargs
    return defaults


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _Component(Generic[R]):
    """A record and the arguments to build it with."""

    record: R
    arguments: Mapping[str, Any]
    """Those that the caller gave."""

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments with the defaults of the record."""
        return {**self.record.defaults, **self.arguments}

    def argument(self, key: str, kwargs: Mapping[str, Any]) -> Any:
        """Return what an argument is in a component built with `kwargs`, by default too."""
        if key in kwargs:
            return kwargs[key]
        parameter = inspect.signature(self.record.load()).parameters.get(key)
        return parameter.default if parameter is not None else inspect.Parameter.empty

    def with_defaults(self, defaults: Mapping[str, Any]) -> _Component[R]:
        """Return this component with those arguments whose defaults are others by now.

        One that the constructor no longer has is left out.
        """
        parameters = inspect.signature(self.record.load()).parameters
        current = {**plain_defaults(self.record), **self.kwargs}
        older = {
            key: value
            for key, value in defaults.items()
            if key in parameters and not (key in current and current[key] == value)
        }
        return replace(self, arguments={**older, **self.arguments})


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A stack whose names are resolved, whose components go together, and that fits its spaces."""

    policy: _Component[PolicyRecord]
    """The policy inside all wrappers."""
    wrappers: tuple[_Component[WrapperRecord], ...]
    """What goes around it, the innermost first."""
    spaces: Spaces
    env: Any
    """The first argument of every constructor."""

    @property
    def spec(self) -> PolicySpec:
        """The stack by qualified names with every default filled in, as a checkpoint stores it."""
        wrappers = [WrapperSpec(w.record.qualified_name, w.kwargs) for w in self.wrappers]
        return PolicySpec(self.record.qualified_name, self.policy.kwargs, tuple(wrappers))

    @property
    def request(self) -> PolicySpec:
        """The stack with the arguments alone that were given."""
        wrappers = [WrapperSpec(w.record.qualified_name, w.arguments) for w in self.wrappers]
        return PolicySpec(self.record.qualified_name, self.policy.arguments, tuple(wrappers))

    @property
    def record(self) -> PolicyRecord:
        """The record of the policy inside all wrappers."""
        return self.policy.record

    @property
    def capabilities(self) -> Capabilities:
        """What the record declares, with the flags that wrappers add, such as a memory."""
        provided = {trait for wrapper in self.wrappers for trait in wrapper.record.provides}
        return self.record.capabilities.with_traits(provided)

    def differences(self, spec: PolicySpec, full: PolicySpec) -> list[str]:
        """Return how a stack differs from this one, apart from arguments that were not given.

        Args:
            spec: the other stack.
            full: it with the defaults that it was built with, as far as they are known.
        """
        stored: list[PolicySpec | WrapperSpec] = [full, *full.wrappers]
        components: list[_Component[Any]] = [self.policy, *self.wrappers]
        if [each.name for each in stored] != [each.record.qualified_name for each in components]:
            return [f"the stack is {spec}"]
        return [
            f"{key} of {other.name} is {short(value)}, not {short(given)}"
            for each, other in zip(components, stored, strict=True)
            for key, given in each.arguments.items()
            if (value := each.argument(key, other.kwargs)) != given
        ]

    def with_defaults(self, spec: PolicySpec) -> Blueprint:
        """Return this stack with those arguments of `spec` whose defaults are others by now.

        Args:
            spec: the same stack with every default that it was once built with.
        """
        wrappers = zip(self.wrappers, spec.wrappers, strict=True)
        return replace(
            self,
            policy=self.policy.with_defaults(spec.kwargs),
            wrappers=tuple(each.with_defaults(other.kwargs) for each, other in wrappers),
        )

    def require_consent(self) -> None:
        """Refuse a stack with code that the user has not consented to. Nothing is imported.

        Raises:
            TrustError: a name is of a registry file that is neither the user's own nor trusted.
        """
        self.record.require_consent()
        for wrapper in self.wrappers:
            wrapper.record.require_consent()

    def load(self) -> type:
        """Import the class of the outermost component."""
        return (self.wrappers[-1] if self.wrappers else self.policy).record.load()

    def build(self, *, strict: bool = False) -> nn.Module:
        """Build the policy; errors are those of `get_policy`.

        Args:
            strict: compare the members of every class and module with the contract.
        """
        module = _build(self.policy, self.wrappers, self.env, strict=strict)
        module.spec = self.spec  # type: ignore[assignment]
        # A wrapper's class sets the attribute itself; a policy may declare it in its record alone.
        for need in self.record.capabilities.traits & {NEEDS_MASK, NEEDS_PREVIOUS}:
            setattr(module, need, True)
        return module


def build_policy(blueprint: Blueprint, registry: Registry, *, strict: bool = True) -> nn.Module:
    """Build a policy and tell the plug-ins; arguments and errors are those of `Blueprint.build`."""
    module = blueprint.build(strict=strict)
    registry.hooks.policy_built(module, blueprint.spec)
    return module


def spec_of(policy: str | PolicySpec, registry: Registry) -> PolicySpec:
    """Return the spec of an expression, a preset or a name, without looking up the names in it."""
    if isinstance(policy, PolicySpec):
        return policy
    if not isinstance(policy, str):
        raise BuildError(
            f"A policy is asked for by name, PolicySpec or class, got {policy!r}.",
            fix="A module that is built already does not need get_policy.",
        )
    return registry.spec(policy)


# -- components ------------------------------------------------------------------------------------


def _wrapper_component(wrapper: WrapperLike, registry: Registry) -> _Component[WrapperRecord]:
    if isinstance(wrapper, type):
        return _Component(_class_record(wrapper, WrapperRecord, registry), {})
    if isinstance(wrapper, str):
        spec = PolicySpec.parse(wrapper)
        if spec.wrappers:
            raise BuildError(
                f"{wrapper!r} is given as a wrapper, but it wraps something already.",
                fix="List one wrapper per entry, or give the whole stack as the policy's "
                "expression.",
            )
        wrapper = WrapperSpec(spec.name, spec.kwargs)
    if not isinstance(wrapper, WrapperSpec):
        raise BuildError(
            f"A wrapper is asked for by name, WrapperSpec or class, got {wrapper!r}.",
            fix="Arguments are given as 'LSTMWrapper(num_layers=2)'.",
        )
    record = registry.get(wrapper.name, kind="wrapper")
    assert isinstance(record, WrapperRecord)
    return _Component(record, wrapper.kwargs)


def _class_record(cls: type, kind: type[R], registry: Registry) -> R:
    """Return the record of a registered class, or make one for a class that is not."""
    for record in registry.records():
        # In a notebook, a cell that runs again defines a new class under the same target, which
        # is not the one that was registered.
        if isinstance(record, kind) and record.is_record_of(cls):
            return record
    place = Provenance(layer=Layer.PROCESS, distribution="local", origin="a class in this process")
    return kind(name=cls.__name__, target=target_of(cls), provenance=place, loaded=cls)


# -- modules ---------------------------------------------------------------------------------------


def _build(
    policy: _Component[PolicyRecord],
    wrappers: tuple[_Component[WrapperRecord], ...],
    env: Any,
    *,
    strict: bool,
) -> nn.Module:
    if not wrappers:
        return _construct(policy, (env,), strict=strict)
    *inner, outermost = wrappers
    # `num_policies` is an attribute of wrappers that hold several policies, built alike.
    count = int(getattr(outermost.record.load(), "num_policies", 1))
    inner_env = _inner_env(outermost, env, num_positional=1 + count)
    policies = [_build(policy, tuple(inner), inner_env, strict=strict) for _ in range(count)]
    return _construct(outermost, (env, *policies), strict=strict)


def _inner_env(wrapper: _Component[WrapperRecord], env: Any, *, num_positional: int) -> Any:
    """Return what the policy inside a wrapper is built for: `env`, or the spaces that it sees.

    A wrapper that changes observations has a static method ``wrapped_spaces(spaces, **kwargs)``.
    """
    cls = wrapper.record.load()
    wrapped_spaces = getattr(cls, "wrapped_spaces", None)
    if wrapped_spaces is None:
        return env
    # Before the call, as a wrong keyword would be a TypeError in it.
    _require_arguments(cls, wrapper.record.name, wrapper.kwargs, num_positional=num_positional)
    outside = spaces_of(env)
    with _explained(wrapper):
        inside = wrapped_spaces(outside, **wrapper.kwargs)
    return env if inside is outside else inside


def _explained(component: _Component[Any]) -> AbstractContextManager[None]:
    """Turn whatever the code of a component raises into a `BuildError` that names it."""
    record = component.record

    def failure(error: BaseException) -> PolicyError:
        if isinstance(error, PolicyError):
            return error
        return BuildError(
            f"Building {record.name!r} with {short(dict(component.kwargs))} failed: "
            f"{error_text(error)}",
            fix=f"Its class is {record.target}.",
        )

    # It may be a stranger's code: one that calls sys.exit must not end this process.
    return foreign_code(f"building {record.qualified_name}", failure)


def _construct(
    component: _Component[Any], arguments: tuple[Any, ...], *, strict: bool
) -> nn.Module:
    record, kwargs = component.record, component.kwargs
    name, cls = record.name, record.load()
    if strict:
        _require_class(cls, name=record.qualified_name)
    _require_arguments(cls, name, kwargs, num_positional=len(arguments))
    with _explained(component):
        module: nn.Module = cls(*arguments, **kwargs)
    if strict:
        require_members(module, name=record.qualified_name)
    return module


# Cached, as signatures are slow to read: with it, static validation costs less than 1 ms.
@functools.cache
def _require_class(cls: type, *, name: str) -> None:
    if not issubclass(cls, nn.Module):
        raise ContractError(
            f"{name!r} is {cls!r}, which is not a torch.nn.Module.",
            fix="Derive it from nn.Module, or from puffer_policies.nn.actor_critic.ActorCritic.",
        )
    require_members(cls, name=name)


def _require_arguments(
    cls: type, name: str, kwargs: Mapping[str, Any], *, num_positional: int
) -> None:
    """Compare keywords with the constructor, and list unknown and missing ones in one error."""
    parameters = list(inspect.signature(cls).parameters.values())
    # Only the constructor itself can know the names that its **kwargs take.
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    accepted = {p.name: p for p in parameters[num_positional:] if p.kind is not p.VAR_POSITIONAL}
    problems = [
        f"no argument {key!r}" + (f" ({hint})" if (hint := did_you_mean(key, accepted)) else "")
        for key in kwargs
        if key not in accepted
    ]
    problems += [
        f"argument {key!r} is missing"
        for key, p in accepted.items()
        if p.default is p.empty and key not in kwargs
    ]
    if problems:
        signature = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in accepted.values()
        )
        raise BuildError(
            f"Can't build {name!r}: {'; '.join(problems)}.",
            fix=f"Its arguments: {signature or 'none'}.",
        )
