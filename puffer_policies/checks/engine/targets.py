"""What a caller asks to check, as targets: one policy on one pair of spaces each.

A policy is asked for by name, expression, preset, class, ``path/to/file.py::Class``, by a factory
in a file or module, or built. A wrapper is checked around Default, and around Default with a memory
and with an action mask. Nothing is imported before the checks run, as the import may need a worker
process too.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from puffer_policies.assembly.blueprint import Blueprint, PolicyLike, WrapperLike, prepare
from puffer_policies.checks.engine.causes import WRAPPED
from puffer_policies.checks.engine.matrix import (
    likeness_of,
    spaces_for,
    spaces_for_memory,
    wrappers_for,
)
from puffer_policies.checks.engine.places import (
    PLACE,
    SEPARATOR,
    class_at,
    classes_hint,
    definition,
    looks_like_wrapper,
    object_at,
    place_and_name,
    place_and_wrappers,
)
from puffer_policies.checks.engine.scenes import Scene, scene_of
from puffer_policies.checks.model import Result, Scope
from puffer_policies.checks.probes.snippets import snippet
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import NEEDS_MASK, any_module_has
from puffer_policies.errors import BuildError, PolicyError
from puffer_policies.registry import Registry
from puffer_policies.registry.records import Capabilities, PolicyRecord, Record, WrapperRecord
from puffer_policies.registry.specs import PolicySpec, WrapperSpec
from puffer_policies.registry.user_modules import constructor_parameters, goes_around_policy
from puffer_policies.spaces import Spaces, action_layout, with_four_names
from puffer_policies.wrappers.base import PolicyWrapper, RecurrentWrapper

CheckedPolicy = PolicyLike | nn.Module

_MORE_WRAPPED = ("LSTMWrapper(Default(hidden_size=32))", "ActionMaskWrapper(Default)")
"""Stacks that a wrapper is tried around as well: it has to hand on a state and a mask."""


@dataclass(eq=False)
class Target:
    """One policy on one pair of spaces, not yet imported."""

    name: str
    """The policy's name in reports."""
    spaces: Spaces
    make: Callable[[], Subject]
    """Imports what it needs; where it fails, the whole target does."""
    is_wrapped: bool = False
    """Whether there are wrappers around it, as far as that is known before the import."""
    group: str = ""
    """The name of the target that this one completes: only checks which did not apply to that one
    are left for it, and none if that one is bad."""
    trial: Result | None = None
    """The result of the check whether it runs, once that is known."""

    @cached_property
    def subject(self) -> Subject:
        """The policy as checks see it, imported and built once, however many checks run."""
        return self.make()

    def likeness(self, scope: Scope) -> str:
        """Return what it shares with targets of whose verdicts of `scope` one is that of all."""
        return likeness_of(self.spaces, scope, is_wrapped=self.is_wrapped)

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker builds its own.
        return Target, (self.name, self.spaces, self.make, self.is_wrapped, self.group)


def targets_for(
    policy: CheckedPolicy,
    env: Any = None,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry,
) -> list[Target]:
    """Return a target for every pair of spaces that `policy` is to be checked with.

    Args:
        policy: a name, an expression, a `PolicySpec`, a class, ``path/to/file.py::Class``,
            ``path/to/file.py::factory``, ``module:factory``, or a built policy.
        env: an env, an env id or `Spaces`; the matrix of its declared kinds if None. An env is
            reset and stepped, as its observations are what the policy is run on.
        wrappers: what to put around it, innermost first.
        registry: where names are looked up.

    Raises:
        PolicyNotFound, AmbiguousName, PolicyRemoved: the name does not lead to one policy.
        IncompatibleSpace: its record says that it does not fit `env`.
        BuildError: an impossible stack, or a built policy with wrappers or without spaces.
        TrustError: a name of a registry file that is neither the user's own nor trusted.
    """
    wrappers = tuple(wrappers)
    if isinstance(policy, nn.Module):
        return [_built_target(policy, env, wrappers)]
    if isinstance(policy, str) and PLACE.search(policy):
        place, around = place_and_wrappers(policy)
        return _placed_targets(place, env, (*around, *wrappers), registry)
    if isinstance(policy, str) and policy.endswith(".py"):
        raise BuildError(f"{policy!r} is a file, not a policy.", fix=classes_hint(policy))
    more: list[tuple[PolicyLike, tuple[WrapperLike, ...]]] = []
    if isinstance(policy, str):
        stack = stack_around(policy, registry)
        if stack != policy and policy not in registry.presets:
            itself: tuple[WrapperLike, ...] = PolicySpec.parse(stack).wrappers
            more = [(each, itself) for each in _MORE_WRAPPED]
        policy = stack
    elif isinstance(policy, type) and _is_wrapper(policy, registry):
        wrappers = (policy, *wrappers)
        more = [(each, wrappers) for each in _more_inside(policy)]
        policy = _inside(policy)
    scenes = _scenes(env, lambda: _declared_spaces(policy, registry))
    targets = [_target(policy, scene, wrappers, registry) for scene in scenes]
    return [*targets, *_more_targets(more, scenes[0], targets[0].name, registry)]


def _scenes(env: Any, declared: Callable[[], list[Spaces]]) -> list[Scene]:
    return [Scene(pair, pair) for pair in declared()] if env is None else [scene_of(env)]


def _more_targets(
    stacks: Iterable[tuple[PolicyLike, tuple[WrapperLike, ...]]],
    scene: Scene,
    group: str,
    registry: Registry,
) -> Iterator[Target]:
    """Yield a target for each stack that can be, which leaves to `group` what one verdict settles.

    A stack that can't be, such as a memory around a memory, was never asked for.
    """
    for policy, wrappers in stacks:
        if _masks_reals(policy, scene.spaces):
            continue
        with suppress(BuildError):
            target = _target(policy, scene, wrappers, registry)
            yield replace(target, group=group)


def _masks_reals(policy: PolicyLike, spaces: Spaces) -> bool:
    return "ActionMask" in str(policy) and not action_layout(spaces.action).nvec


def targets_for_record(name: str, registry: Registry) -> list[Target]:
    """Return the targets of a registered policy or wrapper, as tests of a distribution take them.

    A memory stands between the encoder and the heads, and sees (B, H) whatever the spaces are, so
    two pairs prove as much as all. All others are tried on every pair that they declare.
    """
    pairs = spaces_for_memory() if _is_memory(registry.get(name)) else [None]
    return [each for pair in pairs for each in targets_for(name, pair, registry=registry)]


def wrapped_targets(
    name: str, registry: Registry, *, wrappers: Collection[str] | None = None
) -> list[Target]:
    """Return the targets of a registered policy inside each wrapper that can go around it.

    They are tried on the first pair of the policy's spaces. The policy and the wrapper are tried on
    the others by themselves, so it remains that they work together.
    `wrappers` are the qualified names of those that are tried; all if None.
    """
    record = registry.get(name, kind="policy")
    assert isinstance(record, PolicyRecord)
    first = spaces_for(record.capabilities)[0]
    return [
        target
        for wrapper in wrappers_for(record, registry)
        if wrappers is None or registry.get(wrapper).qualified_name in wrappers
        for target in targets_for(f"{wrapper}({name})", first, registry=registry)
    ]


def subject_of(blueprint: Blueprint) -> Subject:
    """Return the policy of a blueprint as checks see it; its class is imported now."""
    cls = blueprint.load()
    return Subject(
        name=str(blueprint.spec),
        spaces=blueprint.spaces,
        build=blueprint.build,
        cls=cls,
        capabilities=blueprint.capabilities,
        declared=_declarations(cls),
        env=blueprint.env,
    )


def stack_around(text: str, registry: Registry) -> str:
    """Return the expression to build: a preset's, and for a wrapper's name it around a policy."""
    preset = registry.presets.get(text)
    if preset is not None:
        return preset.policy
    spec = PolicySpec.parse(text)
    if not spec.wrappers and registry.get(spec.name).kind == "wrapper":
        return str(PolicySpec(WRAPPED).wrapped(WrapperSpec(spec.name, spec.kwargs)))
    return text


# -- registered policies and classes ---------------------------------------------------------------


def _is_memory(record: Record) -> bool:
    if not isinstance(record, WrapperRecord):
        return False
    try:
        return issubclass(record.load(), RecurrentWrapper)
    except PolicyError:  # the checks report why it can't be imported
        return False


def _declared_spaces(policy: PolicyLike, registry: Registry) -> list[Spaces]:
    if isinstance(policy, type):
        record = next((r for r in registry.records("policy") if r.loaded is policy), None)
    else:
        spec = PolicySpec.parse(policy) if isinstance(policy, str) else policy
        record = registry.get(spec.name, kind="policy")
    return spaces_for(record.capabilities if isinstance(record, PolicyRecord) else None)


def _target(
    policy: PolicyLike, scene: Scene, wrappers: tuple[WrapperLike, ...], registry: Registry
) -> Target:
    # A stack that can't be is a mistake in the question, and is refused here.
    blueprint = prepare(policy, scene.env, wrappers=wrappers, registry=registry)
    # Asked here, as the import may happen in a worker.
    blueprint.require_consent()
    spec = blueprint.spec
    # What the caller wrote is what the caller looks for in a report.
    name = policy if isinstance(policy, str) and not wrappers else _short(spec)
    make = partial(_subject, name, policy, scene, wrappers, registry)
    return Target(name, scene.spaces, make, is_wrapped=bool(spec.wrappers))


def _subject(
    name: str,
    policy: PolicyLike,
    scene: Scene,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Subject:
    blueprint = prepare(policy, scene.env, wrappers=wrappers, registry=registry)
    subject = subject_of(blueprint)
    is_registered = blueprint.record.provenance.origin != "a class in this process"
    return replace(
        subject,
        name=name,
        source=_source(policy, wrappers, scene.spaces),
        capabilities=subject.capabilities
        if is_registered or not isinstance(policy, type)
        else None,
        declared=subject.declared | ({"may_refuse": True} if blueprint.spec.wrappers else {}),
        played=scene.played,
    )


def _source(policy: PolicyLike, wrappers: tuple[WrapperLike, ...], spaces: Spaces) -> str:
    imports = ["from puffer_policies import Spaces, get_policy"]

    def expression(part: Any) -> str:
        """Return a class by its own name, which may be that of a registered one, too."""
        if not isinstance(part, type):
            return repr(str(part))
        imports.append(f"from {part.__module__} import {part.__qualname__}")
        return part.__qualname__

    inside = expression(policy)
    around = f", wrappers=[{', '.join(map(expression, wrappers))}]" if wrappers else ""
    call = f'get_policy({inside}, spaces{around}, validate="off")'
    return snippet(spaces, imports="\n".join(imports), policy=call)


def _wrapper_name(wrapper: WrapperLike) -> str:
    return wrapper.__name__ if isinstance(wrapper, type) else str(wrapper)


def _short(spec: PolicySpec) -> str:
    """Return the expression of a spec with bare names and without arguments."""
    text = spec.name.rpartition("/")[2]
    for wrapper in spec.wrappers:
        text = f"{wrapper.name.rpartition('/')[2]}({text})"
    return text


def _is_wrapper(cls: type[Any], registry: Registry) -> bool:
    """Whether a class goes around a policy: it is ours, registered as one, or takes a policy.

    PufferLib's wrappers, which share no base class, take ``(env, policy, ...)``.
    """
    if issubclass(cls, PolicyWrapper):
        return True
    if any(record.loaded is cls for record in registry.records("wrapper")):
        return True
    return goes_around_policy(cls)


def _inside(wrapper: type[Any]) -> str:
    """Return the policy inside a wrapper: Default, of the width that the wrapper expects."""
    names = constructor_parameters(wrapper)
    size = (
        inspect.signature(wrapper).parameters["input_size"].default
        if "input_size" in names
        else None
    )
    return f"{WRAPPED}(hidden_size={size})" if isinstance(size, int) else WRAPPED


def _more_inside(wrapper: type[Any]) -> tuple[str, ...]:
    """Return the further stacks that a wrapper class is tried around.

    Only a wrapper of our base class promises to hand on what it does not know.
    """
    if not issubclass(wrapper, PolicyWrapper):
        return ()
    return _MORE_WRAPPED[issubclass(wrapper, RecurrentWrapper) :]


def _declarations(cls: type) -> dict[str, Any]:
    """Return what a class declares to the checks in its attribute ``conformance``."""
    return dict(getattr(cls, "conformance", {}))


# -- a policy that is built already ----------------------------------------------------------------


def _built_target(policy: nn.Module, env: Any, wrappers: tuple[WrapperLike, ...]) -> Target:
    name = type(policy).__name__
    if wrappers:
        raise BuildError(
            f"{name!r} is built already, so wrappers={list(wrappers)!r} can't go around it here.",
            fix="Wrap it first, or give its name or class.",
        )
    # Policies of ours and many of PufferLib's keep the spaces that they were built for.
    env = getattr(policy, "spaces", None) if env is None else env
    if env is None:
        raise BuildError(
            f"{name!r} does not say for which spaces it was built.",
            fix="Pass the env or Spaces(observation, action) as the second argument.",
        )
    scene = scene_of(env)
    make = partial(subject_of_module, policy, scene.spaces, played=scene.played)
    return Target(name, scene.spaces, make)


def subject_of_module(policy: nn.Module, spaces: Spaces, *, played: Any = None) -> Subject:
    """Return a policy that is built already as checks see it: a build of it is a copy."""
    cls = type(policy)
    needs_mask = any_module_has(policy, NEEDS_MASK)
    imports = "from puffer_policies import Spaces"
    return Subject(
        name=cls.__name__,
        spaces=spaces,
        build=partial(copy.deepcopy, policy),
        source=snippet(spaces, imports=imports, policy="...  # the policy you gave"),
        cls=cls,
        capabilities=Capabilities(needs_mask=True) if needs_mask else None,
        declared={"built": "it was given built, and perhaps trained", **_declarations(cls)},
        played=played,
    )


# -- a class or a factory in a file or a module ----------------------------------------------------

BUILT = "a factory made it, and perhaps loaded its weights"


def _placed_targets(
    text: str, env: Any, wrappers: tuple[WrapperLike, ...], registry: Registry
) -> list[Target]:
    place, name = place_and_name(text)
    node = definition(place, name)
    if isinstance(node, ast.FunctionDef) and env is None:
        raise BuildError(
            f"{text!r} is a function, which does not say for which spaces it builds a policy.",
            fix="Pass the env or Spaces(observation, action) too (--env of the command line).",
        )
    label = f"{place.name}{SEPARATOR}{name}" if isinstance(place, Path) else f"{place}:{name}"
    address = f"{place.absolute()}{SEPARATOR}{name}" if isinstance(place, Path) else label
    outside = label
    for wrapper in wrappers:
        outside = f"{_wrapper_name(wrapper).partition('(')[0]}({outside})"
    make = partial(_placed_subject, address, wrappers, registry)
    scenes = _scenes(env, lambda: spaces_for(None))
    targets = [Target(outside, each.spaces, partial(make, outside, each)) for each in scenes]
    first = scenes[0]
    for stack in _MORE_WRAPPED if looks_like_wrapper(place, node) and not wrappers else ():
        if not _masks_reals(stack, first.spaces):
            around = f"{label}({re.sub(_ARGUMENTS, '', stack)})"
            subject = partial(make, around, first, inside=stack)
            targets.append(Target(around, first.spaces, subject, True, outside))
    return targets


_ARGUMENTS = r"\(\w+=[^()]*\)"


def _placed_subject(
    text: str,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
    label: str,
    scene: Scene,
    *,
    inside: str = "",
) -> Subject:
    value, policy = object_at(text), cast(PolicyLike, inside)
    if not isinstance(value, type):
        return _factory_subject(value, text, wrappers, label, scene)
    if _is_wrapper(value, registry):
        policy, wrappers = inside or _inside(value), (value, *wrappers)
    else:
        policy = value
    subject = subject_of(prepare(policy, scene.env, wrappers=wrappers, registry=registry))

    def expression(part: Any) -> str:
        return f"class_at({text!r})" if part is value else repr(_wrapper_name(part))

    imports = (
        "from puffer_policies import Spaces, get_policy\n"
        f"from {class_at.__module__} import {class_at.__name__}"
    )
    around = f", wrappers=[{', '.join(map(expression, wrappers))}]" if wrappers else ""
    call = f'get_policy({expression(policy)}, spaces{around}, validate="off")'
    return replace(
        subject,
        name=label,
        source=snippet(scene.spaces, imports=imports, policy=call),
        capabilities=subject.capabilities if inside else None,
        declared=subject.declared | ({"may_refuse": True} if policy is not value else {}),
        played=scene.played,
    )


def _factory_subject(
    factory: Callable[..., Any],
    text: str,
    wrappers: tuple[WrapperLike, ...],
    label: str,
    scene: Scene,
) -> Subject:
    """Return what a function builds, which gets the env if it takes an argument."""
    if wrappers:
        raise BuildError(
            f"{text!r} is a factory, so nothing can go around what it builds here.",
            fix="Wrap the policy in the factory.",
        )
    try:
        arguments = [scene.env] if inspect.signature(factory).parameters else []
    except (TypeError, ValueError):
        arguments = []
    policy = factory(*map(with_four_names, arguments))
    if not isinstance(policy, nn.Module):
        raise BuildError(f"{text!r} returned a {type(policy).__name__}, not a policy.")
    imports = f"from puffer_policies import Spaces\nfrom {object_at.__module__} import object_at"
    call = f"object_at({text!r})({'spaces' if arguments else ''})"
    subject = subject_of_module(policy, scene.spaces, played=scene.played)
    return replace(
        subject,
        name=label,
        build=partial(factory, *map(with_four_names, arguments)),
        source=snippet(scene.spaces, imports=imports, policy=call),
        declared=subject.declared | {"built": BUILT},
    )
