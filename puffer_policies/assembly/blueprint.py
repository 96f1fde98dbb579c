"""From a name to a `Blueprint`, which can be built any number of times.

Names are resolved, and what can't fit is refused, before anything is imported.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from torch import nn

from puffer_policies.assembly.fit import require_fit, require_stack
from puffer_policies.contract import NEEDS_MASK, NEEDS_PREVIOUS, require_members
from puffer_policies.errors import (
    BuildError,
    ContractError,
    IncompatibleSpace,
    PolicyError,
    did_you_mean,
    short,
)
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
Defaults = Mapping[str, Mapping[str, Any]]
"""Arguments by the qualified name whose defaults they are."""


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
    spaces = spaces_of(env)  # once: an id makes an env
    stack = tuple(
        _with_policies(_wrapper_component(each, registry), spaces, registry)
        for each in [*outer, *wrappers]
    )
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
    policies: Mapping[str, Blueprint] = field(default_factory=dict)
    """What those of its arguments lead to that are expressions of policies."""

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments with the defaults of the record."""
        named = {key: str(each.spec) for key, each in self.policies.items()}
        return {**self.record.defaults, **self.arguments, **named}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that the constructor gets by keyword: all but those of policies."""
        names = getattr(self.record, "policy_arguments", ())
        return {key: value for key, value in self.kwargs.items() if key not in names}

    def has(self, key: str, value: Any, stored: Any) -> bool:
        """Return whether an argument that was given says the same as one of another stack."""
        if key not in self.policies or not isinstance(stored, str):
            return bool(value == stored)
        spec = PolicySpec.parse(stored)
        return not self.policies[key].differences(spec, spec)

    def argument(self, key: str, kwargs: Mapping[str, Any]) -> Any:
        """Return what an argument is in a component built with `kwargs`, by default too."""
        if key in kwargs:
            return kwargs[key]
        if key in getattr(self.record, "policy_arguments", ()):
            return None  # built like the policy itself
        parameter = inspect.signature(self.record.load()).parameters.get(key)
        return parameter.default if parameter is not None else inspect.Parameter.empty

    def with_defaults(self, defaults: Mapping[str, Any], by_name: Defaults) -> _Component[R]:
        """Return this component with those arguments whose defaults are others by now.

        One that the constructor no longer has is left out.

        Args:
            defaults: those of this component.
            by_name: those of the names in its arguments that are expressions of policies.
        """
        parameters = inspect.signature(self.record.load()).parameters
        current = {**plain_defaults(self.record), **self.kwargs}
        older = {
            key: value
            for key, value in defaults.items()
            if key in parameters and not (key in current and current[key] == value)
        }
        policies = {
            key: each.with_defaults(each.spec.with_defaults(by_name), by_name)
            for key, each in self.policies.items()
        }
        return replace(self, arguments={**older, **self.arguments}, policies=policies)


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
        for each in self._policies():
            provided |= each.capabilities.traits
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
            if not each.has(key, given, value := each.argument(key, other.kwargs))
        ]

    def with_defaults(self, spec: PolicySpec, by_name: Defaults) -> Blueprint:
        """Return this stack with those arguments of `spec` whose defaults are others by now.

        Args:
            spec: the same stack with every default that it was once built with.
            by_name: the defaults of all names, also of those in arguments, at that time.
        """
        wrappers = zip(self.wrappers, spec.wrappers, strict=True)
        return replace(
            self,
            policy=self.policy.with_defaults(spec.kwargs, by_name),
            wrappers=tuple(each.with_defaults(other.kwargs, by_name) for each, other in wrappers),
        )

    def require_consent(self) -> None:
        """Refuse a stack with code that the user has not consented to. Nothing is imported.

        Raises:
            TrustError: a name is of a registry file that is neither the user's own nor trusted.
        """
        self.record.require_consent()
        for wrapper in self.wrappers:
            wrapper.record.require_consent()
        for each in self._policies():
            each.require_consent()

    def names(self) -> Iterator[str]:
        """Yield the qualified names in the stack, from the innermost, then those of arguments."""
        yield self.record.qualified_name
        yield from (wrapper.record.qualified_name for wrapper in self.wrappers)
        for each in self._policies():
            yield from each.names()

    def _policies(self) -> Iterator[Blueprint]:
        """Yield what arguments of the wrappers lead to."""
        for wrapper in self.wrappers:
            yield from wrapper.policies.values()

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


def _with_policies(
    wrapper: _Component[WrapperRecord], spaces: Spaces, registry: Registry
) -> _Component[WrapperRecord]:
    """Return a wrapper whose arguments that are expressions of policies are resolved."""
    record, blueprints = wrapper.record, dict[str, Blueprint]()
    for key in record.policy_arguments:
        expression = wrapper.kwargs.get(key)
        if expression is None:
            continue
        if not isinstance(expression, str):
            raise BuildError(
                f"{key}={expression!r} of {record.name!r} should be the expression of a policy.",
                fix=f"Write {key}='LSTMWrapper(Default)'.",
            )
        blueprint = blueprints[key] = prepare(expression, spaces, registry=registry)
        inside = {trait for each in blueprint.wrappers for trait in each.record.provides}
        clashing = sorted(inside.intersection(record.forbids))
        if clashing:
            raise BuildError(
                f"{key}={expression!r} of {record.name!r} has {clashing[0]!r}, which "
                f"{record.name!r} forbids.",
                fix=f"Leave {record.name!r} out of it.",
            )
    return replace(wrapper, policies=blueprints)


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
    # `num_policies` is an attribute of wrappers that hold several policies: built alike, but for
    # those that an argument of their name describes.
    cls = outermost.record.load()
    count = int(getattr(cls, "num_policies", 1))
    envs = _inner_envs(outermost, env, count)
    names = list(inspect.signature(cls).parameters)[1 : 1 + count]
    if misplaced := sorted(outermost.policies.keys() - set(names)):
        raise BuildError(
            f"{outermost.record.name!r} declares that its argument {misplaced[0]!r} is a policy, "
            "and its constructor does not take one in that place.",
            fix="Its parameters after the env are its policies, as many as num_policies says.",
        )
    policies = []
    for each, name in itertools.zip_longest(envs, names):
        if name in outermost.policies:
            policies.append(replace(outermost.policies[name], env=each).build(strict=strict))
            continue
        try:
            policies.append(_build(policy, tuple(inner), each, strict=strict))
        except IncompatibleSpace as error:
            if name not in outermost.record.policy_arguments:
                raise
            raise IncompatibleSpace(
                f"The {name} of {outermost.record.name!r} is built like the policy inside, which "
                f"does not fit what it sees: {error.problem}",
                fix=f"Name another: {name}='Default'.",
            ) from error
    return _construct(outermost, (env, *policies), strict=strict)


def _inner_envs(wrapper: _Component[WrapperRecord], env: Any, count: int) -> list[Any]:
    """Return what each policy inside a wrapper is built for: `env`, or the spaces that it sees.

    A wrapper that changes observations has a static method ``wrapped_spaces(spaces, **kwargs)``,
    which returns the spaces of all policies inside, or a tuple with those of each.
    """
    cls = wrapper.record.load()
    wrapped_spaces = getattr(cls, "wrapped_spaces", None)
    if wrapped_spaces is None:
        return [env] * count
    # Before the call, as a wrong keyword would be a TypeError in it.
    _require_arguments(cls, wrapper, num_positional=1 + count)
    outside = spaces_of(env)
    with _explained(wrapper):
        inside = wrapped_spaces(outside, **wrapper.options)
    each = inside if isinstance(inside, tuple) else (inside,) * count
    return [env if spaces is outside else spaces for spaces in each]


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
    record = component.record
    cls = record.load()
    if strict:
        _require_class(cls, name=record.qualified_name)
    _require_arguments(cls, component, num_positional=len(arguments))
    with _explained(component):
        module: nn.Module = cls(*arguments, **component.options)
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


def _require_arguments(cls: type, component: _Component[Any], *, num_positional: int) -> None:
    """Compare keywords with the constructor, and list unknown and missing ones in one error."""
    kwargs, name = component.options, component.record.name
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
    # Any text counts as true, so that 'no' would switch on what it should leave off.
    problems += [
        f"argument {key!r} is {short(kwargs[key])}, not true or false"
        for key, p in accepted.items()
        if p.annotation in (bool, "bool") and isinstance(kwargs.get(key, False), str)
    ]
    if problems:
        signature = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in accepted.values()
        )
        raise BuildError(
            f"Can't build {name!r}: {'; '.join(problems)}.",
            fix=f"Its arguments: {signature or 'none'}.",
        )
