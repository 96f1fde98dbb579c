"""What a registry holds: frozen descriptions of policies and wrappers, and how to import one."""

from __future__ import annotations

import enum
import importlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from puffer_policies.errors import (
    MissingDependency,
    PluginError,
    PolicyError,
    TrustError,
    did_you_mean,
)
from puffer_policies.foreign import error_text, foreign_import, value_text
from puffer_policies.registry.folders import import_name, plain_name

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
"""The kinds of observation space that a record may name. `puffer_policies.spaces` finds the kind of
a space; an array or a dict can be ``entities`` besides (`puffer_policies.spaces.entities`)."""

ACTION_KINDS = ("discrete", "multidiscrete", "multibinary", "box", "dict", "tuple")
"""The kinds of action space that a record may name. A record that names some serves no other: who
serves the kinds of all its parts does not serve a Dict by that."""

Kind = Literal["policy", "wrapper"]
"""What a name can be registered as."""


CODE_LOGGER = "puffer_policies.registry.code"
"""The logger that says, at level INFO, that code of a project's registry file runs."""


class Layer(enum.IntEnum):
    """Where a record came from, weakest first: a stronger layer wins a bare name."""

    # Packages are weakest: installing one must not change what a name means in an old run. The
    # nearer a source is to the program that runs, the more it is meant.
    PLUGIN = 0
    BUILTIN = 1
    USER = 2
    PROJECT = 3
    PROCESS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who registered a record, and where."""

    layer: Layer
    """How strong the source is."""
    distribution: str
    """Normalized distribution name; ``user``, ``project`` or ``local`` where there is none."""
    version: str = ""
    """The distribution's version, or an empty string."""
    origin: str = ""
    """``file:line``, an entry-point group or a hook: what a person opens to change the record."""
    distrust: str = ""
    """Why code of the registry file needs the user's consent; '' where it may run."""

    def require_consent(self, name: str, folder: str) -> None:
        """Refuse to run code that the user has not consented to; log that a project's code runs.

        Args:
            name: what was asked for.
            folder: where the code lies.

        Raises:
            TrustError: the registry file is neither the user's own nor trusted.
        """
        if self.distrust:
            raise TrustError(
                f"{name!r} ({self.origin}) would run code of {folder}, and {self.distrust}.",
                fix=f"If you trust it: puffer-policies trust {shlex.quote(folder)}\n"
                "If not: set PUFFER_POLICIES_REGISTRY to nothing, and the file is not read.",
                distribution=self.distribution,
                version=self.version,
            )
        if self.layer is Layer.PROJECT:
            # Imported here, as it takes longer than all that `list` does with a project's file.
            import logging

            file = self.origin.rpartition(":")[0] or self.origin
            logging.getLogger(CODE_LOGGER).info("%s from %s runs code of %s", name, file, folder)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The description of a name, policy or wrapper; each field is a keyword wherever one registers.

    It has no slots, because a class can't inherit from two classes with slots.
    """

    summary: str = ""
    """One sentence for ``list`` and ``show``."""
    paper: str = ""
    """A link."""
    extra: str = ""
    """The extra of the distribution that installs what the target imports."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Constructor arguments used unless the caller passes others."""
    override: bool = False
    """Whether it may take a name that a weaker layer, or another class in the process, holds."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a policy can be built for.

    This is the only place where a capability is declared: a field here is a key of registry.toml,
    a keyword of ``@register_policy`` and of the registrar, and part of ``show`` and ``--json``. Its
    type is that of its default. A flag is also a trait that wrappers may require or forbid.
    """

    observations: Sequence[str] = ()
    """Kinds of observation space it reads, of `OBSERVATION_KINDS`; empty means any."""
    actions: Sequence[str] = ()
    """Kinds of action space it serves, of `ACTION_KINDS`; empty means any."""
    recurrent: bool = False
    """Whether it carries state from step to step."""
    needs_mask: bool = False
    """Whether it requires an action mask."""
    needs_previous: bool = False
    """Whether it reads the last action and reward."""
    min_image_size: int = 0
    """Smallest image height and width, in pixels."""

    @property
    def traits(self) -> frozenset[str]:
        """The names of the flags that are set."""
        return frozenset(name for name, value in vars(self).items() if value is True)

    def with_traits(self, traits: Iterable[str]) -> Capabilities:
        """Return these capabilities with more flags set; other traits mean nothing to a policy."""
        flags = {each.name for each in fields(self) if each.default is False}
        present: dict[str, Any] = dict.fromkeys(flags.intersection(traits), True)
        return replace(self, **present)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a wrapper asks of the stack below it, and what it adds.

    Traits are words, such as the flags of `Capabilities`. A stack starts with those of its policy;
    each wrapper checks `requires` and `forbids`, then adds `provides`.
    """

    requires: Sequence[str] = ()
    """Traits that the stack below must have."""
    forbids: Sequence[str] = ()
    """Traits that the stack below must not have."""
    provides: Sequence[str] = ()
    """Traits that the wrapper adds."""
    policy_arguments: Sequence[str] = ()
    """Arguments that are expressions of policies, such as a critic of another form."""


@dataclass(frozen=True, kw_only=True)
class Record(Description):
    """A registered name; picklable if its target can be imported."""

    name: str
    """The bare name, a CamelCase identifier."""
    target: str
    """``module:attribute``; for a class made inside a function it only documents."""
    provenance: Provenance
    search_path: str = ""
    """A folder in which `target` is looked for first: that of the registry file which names it."""
    # Not compared: the same record, unpickled in a worker, names its class and does not hold it.
    loaded: type | None = field(default=None, compare=False, repr=False)
    """The class itself, where a caller registered one directly."""

    @property
    def qualified_name(self) -> str:
        """``distribution/Name``, which never becomes ambiguous."""
        return f"{self.provenance.distribution}/{self.name}"

    @property
    def kind(self) -> Kind:
        """``policy`` or ``wrapper``."""
        raise NotImplementedError

    @property
    def features(self) -> Mapping[str, Any]:
        """The fields of this kind only: the capabilities of a policy, the traits of a wrapper."""
        raise NotImplementedError

    def load(self) -> type:
        """Import the target and return its class.

        Raises:
            MissingDependency: the target imports a package that is not installed.
            TrustError: its registry file is neither the user's own nor trusted.
            PluginError: the import failed otherwise, or the target is not a class.
        """
        if self.loaded is not None:
            return self.loaded
        self.require_consent()
        with foreign_import(f"importing {self.target} for {_label(self)}", self._failure):
            target = _import_target(self)
            # A stranger's object may claim any class for itself, and raise when it is asked.
            if not issubclass(type(target), type):
                raise self._error(
                    f"{self.qualified_name!r} should be a class, but {self.target!r} is "
                    f"{value_text(target)}.",
                    fix=f"Correct the target in {self.provenance.origin}.",
                )
            cls: type = target
        return cls

    def is_record_of(self, cls: type) -> bool:
        """Return whether `load` returns this class, as far as can be told without importing."""
        if self.loaded is not None:
            return self.loaded is cls
        module, _, attribute = self.target.partition(":")
        # The names first: to look for a module reads the disk.
        return (
            attribute == cls.__qualname__
            and plain_name(cls.__module__) == module
            and import_name(module, self.search_path) == cls.__module__
        )

    def _failure(self, error: BaseException) -> PolicyError:
        """Return the error of a target that could not be imported."""
        if isinstance(error, PluginError) and error.distribution == self.provenance.distribution:
            return error
        if isinstance(error, ModuleNotFoundError):
            return _missing_module(self, error)
        return self._error(
            f"Loading {_label(self)} from {self.target!r} failed: {error_text(error)}",
            fix=f"It is registered at {self.provenance.origin}.",
        )

    def _error(self, problem: str, *, fix: str) -> PluginError:
        place = self.provenance
        return PluginError(problem, fix=fix, distribution=place.distribution, version=place.version)

    def require_consent(self) -> None:
        """Refuse to import a class that the user has not consented to.

        Raises:
            TrustError: its registry file is neither the user's own nor trusted.
        """
        self.provenance.require_consent(self.name, self.search_path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        features = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.features.items()
        }
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
            "trusted": not self.provenance.distrust,
            **features,
        }


@dataclass(frozen=True, kw_only=True)
class PolicyRecord(Record):
    """A policy class and what it fits."""

    capabilities: Capabilities = Capabilities()

    @property
    def kind(self) -> Kind:
        """``policy``."""
        return "policy"

    @property
    def features(self) -> Mapping[str, Any]:
        """The capabilities by name."""
        return vars(self.capabilities)


@dataclass(frozen=True, kw_only=True)
class WrapperRecord(Record, Traits):
    """A wrapper class, and what it asks of and adds to the stack below it."""

    @property
    def kind(self) -> Kind:
        """``wrapper``."""
        return "wrapper"

    @property
    def features(self) -> Mapping[str, Any]:
        """The traits by what they are for."""
        return {each.name: getattr(self, each.name) for each in fields(Traits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A registered name without a class: it leads to another name, or explains its absence."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A trained policy that a package brings as a checkpoint, which tells the rest."""

    name: str
    target: str
    """``package:file.safetensors``."""
    provenance: Provenance

    @property
    def qualified_name(self) -> str:
        """``distribution/name``, which never becomes ambiguous."""
        return f"{self.provenance.distribution}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvModule:
    """The module that registers an env with gymnasium, as a line under ``[envs]`` names it."""

    env_id: str
    module: str
    provenance: Provenance
    search_path: str
    """The folder of the registry file, from which the module may be imported."""


def _import_target(record: Record) -> Any:
    module_name, _, attribute = record.target.partition(":")
    module = importlib.import_module(import_name(module_name, record.search_path))
    target: Any = module
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError as error:
            file = getattr(module, "__file__", None) or f"the module {module_name!r}"
            raise record._error(
                f"Loading {_label(record)} from {record.target!r} failed: there is no {part!r} in "
                f"{file}.",
                fix=f"{did_you_mean(part, vars(module))} Correct the target in "
                f"{record.provenance.origin}.".strip(),
            ) from error
    return target


def _missing_module(record: Record, error: ModuleNotFoundError) -> PluginError:
    module_name = record.target.partition(":")[0]
    missing = plain_name(str(error.name or error_text(error)))
    # The target's own module, or a parent of it: the record is wrong, and no package is missing.
    if module_name == missing or module_name.startswith(f"{missing}."):
        place = f" in {record.search_path}, and none is installed" if record.search_path else ""
        return record._error(
            f"Loading {_label(record)} failed: there is no module {missing!r}{place}.",
            fix=f"Correct the target {record.target!r} in {record.provenance.origin}.",
        )
    package = record.provenance.distribution + (f"[{record.extra}]" if record.extra else "")
    fix = f"pip install '{package}'" if record.extra else f"Install what provides {missing!r}."
    return MissingDependency(
        f"Loading {_label(record)} needs the module {missing!r}, which is not installed.",
        fix=fix,
    )


def _label(record: Record) -> str:
    version = f" {record.provenance.version}" if record.provenance.version else ""
    return f"{record.qualified_name!r} ({record.provenance.distribution}{version})"
