"""From a name to a module: looks up, refuses what can't fit, imports, builds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import nn

from puffer_policies.assembly.fit import require_fit, require_stack
from puffer_policies.contract import NEEDS_MASK, NEEDS_PREVIOUS, require_members
from puffer_policies.errors import BuildError, ContractError, PolicyError, did_you_mean
from puffer_policies.registry import Registry
from puffer_policies.registry.records import (
    Capabilities,
    Layer,
    PolicyRecord,
    Provenance,
    Record,
    WrapperRecord,
)
from puffer_policies.registry.specs import PolicySpec, WrapperSpec
from puffer_policies.spaces import Spaces, spaces_of

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
    """Look everything up that `get_policy` needs, and refuse by name what can't fit.

    Nothing is imported, so that a checker can import and build in another process.
    """
    recipe = _recipe(policy, wrappers, kwargs or {}, registry)
    spaces = spaces_of(env)
    require_stack(recipe.policy.record, [part.record for part in recipe.wrappers])
    require_fit(recipe.policy.record, spaces, registry=registry)
    return Blueprint(recipe, recipe.spec, spaces, spaces if isinstance(env, str) else env)


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _Part(Generic[R]):
    """A record and the arguments to build it with."""

    record: R
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What to build, with every name looked up."""

    policy: _Part[PolicyRecord]
    wrappers: tuple[_Part[WrapperRecord], ...]

    @property
    def spec(self) -> PolicySpec:
        """The recipe by qualified names with every default filled in, as a checkpoint stores it."""
        wrappers = [WrapperSpec(w.record.qualified_name, w.kwargs) for w in self.wrappers]
        policy = self.policy
        return PolicySpec(policy.record.qualified_name, policy.kwargs, tuple(wrappers))


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A policy that is looked up and fits its spaces, to be built any number of times."""

    recipe: _Recipe
    spec: PolicySpec
    spaces: Spaces
    env: Any
    """What constructors are given."""

    @property
    def record(self) -> PolicyRecord:
        """The record of the policy inside all wrappers."""
        return self.recipe.policy.record

    @property
    def capabilities(self) -> Capabilities:
        """What the record declares, with the flags that wrappers add, such as a memory."""
        provided = {trait for part in self.recipe.wrappers for trait in part.record.provides}
        return self.record.capabilities.with_traits(provided)

    def load(self) -> type:
        """Import the class of the outermost part."""
        wrappers = self.recipe.wrappers
        return wrappers[-1].record.load() if wrappers else self.record.load()

    def build(self, *, strict: bool = False) -> nn.Module:
        """Build the policy; errors are those of `get_policy`.

        Args:
            strict: compare the members of every class and part with the contract.
        """
        module = _build(self.recipe, self.env, strict=strict)
        module.spec = self.spec  # type: ignore[assignment]
        for need in self.record.capabilities.traits & {NEEDS_MASK, NEEDS_PREVIOUS}:
            setattr(module, need, True)
        return module


def _recipe(
    policy: PolicyLike,
    wrappers: Iterable[WrapperLike],
    kwargs: Mapping[str, Any],
    registry: Registry,
) -> _Recipe:
    if isinstance(policy, type):
        inner, outer = _part(_class_record(policy, PolicyRecord, registry), kwargs), []
    else:
        spec = spec_of(policy, registry)
        record = registry.get(spec.name, kind="policy")
        assert isinstance(record, PolicyRecord)
        inner, outer = _part(record, _merged(spec, kwargs)), [*spec.wrappers]
    if isinstance(wrappers, str | Mapping) or not isinstance(wrappers, Iterable):
        raise BuildError(
            f"wrappers should be a list, the innermost first, got {wrappers!r}.",
            fix="Write wrappers=['LSTMWrapper'].",
        )
    return _Recipe(inner, tuple(_wrapper_part(each, registry) for each in [*outer, *wrappers]))


def spec_of(policy: str | PolicySpec, registry: Registry) -> PolicySpec:
    """Return what a name, an expression or a preset asks for; no name is looked up."""
    if isinstance(policy, PolicySpec):
        return policy
    if not isinstance(policy, str):
        raise BuildError(
            f"A policy is asked for by name, PolicySpec or class, got {policy!r}.",
            fix="A policy that is built already needs no get_policy.",
        )
    return registry.spec(policy)


def _merged(spec: PolicySpec, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    twice = sorted(spec.kwargs.keys() & kwargs.keys())
    if twice:
        raise BuildError(
            f"{twice[0]!r} is given twice for {spec.name!r}: "
            f"{spec.kwargs[twice[0]]!r} in the expression and {kwargs[twice[0]]!r} beside it."
        )
    return {**spec.kwargs, **kwargs}


def _wrapper_part(wrapper: WrapperLike, registry: Registry) -> _Part[WrapperRecord]:
    if isinstance(wrapper, type):
        return _part(_class_record(wrapper, WrapperRecord, registry), {})
    if isinstance(wrapper, str):
        parsed = PolicySpec.parse(wrapper)
        if parsed.wrappers:
            raise BuildError(
                f"{wrapper!r} is given as a wrapper, but it wraps something already.",
                fix="Give one wrapper an entry, or the whole stack as the policy's expression.",
            )
        wrapper = WrapperSpec(parsed.name, parsed.kwargs)
    if not isinstance(wrapper, WrapperSpec):
        raise BuildError(
            f"A wrapper is asked for by name, WrapperSpec or class, got {wrapper!r}.",
            fix="Arguments are given as 'LSTMWrapper(num_layers=2)'.",
        )
    record = registry.get(wrapper.name, kind="wrapper")
    assert isinstance(record, WrapperRecord)
    return _part(record, wrapper.kwargs)


def _part(record: R, kwargs: Mapping[str, Any]) -> _Part[R]:
    return _Part(record, {**record.defaults, **kwargs})


def _class_record(cls: type, kind: type[R], registry: Registry) -> R:
    """Return the record of a registered class, or make one for a class that is not."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    for record in registry.records():
        if isinstance(record, kind) and record.target == target and record.loaded in (None, cls):
            return record
    place = Provenance(layer=Layer.PROCESS, distribution="local", origin="a class in this process")
    return kind(name=cls.__name__, target=target, provenance=place, loaded=cls)


def _build(recipe: _Recipe, env: Any, *, strict: bool) -> nn.Module:
    if not recipe.wrappers:
        return _construct(recipe.policy, (env,), strict=strict)
    wrapper, inside = recipe.wrappers[-1], replace(recipe, wrappers=recipe.wrappers[:-1])
    count = _num_policies(wrapper)
    seen = _env_inside(wrapper, env, num_given=1 + count)
    policies = [_build(inside, seen, strict=strict) for _ in range(count)]
    return _construct(wrapper, (env, *policies), strict=strict)


def _num_policies(wrapper: _Part[WrapperRecord]) -> int:
    """Return how many policies a wrapper holds, built alike: its class's ``num_policies``, or 1."""
    return int(getattr(wrapper.record.load(), "num_policies", 1))


def _env_inside(wrapper: _Part[WrapperRecord], env: Any, *, num_given: int) -> Any:
    """Return what the policy inside a wrapper is built for, if the wrapper shows it other spaces.

    Its class says so by a static method ``wrapped_spaces(spaces, **kwargs)``.
    """
    cls = wrapper.record.load()
    wrapped_spaces = getattr(cls, "wrapped_spaces", None)
    if wrapped_spaces is None:
        return env
    _require_arguments(cls, wrapper.record.name, wrapper.kwargs, num_given=num_given)
    outside = spaces_of(env)
    inside = wrapped_spaces(outside, **wrapper.kwargs)
    return env if inside is outside else inside


def _construct(part: _Part[Any], given: tuple[Any, ...], *, strict: bool) -> nn.Module:
    name, cls = part.record.name, part.record.load()
    if strict:
        _require_class(cls, name=part.record.qualified_name)
    _require_arguments(cls, name, part.kwargs, num_given=len(given))
    try:
        module: nn.Module = cls(*given, **part.kwargs)
    except PolicyError:
        raise
    except (Exception, SystemExit) as error:
        raise BuildError(
            f"Building {name!r} with {dict(part.kwargs)!r} failed: {type(error).__name__}: {error}",
            fix=f"Its class is {part.record.target}.",
        ) from error
    if strict:
        require_members(module, name=part.record.qualified_name)
    return module


@functools.cache
def _require_class(cls: type, *, name: str) -> None:
    if not issubclass(cls, nn.Module):
        raise ContractError(
            f"{name!r} is {cls!r}, which is no torch.nn.Module.",
            fix="Derive it from nn.Module, or from puffer_policies.nn.actor_critic.ActorCritic.",
        )
    require_members(cls, name=name)


def _require_arguments(cls: type, name: str, kwargs: Mapping[str, Any], *, num_given: int) -> None:
    """Compare keywords with the constructor: unknown, doubled and missing ones in one error."""
    parameters = list(inspect.signature(cls).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    accepted = {p.name: p for p in parameters[num_given:] if p.kind is not p.VAR_POSITIONAL}
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
        raise BuildError(
            f"Can't build {name!r}: {'; '.join(problems)}.",
            fix=f"Its arguments: {_spelled(accepted.values())}.",
        )


def _spelled(parameters: Iterable[inspect.Parameter]) -> str:
    shown = (p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)
    return ", ".join(shown) or "none"
