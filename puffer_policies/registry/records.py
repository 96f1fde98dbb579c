"""What a registry holds: immutable descriptions of policies and wrappers, and how to import one."""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from puffer_policies.errors import MissingDependency, PluginError

OBSERVATION_KINDS = (
    "vector",
    "array",
    "image",
    "discrete",
    "multidiscrete",
    "multibinary",
    "dict",
    "tuple",
    "entities",
)
"""The kinds of observation space that a record may name; `puffer_policies.spaces` tells them, and
`puffer_policies.spaces.entities` the last, which an array or a dict can be besides."""

ACTION_KINDS = ("discrete", "multidiscrete", "multibinary", "box")
"""The kinds of action space that a record may name."""


class Layer(enum.IntEnum):
    """Where a record came from, weakest first: a stronger layer wins a bare name."""

    PLUGIN = 0
    BUILTIN = 1
    USER = 2
    PROJECT = 3
    PROCESS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who registered a record, and where."""

    layer: Layer
    """The source's rank."""
    distribution: str
    """Normalised distribution name; ``user``, ``project`` or ``local`` where there is none."""
    version: str = ""
    """The distribution's version, or an empty string."""
    origin: str = ""
    """``file:line``, an entry-point group or a hook: what a person opens to change the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a policy can be built for, in the kinds of `puffer_policies.spaces`; empty means any."""

    observations: tuple[str, ...] = ()
    """Kinds of observation space it reads."""
    actions: tuple[str, ...] = ()
    """Kinds of action space it serves."""
    recurrent: bool = False
    """Whether it carries state from step to step."""
    needs_mask: bool = False
    """Whether it requires an action mask."""
    min_image_size: int = 0
    """Smallest image height and width, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A registered name; picklable if its target can be imported."""

    name: str
    """The bare name, a CamelCase identifier."""
    target: str
    """``module:attribute``; for a class made inside a function it only documents."""
    provenance: Provenance
    summary: str = ""
    paper: str = ""
    extra: str = ""
    """The extra of the distribution that brings what the target imports."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Constructor arguments used unless the caller gives others."""
    override: bool = False
    """Whether this record may take a name that a weaker layer holds."""
    search_path: str = ""
    """A folder from which `target` may be imported: that of the registry file which names it."""
    loaded: type | None = field(default=None, compare=False, repr=False)
    """The class itself, where a caller registered one directly."""

    @property
    def qualified_name(self) -> str:
        """``distribution/Name``, which never becomes ambiguous."""
        return f"{self.provenance.distribution}/{self.name}"

    def load(self) -> type:
        """Import the target and return its class.

        Raises:
            MissingDependency: the import wants a package that is not installed.
            PluginError: the import failed otherwise, or found something that is not a class.
        """
        if self.loaded is not None:
            return self.loaded
        found = _import_target(self)
        if not isinstance(found, type):
            raise PluginError(
                f"{self.qualified_name!r} should be a class, but {self.target!r} is {found!r}.",
                fix=f"Correct the target in {self.provenance.origin}.",
                distribution=self.provenance.distribution,
                version=self.provenance.version,
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "name": self.name,
            "qualified_name": self.qualified_name,
            "kind": self.kind,
            "target": self.target,
            "summary": self.summary,
            "paper": self.paper,
            "defaults": dict(self.defaults),
            "distribution": self.provenance.distribution,
            "version": self.provenance.version,
            "layer": self.provenance.layer.name.lower(),
            "origin": self.provenance.origin,
        }

    @property
    def kind(self) -> str:
        """``policy`` or ``wrapper``."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord(Record):
    """A policy class and what it fits."""

    capabilities: Capabilities = Capabilities()

    @property
    def kind(self) -> str:
        """``policy``."""
        return "policy"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``, capabilities included."""
        data = Record.to_dict(self)
        data["observations"] = list(self.capabilities.observations)
        data["actions"] = list(self.capabilities.actions)
        data["recurrent"] = self.capabilities.recurrent
        data["needs_mask"] = self.capabilities.needs_mask
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapperRecord(Record):
    """A wrapper class and what it asks of, and adds to, the stack below it.

    Traits are words; the built-ins use ``recurrent``. A stack starts with the traits of its
    policy's capabilities; each wrapper checks `requires` and `forbids`, then adds `provides`.
    """

    requires: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``wrapper``."""
        return "wrapper"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``, traits included."""
        data = Record.to_dict(self)
        for trait in ("requires", "forbids", "provides"):
            data[trait] = list(getattr(self, trait))
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A registered name that is no policy: it leads to another name, or says why there is none."""

    name: str
    kind: Literal["alias", "deprecated", "removed"]
    text: str
    """The name it leads to; for ``removed``, the reason."""
    provenance: Provenance

    @property
    def qualified_name(self) -> str:
        """``distribution/Name``, which never becomes ambiguous."""
        return f"{self.provenance.distribution}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named expression, such as ``LSTMWrapper(Default(hidden_size=256))``."""

    name: str
    policy: str
    """The expression; `puffer_policies.registry.specs` reads it."""
    provenance: Provenance
    summary: str = ""

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which never becomes ambiguous."""
        return f"{self.provenance.distribution}/{self.name}"


def _import_target(record: Record) -> Any:
    module_name, _, attribute = record.target.partition(":")
    if record.search_path and record.search_path not in sys.path:
        # Last, so that a file beside a registry.toml never shadows an installed package.
        sys.path.append(record.search_path)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise _missing(record, module_name, error) from error
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"Loading {_described(record)} from {record.target!r} failed: "
            f"{type(error).__name__}: {error}",
            fix=f"It is registered at {record.provenance.origin}.",
            distribution=record.provenance.distribution,
            version=record.provenance.version,
        ) from error
    return found


def _missing(record: Record, module_name: str, error: ModuleNotFoundError) -> PluginError:
    wanted = error.name or str(error)
    if module_name == wanted or module_name.startswith(f"{wanted}."):
        return PluginError(
            f"Loading {_described(record)} failed: there is no module {wanted!r}.",
            fix=f"Correct the target {record.target!r} in {record.provenance.origin}.",
        )
    package = record.provenance.distribution + (f"[{record.extra}]" if record.extra else "")
    fix = f"pip install '{package}'" if record.extra else f"Install what provides {wanted!r}."
    return MissingDependency(
        f"Loading {_described(record)} needs the module {wanted!r}, which is not installed.",
        fix=fix,
    )


def _described(record: Record) -> str:
    version = f" {record.provenance.version}" if record.provenance.version else ""
    return f"{record.qualified_name!r} ({record.provenance.distribution}{version})"
