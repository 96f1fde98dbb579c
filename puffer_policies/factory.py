"""From a name to a policy: the only file that knows the whole road."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch import nn

from puffer_policies.contract import require_members
from puffer_policies.discovery import default_registry
from puffer_policies.errors import BuildError, ContractError, PolicyError, did_you_mean
from puffer_policies.fit import require_fit, require_stack
from puffer_policies.records import Layer, PolicyRecord, Provenance, Record, WrapperRecord
from puffer_policies.registry import Registry
from puffer_policies.spaces import spaces_of
from puffer_policies.specs import PolicySpec, WrapperSpec

Validation = Literal["off", "static"]
WrapperLike = str | WrapperSpec | type[nn.Module]
PolicyLike = str | PolicySpec | type[nn.Module]


def get_policy(
    policy: PolicyLike,
    env: Any,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry | None = None,
    validate: Validation = "static",
    **kwargs: Any,
) -> nn.Module:
    """Build a policy for an environment.

    Args:
        policy: a registered name (``"Default"``, ``"acme/Net"``), an expression
            (``"LSTMWrapper(Default(hidden_size=256))"``), a preset, a `PolicySpec` or a class.
        env: an env, a vector env, an env id, or `Spaces`.
        wrappers: names, expressions such as ``"LSTMWrapper(num_layers=2)"``, specs or classes,
            put around the policy from the first to the last.
        registry: where names are looked up; the default registry if None.
        validate: ``"static"`` compares the class with the contract before and the policy's
            attributes after it is built; ``"off"`` does neither.
        **kwargs: arguments of the policy's constructor.

    Returns:
        A module that keeps the contract, with the recipe that rebuilds it as ``.spec``.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        PluginError, MissingDependency: the class can't be imported.
        ContractError: it does not keep the policy contract.
        IncompatibleSpace: it does not fit the spaces of `env`.
        BuildError: wrong arguments, an impossible stack, or a constructor that raised.
    """
    registry = default_registry() if registry is None else registry
    recipe = _recipe(policy, wrappers, kwargs, registry)
    spaces = spaces_of(env)
    # The names alone may rule a stack out: do so before anything is imported.
    require_stack(recipe.policy.record, [part.record for part in recipe.wrappers])
    require_fit(recipe.policy.record, spaces, registry=registry)
    spec = recipe.spec
    module = _build(recipe, spaces if isinstance(env, str) else env, validate)
    module.spec = spec  # type: ignore[assignment]
    registry.hooks.policy_built(module, spec)
    return module


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


def _recipe(
    policy: PolicyLike,
    wrappers: Iterable[WrapperLike],
    kwargs: Mapping[str, Any],
    registry: Registry,
) -> _Recipe:
    if isinstance(policy, type):
        inner, outer = _part(_class_record(policy, PolicyRecord, registry), kwargs), []
    else:
        spec = _spec(policy, registry)
        record = registry.get(spec.name, kind="policy")
        assert isinstance(record, PolicyRecord)
        inner, outer = _part(record, _merged(spec, kwargs)), [*spec.wrappers]
    return _Recipe(inner, tuple(_wrapper_part(each, registry) for each in [*outer, *wrappers]))


def _spec(policy: str | PolicySpec, registry: Registry) -> PolicySpec:
    if isinstance(policy, PolicySpec):
        return policy
    if not isinstance(policy, str):
        raise BuildError(
            f"A policy is asked for by name, PolicySpec or class, got {policy!r}.",
            fix="A policy that is built already needs no get_policy.",
        )
    preset = registry.presets.get(policy)
    return PolicySpec.parse(preset.policy if preset else policy)


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


def _build(recipe: _Recipe, env: Any, validate: Validation) -> nn.Module:
    module = _construct(recipe.policy, (env,), validate)
    for wrapper in recipe.wrappers:
        module = _construct(wrapper, (env, module), validate)
    return module


def _construct(part: _Part[Any], given: tuple[Any, ...], validate: Validation) -> nn.Module:
    name, cls = part.record.name, part.record.load()
    if validate == "static":
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
    if validate == "static":
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
