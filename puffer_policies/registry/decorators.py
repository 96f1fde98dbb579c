"""The decorators that register a class: ``@register_policy`` and ``@register_wrapper``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from puffer_policies.errors import PolicyError
from puffer_policies.registry.default import add_decorated
from puffer_policies.registry.fields import checked_keywords, make_record
from puffer_policies.registry.names import LAYER_NAMES, target_of
from puffer_policies.registry.records import (
    Capabilities,
    Description,
    Kind,
    Layer,
    Provenance,
    Traits,
)
from puffer_policies.registry.registry import Registry

C = TypeVar("C", bound=type)
P = ParamSpec("P")


# Only the signatures of these two are used. Comparing and printing are left out, as every command
# would wait for the half millisecond in which `dataclass` writes them.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PolicyKeywords(Capabilities, Description):
    """The keywords of ``@register_policy``."""

    name: str = ""
    """The name; the class's own if empty."""
    registry: Registry | None = None
    """Where it is registered; in the default registry if None."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WrapperKeywords(Traits, Description):
    """The keywords of ``@register_wrapper``."""

    name: str = ""
    """The name; the class's own if empty."""
    registry: Registry | None = None
    """Where it is registered; in the default registry if None."""


class _Decorator(Protocol[P]):
    """A decorator that is written bare or with keywords."""

    @overload
    def __call__(self, cls: C, /) -> C: ...
    @overload
    def __call__(self, *args: P.args, **keywords: P.kwargs) -> Callable[[C], C]: ...


def _with_keywords_of(
    keywords: Callable[P, Any],
) -> Callable[[Callable[..., Any]], _Decorator[P]]:
    """Give a function the keywords of a dataclass, for type checkers, editors and ``help()``."""

    def decorate(function: Any) -> _Decorator[P]:
        signature = inspect.signature(keywords)
        function.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)
        return function  # type: ignore[no-any-return]

    return decorate


@_with_keywords_of(PolicyKeywords)
def register_policy(cls: Any = None, /, **keywords: Any) -> Any:
    """Register a policy class: ``@register_policy`` or ``@register_policy(name="MyNet")``.

    The keywords are ``name`` (the class's own if left out), ``registry`` (the default one if left
    out) and the fields of `Description` and `Capabilities` in `puffer_policies.registry.records`.
    Without a ``summary``, the first line of the class's docstring is taken.

    Raises:
        NameTaken: the name is taken and ``override`` is off. If the default registry has not been
            used yet, its first use raises it.
        PolicyError: a keyword that does not exist, or a wrong value.
    """
    return _register("policy", cls, keywords)


@_with_keywords_of(WrapperKeywords)
def register_wrapper(cls: Any = None, /, **keywords: Any) -> Any:
    """Register a wrapper class: ``@register_wrapper`` or ``@register_wrapper(name="MyWrapper")``.

    The keywords are ``name``, ``registry`` and the fields of `Description` and `Traits` in
    `puffer_policies.registry.records`; they and the errors are like those of `register_policy`.
    """
    return _register("wrapper", cls, keywords)


def _register(kind: Kind, cls: Any, keywords: dict[str, Any]) -> Any:
    """Register a class and return it, or return the decorator that does."""
    function = f"register_{kind}"
    name, registry = keywords.pop("name", ""), keywords.pop("registry", None)
    keywords = checked_keywords(function, kind, keywords)
    origin = _caller()

    def decorate(cls: C) -> C:
        if not isinstance(cls, type):
            raise PolicyError(
                f"A policy or wrapper is registered by decorating its class, got {cls!r}.",
                fix=f"Write @{function}(name='MyNet') to choose another name.",
            )
        register_class(kind, cls, keywords, name=name, origin=origin, registry=registry)
        return cls

    return decorate if cls is None else decorate(cls)


def register_class(
    kind: Kind,
    cls: type,
    keywords: Mapping[str, Any],
    *,
    name: str,
    origin: str,
    registry: Registry | None,
) -> None:
    """Register a class of this process, which `origin` registers, as `register_policy` does."""
    first_line = (cls.__doc__ or "").strip().partition("\n")[0]
    record = make_record(
        kind,
        {**keywords, "summary": keywords.get("summary") or first_line},
        name=name or cls.__name__,
        target=target_of(cls),
        loaded=cls,
        provenance=Provenance(
            layer=Layer.PROCESS, distribution=LAYER_NAMES[Layer.PROCESS], origin=origin
        ),
    )
    add_decorated(record, registry)


def _caller() -> str:
    """Return ``file:line`` of the code that decorates."""
    frame = sys._getframe(3)  # behind this function, `_register` and `register_policy`
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
