"""From what a caller asks to check, to the policies and spaces of a run; nothing is imported yet.

A policy is asked for by name, expression, preset, class, ``path/to/file.py::Class``, or built. A
wrapper, by its name or in a file, is checked around Default.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from puffer_policies.assembly.blueprint import Blueprint, PolicyLike, WrapperLike, prepare
from puffer_policies.checks.engine.files import SEPARATOR, class_at, split_target
from puffer_policies.checks.engine.matrix import spaces_for, wrappers_for
from puffer_policies.checks.probes.snippets import snippet
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import BuildError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import PolicyRecord
from puffer_policies.registry.specs import PolicySpec, WrapperSpec
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.wrappers.base import PolicyWrapper

CheckedPolicy = PolicyLike | nn.Module

_WRAPPED = "Default"
"""What a wrapper is checked around."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One policy on one pair of spaces, not yet imported."""

    name: str
    """What reports call the policy."""
    spaces: Spaces
    make: Callable[[], Subject]
    """Imports what it needs; where it fails, the whole plan does."""


def plans_for(
    policy: CheckedPolicy,
    env: Any = None,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry,
) -> list[Plan]:
    """Return a plan for every pair of spaces that `policy` is to be checked with.

    Args:
        policy: a name, an expression, a `PolicySpec`, a class, ``path/to/file.py::Class``, or a
            built policy.
        env: an env, an env id or `Spaces`; the matrix of its declared kinds if None.
        wrappers: what to put around it, innermost first.
        registry: where names are looked up.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        IncompatibleSpace: its record says that it does not fit `env`.
        BuildError: an impossible stack, or a built policy with wrappers or without spaces.
    """
    wrappers = tuple(wrappers)
    if isinstance(policy, nn.Module):
        return [_built_plan(policy, env, wrappers)]
    if isinstance(policy, str) and SEPARATOR in policy:
        return _file_plans(policy, env, wrappers, registry)
    if isinstance(policy, str):
        policy = stack_around(policy, registry)
    if isinstance(policy, type):
        policy, wrappers = _class_stack(policy, wrappers, registry)
    probe = partial(prepare, policy, wrappers=wrappers, registry=registry)
    pairs = [spaces_of(env)] if env is not None else _matrix(policy, registry)
    return [_plan(policy, probe(pair).spec, pair, wrappers, registry) for pair in pairs]


def subject_of(blueprint: Blueprint) -> Subject:
    """Return a policy that is looked up as checks see it; its class is imported now."""
    cls = blueprint.load()
    return Subject(
        name=str(blueprint.spec),
        spaces=blueprint.spaces,
        build=blueprint.build,
        cls=cls,
        capabilities=blueprint.capabilities,
        declared=_declared(cls),
    )


def wrapped_plans(
    name: str, registry: Registry, *, wrappers: Collection[str] | None = None
) -> list[Plan]:
    """Return the plans of a registered policy inside each wrapper that can go around it.

    They are tried on the first spaces of its matrix, one kind of action each. `wrappers` are the
    qualified names of those that are tried; all if None.
    """
    record = registry.get(name, kind="policy")
    assert isinstance(record, PolicyRecord)
    pairs = spaces_for(record.capabilities)[:3]
    return [
        plan
        for wrapper in wrappers_for(record, registry)
        if wrappers is None or registry.get(wrapper).qualified_name in wrappers
        for pair in pairs
        for plan in plans_for(f"{wrapper}({name})", pair, registry=registry)
    ]


def stack_around(asked: str, registry: Registry) -> str:
    """Return the expression to build: a preset's, and for a wrapper's name it around a policy."""
    preset = registry.presets.get(asked)
    if preset is not None:
        return preset.policy
    spec = PolicySpec.parse(asked)
    if not spec.wrappers and registry.get(spec.name).kind == "wrapper":
        return str(PolicySpec(_WRAPPED).wrapped(WrapperSpec(spec.name, spec.kwargs)))
    return asked


# -- inside ----------------------------------------------------------------------------------------


def _matrix(policy: PolicyLike, registry: Registry) -> list[Spaces]:
    if isinstance(policy, type):
        declared = [r for r in registry.records("policy") if r.loaded is policy]
        record = declared[0] if declared else None
    else:
        spec = PolicySpec.parse(policy) if isinstance(policy, str) else policy
        record = registry.get(spec.name, kind="policy")
    return spaces_for(record.capabilities if isinstance(record, PolicyRecord) else None)


def _plan(
    policy: PolicyLike,
    spec: PolicySpec,
    spaces: Spaces,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Plan:
    name = policy if isinstance(policy, str) and not wrappers else _short(spec)
    make = partial(_subject, name, policy, spaces, wrappers, registry)
    return Plan(name, spaces, make)


def _subject(
    name: str,
    policy: PolicyLike,
    spaces: Spaces,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Subject:
    blueprint = prepare(policy, spaces, wrappers=wrappers, registry=registry)
    subject = subject_of(blueprint)
    is_class = isinstance(policy, type)
    stacked = bool(blueprint.spec.wrappers)
    return replace(
        subject,
        name=name,
        source=_source(policy, wrappers, spaces),
        capabilities=None if is_class and not _declares(blueprint.record) else subject.capabilities,
        declared={**subject.declared, **({"may_refuse": True} if stacked else {})},
    )


def _declares(record: PolicyRecord) -> bool:
    return record.provenance.origin != "a class in this process"


def _source(policy: PolicyLike, wrappers: tuple[WrapperLike, ...], spaces: Spaces) -> str:
    imports = "from puffer_policies import Spaces, get_policy"
    shown = f"{str(policy)!r}"
    if isinstance(policy, type):
        imports += f"\nfrom {policy.__module__} import {policy.__qualname__}"
        shown = policy.__qualname__
    around = f", wrappers={[_wrapper_name(each) for each in wrappers]}" if wrappers else ""
    built = f'get_policy({shown}, spaces{around}, validate="off")'
    return snippet(spaces, imports=imports, policy=built)


def _wrapper_name(wrapper: WrapperLike) -> str:
    return wrapper.__name__ if isinstance(wrapper, type) else str(wrapper)


def _short(spec: PolicySpec) -> str:
    """Return the expression of a spec with bare names and without arguments."""
    text = spec.name.rpartition("/")[2]
    for wrapper in spec.wrappers:
        text = f"{wrapper.name.rpartition('/')[2]}({text})"
    return text


# -- a file ----------------------------------------------------------------------------------------


def _file_plans(
    target: str, env: Any, wrappers: tuple[WrapperLike, ...], registry: Registry
) -> list[Plan]:
    path, name = split_target(target)
    pairs = [spaces_of(env)] if env is not None else spaces_for(None)
    label = f"{Path(path).name}{SEPARATOR}{name}"
    make = partial(_file_subject, f"{Path(path).absolute()}{SEPARATOR}{name}")
    return [Plan(label, pair, partial(make, label, pair, wrappers, registry)) for pair in pairs]


def _file_subject(
    target: str,
    label: str,
    spaces: Spaces,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Subject:
    cls = class_at(target)
    policy, wrappers = _class_stack(cls, wrappers, registry)
    blueprint = prepare(policy, spaces, wrappers=wrappers, registry=registry)
    imports = (
        "from puffer_policies import Spaces, get_policy\n"
        "from puffer_policies.checks.engine.files import class_at"
    )

    def spelled(part: Any) -> str:
        return f"class_at({target!r})" if part is cls else repr(_wrapper_name(part))

    around = f", wrappers=[{', '.join(map(spelled, wrappers))}]" if wrappers else ""
    built = f'get_policy({spelled(policy)}, spaces{around}, validate="off")'
    subject = subject_of(blueprint)
    return replace(
        subject,
        name=label,
        source=snippet(spaces, imports=imports, policy=built),
        capabilities=None,
        declared={**subject.declared, **({"may_refuse": True} if policy is not cls else {})},
    )


def _class_stack(
    cls: type[Any], wrappers: tuple[WrapperLike, ...], registry: Registry
) -> tuple[PolicyLike, tuple[WrapperLike, ...]]:
    """Return what a class is checked as: a policy, or, if it is a wrapper, it around Default."""
    registered = any(record.loaded is cls for record in registry.records("wrapper"))
    if registered or issubclass(cls, PolicyWrapper):
        return _WRAPPED, (cls, *wrappers)
    return cls, wrappers


# -- a built policy --------------------------------------------------------------------------------


def _built_plan(policy: nn.Module, env: Any, wrappers: tuple[WrapperLike, ...]) -> Plan:
    name = type(policy).__name__
    if wrappers:
        raise BuildError(
            f"{name!r} is built already, so wrappers={list(wrappers)!r} can't go around it here.",
            fix="Wrap it first, or give its name or class.",
        )
    env = getattr(policy, "spaces", None) if env is None else env
    if env is None:
        raise BuildError(
            f"{name!r} does not say for which spaces it was built.",
            fix="Pass the env or Spaces(observation, action) as the second argument.",
        )
    spaces = spaces_of(env)
    return Plan(name, spaces, partial(_built_subject, name, policy, spaces))


def _built_subject(name: str, policy: nn.Module, spaces: Spaces) -> Subject:
    imports = "from puffer_policies import Spaces"
    return Subject(
        name=name,
        spaces=spaces,
        build=partial(copy.deepcopy, policy),
        source=snippet(spaces, imports=imports, policy="...  # the policy you gave"),
        cls=type(policy),
        declared={"built": "it was given built, and perhaps trained", **_declared(type(policy))},
    )


def _declared(cls: type) -> dict[str, Any]:
    """Return what a class tells the checks about itself in its attribute ``conformance``."""
    return dict(getattr(cls, "conformance", {}))
