"""What a caller asks to check, as targets: one policy on one pair of spaces each.

A policy is asked for by name, expression, preset, class, ``path/to/file.py::Class``, or built. A
wrapper, by its name or in a file, is checked around Default. Nothing is imported before the checks
run, as the import may need a worker process too.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from puffer_policies.assembly.blueprint import Blueprint, PolicyLike, WrapperLike, prepare
from puffer_policies.checks.engine.causes import WRAPPED
from puffer_policies.checks.engine.matrix import spaces_for, spaces_for_memory, wrappers_for
from puffer_policies.checks.model import Result
from puffer_policies.checks.probes.snippets import snippet
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.contract import NEEDS_MASK
from puffer_policies.errors import BuildError, PluginError, PolicyError, did_you_mean
from puffer_policies.files import user_path
from puffer_policies.foreign import error_text, foreign_code
from puffer_policies.registry import Registry
from puffer_policies.registry.folders import import_name
from puffer_policies.registry.records import Capabilities, PolicyRecord, Record, WrapperRecord
from puffer_policies.registry.specs import PolicySpec, WrapperSpec
from puffer_policies.spaces import Spaces, action_layout, spaces_of
from puffer_policies.wrappers.base import PolicyWrapper, RecurrentWrapper

CheckedPolicy = PolicyLike | nn.Module

SEPARATOR = "::"
"""Stands between the file and the class of ``path/to/file.py::Class``."""


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
    trial: Result | None = None
    """The result of the check whether it runs, once that is known."""

    @cached_property
    def subject(self) -> Subject:
        """The policy as checks see it, imported and built once, however many checks run."""
        return self.make()

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker builds its own.
        return Target, (self.name, self.spaces, self.make, self.is_wrapped)


def targets_for(
    policy: CheckedPolicy,
    env: Any = None,
    *,
    wrappers: Iterable[WrapperLike] = (),
    registry: Registry,
) -> list[Target]:
    """Return a target for every pair of spaces that `policy` is to be checked with.

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
        TrustError: a name of a registry file that is neither the user's own nor trusted.
    """
    wrappers = tuple(wrappers)
    if isinstance(policy, nn.Module):
        return [_built_target(policy, env, wrappers)]
    if isinstance(policy, str) and SEPARATOR in policy:
        file, around = _file_and_wrappers(policy)
        return _file_targets(file, env, (*around, *wrappers), registry)
    if isinstance(policy, str) and policy.endswith(".py"):
        raise BuildError(f"{policy!r} is a file, not a policy.", fix=_classes_hint(policy))
    if isinstance(policy, str):
        policy = stack_around(policy, registry)
    if isinstance(policy, type):
        policy, wrappers = _class_stack(policy, wrappers, registry)
    pairs = [spaces_of(env)] if env is not None else _declared_spaces(policy, registry)
    return [_target(policy, pair, wrappers, registry) for pair in pairs]


def targets_for_record(name: str, registry: Registry) -> list[Target]:
    """Return the targets of a registered policy or wrapper, as tests of a distribution take them.

    A memory stands between the encoder and the heads, and sees (B, H) whatever the spaces are, so
    two pairs prove as much as nine. All others are tried on every pair that they declare.
    """
    if not _is_memory(registry.get(name)):
        return targets_for(name, registry=registry)
    pairs = spaces_for_memory()
    return [each for pair in pairs for each in targets_for(name, pair, registry=registry)]


def wrapped_targets(
    name: str, registry: Registry, *, wrappers: Collection[str] | None = None
) -> list[Target]:
    """Return the targets of a registered policy inside each wrapper that can go around it.

    They are tried on two pairs of the policy's spaces, of unlike actions. The policy and the
    wrapper are tried on the others by themselves, so it remains that they work together.
    `wrappers` are the qualified names of those that are tried; all if None.
    """
    record = registry.get(name, kind="policy")
    assert isinstance(record, PolicyRecord)
    pairs = spaces_for(record.capabilities)
    return [
        target
        for wrapper in wrappers_for(record, registry)
        if wrappers is None or registry.get(wrapper).qualified_name in wrappers
        for pair in _of_unlike_actions(pairs)
        for target in targets_for(f"{wrapper}({name})", pair, registry=registry)
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


def _of_unlike_actions(pairs: Sequence[Spaces]) -> list[Spaces]:
    """Return the first pair, and one of reals if its actions are choices, or the reverse."""
    is_continuous = action_layout(pairs[0].action).is_continuous
    others = (p for p in pairs if action_layout(p.action).is_continuous != is_continuous)
    return [pairs[0], next(others, pairs[-1])][: len(pairs)]


def _declared_spaces(policy: PolicyLike, registry: Registry) -> list[Spaces]:
    if isinstance(policy, type):
        record = next((r for r in registry.records("policy") if r.loaded is policy), None)
    else:
        spec = PolicySpec.parse(policy) if isinstance(policy, str) else policy
        record = registry.get(spec.name, kind="policy")
    return spaces_for(record.capabilities if isinstance(record, PolicyRecord) else None)


def _target(
    policy: PolicyLike, spaces: Spaces, wrappers: tuple[WrapperLike, ...], registry: Registry
) -> Target:
    # A stack that can't be is a mistake in the question, and is refused here.
    blueprint = prepare(policy, spaces, wrappers=wrappers, registry=registry)
    # Asked here, as the import may happen in a worker.
    blueprint.require_consent()
    spec = blueprint.spec
    # What the caller wrote is what the caller looks for in a report.
    name = policy if isinstance(policy, str) and not wrappers else _short(spec)
    make = partial(_subject, name, policy, spaces, wrappers, registry)
    return Target(name, spaces, make, is_wrapped=bool(spec.wrappers))


def _subject(
    name: str,
    policy: PolicyLike,
    spaces: Spaces,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Subject:
    blueprint = prepare(policy, spaces, wrappers=wrappers, registry=registry)
    subject = subject_of(blueprint)
    is_registered = blueprint.record.provenance.origin != "a class in this process"
    return replace(
        subject,
        name=name,
        source=_source(policy, wrappers, spaces),
        capabilities=subject.capabilities
        if is_registered or not isinstance(policy, type)
        else None,
        declared=subject.declared | ({"may_refuse": True} if blueprint.spec.wrappers else {}),
    )


def _source(policy: PolicyLike, wrappers: tuple[WrapperLike, ...], spaces: Spaces) -> str:
    imports = "from puffer_policies import Spaces, get_policy"
    expression = f"{str(policy)!r}"
    if isinstance(policy, type):
        imports += f"\nfrom {policy.__module__} import {policy.__qualname__}"
        expression = policy.__qualname__
    around = f", wrappers={[_wrapper_name(each) for each in wrappers]}" if wrappers else ""
    call = f'get_policy({expression}, spaces{around}, validate="off")'
    return snippet(spaces, imports=imports, policy=call)


def _wrapper_name(wrapper: WrapperLike) -> str:
    return wrapper.__name__ if isinstance(wrapper, type) else str(wrapper)


def _short(spec: PolicySpec) -> str:
    """Return the expression of a spec with bare names and without arguments."""
    text = spec.name.rpartition("/")[2]
    for wrapper in spec.wrappers:
        text = f"{wrapper.name.rpartition('/')[2]}({text})"
    return text


def _class_stack(
    cls: type[Any], wrappers: tuple[WrapperLike, ...], registry: Registry
) -> tuple[PolicyLike, tuple[WrapperLike, ...]]:
    """Return what a class is checked as: a policy, or, if it is a wrapper, it around Default."""
    registered = any(record.loaded is cls for record in registry.records("wrapper"))
    if registered or issubclass(cls, PolicyWrapper):
        return WRAPPED, (cls, *wrappers)
    return cls, wrappers


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
    spaces = spaces_of(env)
    return Target(name, spaces, partial(subject_of_module, policy, spaces))


def subject_of_module(policy: nn.Module, spaces: Spaces) -> Subject:
    """Return a policy that is built already as checks see it: a build of it is a copy."""
    cls = type(policy)
    needs_mask = any(getattr(module, NEEDS_MASK, False) for module in policy.modules())
    imports = "from puffer_policies import Spaces"
    return Subject(
        name=cls.__name__,
        spaces=spaces,
        build=partial(copy.deepcopy, policy),
        source=snippet(spaces, imports=imports, policy="...  # the policy you gave"),
        cls=cls,
        capabilities=Capabilities(needs_mask=True) if needs_mask else None,
        declared={"built": "it was given built, and perhaps trained", **_declarations(cls)},
    )


# -- a class in a file -----------------------------------------------------------------------------

_PUFFERLIB = "pufferlib"
_STAND_INS = ("models", "pytorch", "spaces")
"""Modules of ours that take the place of PufferLib's where it is not installed."""


def class_at(text: str) -> type:
    """Import the file of ``path/to/file.py::Class`` and return the class.

    The file can import those beside it, as when it is run as a script.

    Raises:
        BuildError: there is no such file, or no class of this name in it.
        PluginError: the import failed.
    """
    path, name = _path_and_class(text)
    module = _import_file(path.absolute())
    cls: Any = getattr(module, name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise BuildError(
            f"There is no class {name!r} in {path}.",
            fix=did_you_mean(name, classes) or f"Its classes: {', '.join(classes) or 'none'}.",
        )
    return cls


def _file_targets(
    text: str, env: Any, wrappers: tuple[WrapperLike, ...], registry: Registry
) -> list[Target]:
    path, name = _path_and_class(text)
    label = f"{path.name}{SEPARATOR}{name}"
    for wrapper in wrappers:
        label = f"{_wrapper_name(wrapper).partition('(')[0]}({label})"
    pairs = [spaces_of(env)] if env is not None else spaces_for(None)
    make = partial(_file_subject, f"{path.absolute()}{SEPARATOR}{name}", label)
    return [Target(label, pair, partial(make, pair, wrappers, registry)) for pair in pairs]


def _file_subject(
    text: str,
    label: str,
    spaces: Spaces,
    wrappers: tuple[WrapperLike, ...],
    registry: Registry,
) -> Subject:
    cls = class_at(text)
    policy, wrappers = _class_stack(cls, wrappers, registry)
    subject = subject_of(prepare(policy, spaces, wrappers=wrappers, registry=registry))

    def expression(part: Any) -> str:
        return f"class_at({text!r})" if part is cls else repr(_wrapper_name(part))

    imports = (
        "from puffer_policies import Spaces, get_policy\n"
        f"from {__name__} import {class_at.__name__}"
    )
    around = f", wrappers=[{', '.join(map(expression, wrappers))}]" if wrappers else ""
    call = f'get_policy({expression(policy)}, spaces{around}, validate="off")'
    return replace(
        subject,
        name=label,
        source=snippet(spaces, imports=imports, policy=call),
        capabilities=None,
        declared=subject.declared | ({"may_refuse": True} if policy is not cls else {}),
    )


_FILE_AND_CLASS = re.compile(rf"[^\s(),]+{SEPARATOR}\w+")
_STAND_IN = "FileClass"


def _file_and_wrappers(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the ``file.py::Class`` of an expression, and the wrappers around it as expressions.

    Raises:
        BuildError: the class is not the innermost, or has arguments.
    """
    if "(" not in text.partition(SEPARATOR)[0]:
        return text, ()
    match = _FILE_AND_CLASS.search(text)
    spec = PolicySpec.parse(_FILE_AND_CLASS.sub(_STAND_IN, text, count=1))
    if match is None or spec.name != _STAND_IN or spec.kwargs:
        raise BuildError(
            f"{text!r}: the class of a file stands in the innermost brackets, without arguments.",
            fix="Write 'Wrapper(path/to/file.py::Class)'.",
        )
    return match[0], tuple(str(PolicySpec(each.name, each.kwargs)) for each in spec.wrappers)


def _classes_hint(path: str) -> str:
    """Return how the classes of a file are written, which is not imported."""
    try:
        tree = ast.parse(user_path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "Write path/to/file.py::Class."
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    names = " or ".join(f"{path}{SEPARATOR}{name}" for name in classes[:5])
    return f"Write {names}." if names else "It defines no class."


def _path_and_class(text: str) -> tuple[Path, str]:
    path, _, name = text.partition(SEPARATOR)
    if not name.isidentifier():
        raise BuildError(f"{text!r} does not name a class.", fix="Write path/to/file.py::Class.")
    file = user_path(path)
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else f"is not a file in {Path.cwd()}"
        raise BuildError(f"{text!r}: {path!r} {problem}.", fix="Write path/to/file.py::Class.")
    return file, name


def _import_file(path: Path) -> ModuleType:
    def failure(error: BaseException) -> PluginError:
        return PluginError(f"Importing {path} failed: {error_text(error)}")

    if path.suffix != ".py" or "." in path.stem:
        raise BuildError(f"{path} is not a Python file.")
    # By its place, so that it never takes the place of an installed module of the same name, nor
    # that of a file elsewhere that is called like it.
    with foreign_code(f"importing {path}", failure), _pufferlib():
        return importlib.import_module(import_name(path.stem, str(path.parent)))


@contextmanager
def _pufferlib() -> Iterator[None]:
    """Let a file that was written for PufferLib import what it needs where that is not installed.

    Our modules of the same names stand in for its own, during the import only.
    """
    if importlib.util.find_spec(_PUFFERLIB) is not None:
        yield
        return
    package = ModuleType(_PUFFERLIB)
    package.__path__ = []
    sys.modules[_PUFFERLIB] = package
    for name in _STAND_INS:
        ours = importlib.import_module(f"puffer_policies.{name}")
        setattr(package, name, ours)
        sys.modules[f"{_PUFFERLIB}.{name}"] = ours
    try:
        yield
    finally:
        for name in (_PUFFERLIB, *(f"{_PUFFERLIB}.{each}" for each in _STAND_INS)):
            del sys.modules[name]
