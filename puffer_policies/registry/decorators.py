"""The decorators that register a class: ``@register_policy`` and ``@register_wrapper``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from puffer_policies.errors import PolicyError
from puffer_policies.registry.default import add_decorated
from puffer_policies.registry.names import LAYER_NAMES
from puffer_policies.registry.records import (
    Capabilities,
    Layer,
    PolicyRecord,
    Provenance,
    WrapperRecord,
)
from puffer_policies.registry.registry import Registry

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class _Policy:
    """Registers the class it is called with."""

    name: str
    summary: str
    paper: str
    defaults: Mapping[str, Any]
    override: bool
    capabilities: Capabilities
    registry: Registry | None
    origin: str

    def __call__(self, cls: C) -> C:
        record = PolicyRecord(**_common(self, cls), capabilities=self.capabilities)
        add_decorated(record, self.registry)
        return cls


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """Registers the class it is called with."""

    name: str
    summary: str
    paper: str
    defaults: Mapping[str, Any]
    override: bool
    requires: tuple[str, ...]
    forbids: tuple[str, ...]
    provides: tuple[str, ...]
    registry: Registry | None
    origin: str

    def __call__(self, cls: C) -> C:
        record = WrapperRecord(
            **_common(self, cls),
            requires=self.requires,
            forbids=self.forbids,
            provides=self.provides,
        )
        add_decorated(record, self.registry)
        return cls


@overload
def register_policy(cls: C, /) -> C: ...
@overload
def register_policy(
    cls: None = None,
    /,
    *,
    name: str = "",
    summary: str = "",
    paper: str = "",
    defaults: Mapping[str, Any] | None = None,
    observations: Iterable[str] = (),
    actions: Iterable[str] = (),
    recurrent: bool = False,
    needs_mask: bool = False,
    min_image_size: int = 0,
    override: bool = False,
    registry: Registry | None = None,
) -> Callable[[C], C]: ...
def register_policy(
    cls: C | None = None,
    /,
    *,
    name: str = "",
    summary: str = "",
    paper: str = "",
    defaults: Mapping[str, Any] | None = None,
    observations: Iterable[str] = (),
    actions: Iterable[str] = (),
    recurrent: bool = False,
    needs_mask: bool = False,
    min_image_size: int = 0,
    override: bool = False,
    registry: Registry | None = None,
) -> C | Callable[[C], C]:
    """Register a policy class: ``@register_policy`` or ``@register_policy(name="MyNet")``.

    Args:
        cls: the class, where the decorator stands without arguments.
        name: the name; the class's own if empty.
        summary: one sentence; the first line of the class's docstring if empty.
        paper: a link.
        defaults: constructor arguments used unless the caller gives others.
        observations: kinds of observation space it reads; any if empty.
        actions: kinds of action space it serves; any if empty.
        recurrent: whether it carries state from step to step.
        needs_mask: whether it requires an action mask.
        min_image_size: smallest image height and width, in pixels.
        override: whether it may take a name that a built-in, a file or another class has.
        registry: where it goes; the default registry if None.

    Raises:
        NameTaken: the name is taken and `override` is off. A default registry that nobody asked
            anything yet raises it at the first question.
        PolicyError: the record is wrong in itself.
    """
    capabilities = Capabilities(
        observations=_words(observations, "observations"),
        actions=_words(actions, "actions"),
        recurrent=recurrent,
        needs_mask=needs_mask,
        min_image_size=min_image_size,
    )
    decorate = _Policy(
        name, summary, paper, defaults or {}, override, capabilities, registry, _caller()
    )
    return decorate if cls is None else decorate(cls)


@overload
def register_wrapper(cls: C, /) -> C: ...
@overload
def register_wrapper(
    cls: None = None,
    /,
    *,
    name: str = "",
    summary: str = "",
    paper: str = "",
    defaults: Mapping[str, Any] | None = None,
    requires: Iterable[str] = (),
    forbids: Iterable[str] = (),
    provides: Iterable[str] = (),
    override: bool = False,
    registry: Registry | None = None,
) -> Callable[[C], C]: ...
def register_wrapper(
    cls: C | None = None,
    /,
    *,
    name: str = "",
    summary: str = "",
    paper: str = "",
    defaults: Mapping[str, Any] | None = None,
    requires: Iterable[str] = (),
    forbids: Iterable[str] = (),
    provides: Iterable[str] = (),
    override: bool = False,
    registry: Registry | None = None,
) -> C | Callable[[C], C]:
    """Register a wrapper class: ``@register_wrapper`` or ``@register_wrapper(name="MyWrapper")``.

    Args:
        cls: the class, where the decorator stands without arguments.
        name: the name; the class's own if empty.
        summary: one sentence; the first line of the class's docstring if empty.
        paper: a link.
        defaults: constructor arguments used unless the caller gives others.
        requires: traits that the stack below must have.
        forbids: traits that it must not have.
        provides: traits that the wrapper adds.
        override: whether it may take a name that a built-in, a file or another class has.
        registry: where it goes; the default registry if None.

    Raises:
        NameTaken, PolicyError: as `register_policy`.
    """
    decorate = _Wrapper(
        name,
        summary,
        paper,
        defaults or {},
        override,
        _words(requires, "requires"),
        _words(forbids, "forbids"),
        _words(provides, "provides"),
        registry,
        _caller(),
    )
    return decorate if cls is None else decorate(cls)


def _common(options: _Policy | _Wrapper, cls: type) -> dict[str, Any]:
    if not isinstance(cls, type):
        raise PolicyError(
            f"A policy or wrapper is registered by decorating its class, got {cls!r}.",
            fix="A name of its own is given as @register_policy(name='MyNet').",
        )
    place = Provenance(
        layer=Layer.PROCESS, distribution=LAYER_NAMES[Layer.PROCESS], origin=options.origin
    )
    first_line = (cls.__doc__ or "").strip().partition("\n")[0]
    return {
        "name": options.name or cls.__name__,
        "target": f"{cls.__module__}:{cls.__qualname__}",
        "loaded": cls,
        "provenance": place,
        "summary": options.summary or first_line,
        "paper": options.paper,
        "defaults": dict(options.defaults),
        "override": options.override,
    }


def _words(words: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(words, str):
        raise PolicyError(f"{argument} should be a list of words, got the string {words!r}.")
    return tuple(words)


def _caller() -> str:
    """Return ``file:line`` of the code that decorates."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
