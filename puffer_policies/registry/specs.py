"""A policy by name, with its arguments and wrappers, as an expression and as JSON.

Grammar of an expression, with Python literals as values::

    expression := name | name(arguments)
    name       := Name | distribution/Name
    arguments  := [expression ,] key=literal, ...

``LSTMWrapper(Convolutional(hidden_size=256), num_layers=2)`` wraps the policy inside the brackets.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puffer_policies.errors import BuildError, short

MAX_LENGTH = 10_000
"""Characters of an expression; more come from a mistake or an attack."""

# Strings are matched first, so that a slash inside one is left alone. A name starts where no word
# goes on, and is not backtracked into: the time grows with the length and not with its square.
_QUALIFIED = re.compile(
    r"""(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
    r"""|(?P<name>(?<![\w.-])[A-Za-z0-9][\w.-]*+/[A-Za-z_]\w*)"""
)


@dataclass(frozen=True, slots=True)
class WrapperSpec:
    """A wrapper by name, with its arguments."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", _plain(self.kwargs, self.name))


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy by name, its arguments, and its wrappers from the innermost outwards.

    Arguments are JSON values: tuples become lists, so that a spec equals its own round trip.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    wrappers: tuple[WrapperSpec, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", _plain(self.kwargs, self.name))
        object.__setattr__(self, "wrappers", tuple(self.wrappers))

    @classmethod
    def parse(cls, expression: str) -> PolicySpec:
        """Read an expression such as ``LSTMWrapper(Default(hidden_size=256))``.

        Raises:
            BuildError: the text is not an expression of this grammar.
        """
        return _parse(expression)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PolicySpec:
        """Rebuild a spec from `to_dict`."""
        try:
            wrappers = tuple(WrapperSpec(w["name"], w["kwargs"]) for w in data["wrappers"])
            spec = cls(data["name"], data["kwargs"], wrappers)
            names = (spec.name, *(each.name for each in wrappers))
            if not all(isinstance(each, str) for each in names):
                raise TypeError("a name is text")
            return spec
        except (KeyError, TypeError) as error:
            raise BuildError(
                f"This is not a policy spec: {short(data)}.",
                fix="A spec has the keys 'name', 'kwargs' and 'wrappers'.",
            ) from error

    @classmethod
    def from_json(cls, text: str) -> PolicySpec:
        """Rebuild a spec from `to_json`."""
        try:
            data = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise BuildError(f"This policy spec is not JSON: {error}.") from error
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        wrappers = [{"name": w.name, "kwargs": dict(w.kwargs)} for w in self.wrappers]
        return {"name": self.name, "kwargs": dict(self.kwargs), "wrappers": wrappers}

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def with_kwargs(self, kwargs: Mapping[str, Any]) -> PolicySpec:
        """Return this spec with more arguments of the policy.

        Raises:
            BuildError: it has one of them already.
        """
        for key in kwargs:
            if key in self.kwargs:
                raise BuildError(
                    f"{key!r} is given twice for {self.name!r}: {short(self.kwargs[key])} in the "
                    f"expression and {short(kwargs[key])} beside it."
                )
        return PolicySpec(self.name, {**self.kwargs, **kwargs}, self.wrappers)

    def with_defaults(self, by_name: Mapping[str, Mapping[str, Any]]) -> PolicySpec:
        """Return this spec with what its names have by default, where it has no such argument."""
        wrappers = (
            WrapperSpec(each.name, {**by_name.get(each.name, {}), **each.kwargs})
            for each in self.wrappers
        )
        return PolicySpec(self.name, {**by_name.get(self.name, {}), **self.kwargs}, tuple(wrappers))

    def wrapped(self, *wrappers: WrapperSpec) -> PolicySpec:
        """Return this spec with more wrappers around it."""
        return PolicySpec(self.name, self.kwargs, self.wrappers + wrappers)

    def wrapped_inside(self, *wrappers: WrapperSpec) -> PolicySpec:
        """Return this spec with more wrappers around the policy, inside the present ones."""
        return PolicySpec(self.name, self.kwargs, wrappers + self.wrappers)

    def __str__(self) -> str:
        text = _call(self.name, "", self.kwargs)
        for wrapper in self.wrappers:
            text = _call(wrapper.name, text, wrapper.kwargs)
        return text


def _call(name: str, inner: str, kwargs: Mapping[str, Any]) -> str:
    arguments = [inner] if inner else []
    arguments += [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(arguments)})" if arguments else name


def _plain(kwargs: Mapping[str, Any], name: str) -> dict[str, Any]:
    # There and back: tuples become lists, so that a spec equals the one in its checkpoint.
    try:
        data: dict[str, Any] = json.loads(json.dumps(dict(kwargs), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BuildError(
            f"The arguments of {short(name)} must be plain data (finite numbers, strings, "
            f"booleans, None, lists, dicts), got {short(dict(kwargs))}.",
            fix="Only plain data can be stored in a checkpoint or a config.",
        ) from error
    return data


def _parse(expression: str) -> PolicySpec:
    names: dict[str, str] = {}

    def hide(match: re.Match[str]) -> str:
        # `acme-nets/Conv` is arithmetic to Python's parser: stand an identifier in for it.
        if match["quoted"]:
            return match["quoted"]
        hidden = f"_qualified_{len(names)}"
        names[hidden] = match["name"]
        return hidden

    if len(expression) > MAX_LENGTH:
        raise _malformed(expression, f"it is longer than {MAX_LENGTH:,} characters")
    try:
        with warnings.catch_warnings():
            # Python's parser warns of odd escapes and the like, which are the user's to choose.
            warnings.simplefilter("ignore")
            tree = ast.parse(_QUALIFIED.sub(hide, expression.strip()), mode="eval").body
        return _Reader(expression, names).spec(tree)
    # Python's parser runs out of stack or memory on text that is nested too deeply.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _malformed(expression, "it can't be parsed") from error


def _malformed(expression: str, why: str) -> BuildError:
    return BuildError(
        f"{short(expression)} is not a policy expression: {why}.",
        fix="Write a name, 'Name(key=value)' or 'Wrapper(Name)'; values are Python literals.",
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    expression: str
    names: dict[str, str]

    def spec(self, node: ast.expr) -> PolicySpec:
        if isinstance(node, ast.Name):
            return PolicySpec(self.name(node))
        if not isinstance(node, ast.Call):
            raise _malformed(self.expression, f"{ast.unparse(node)!r} is neither a name nor a call")
        name, kwargs = self.name(node.func), self.keywords(node)
        if not node.args:
            return PolicySpec(name, kwargs)
        if len(node.args) > 1:
            raise _malformed(self.expression, f"{name!r} wraps one policy, got {len(node.args)}")
        return self.spec(node.args[0]).wrapped(WrapperSpec(name, kwargs))

    def name(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise _malformed(self.expression, f"{ast.unparse(node)!r} is not a name")
        # The stand-ins for qualified names begin with an underscore, so no real name may.
        if node.id.startswith("_") and node.id not in self.names:
            raise _malformed(self.expression, f"{node.id!r} is not a name")
        return self.names.get(node.id, node.id)

    def keywords(self, node: ast.Call) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _malformed(self.expression, "'**' is not allowed")
            if keyword.arg in kwargs:
                raise _malformed(self.expression, f"{keyword.arg!r} is given twice")
            try:
                kwargs[keyword.arg] = ast.literal_eval(keyword.value)
            except (ValueError, TypeError, SyntaxError) as error:
                value = ast.unparse(keyword.value)
                raise _malformed(
                    self.expression, f"{keyword.arg}={value} is not a literal"
                ) from error
        return kwargs
