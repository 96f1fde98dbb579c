"""Loads pluggy plug-ins and calls their hooks, each alone, so that one failure stays alone."""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pluggy

import puffer_policies.hookspecs as hookspecs
from puffer_policies.errors import PluginError, PolicyError, did_you_mean
from puffer_policies.foreign import error_text, foreign_import, value_text
from puffer_policies.registry.fields import checked_keywords, make_record
from puffer_policies.registry.names import target_of
from puffer_policies.registry.records import Capabilities, Kind, Provenance, Record
from puffer_policies.registry.specs import PolicySpec

HOOKS = ("register_policies", "register_checks", "policy_built", "register_commands")


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point that names a module with hooks. It can be pickled, and is imported late."""

    name: str
    target: str
    """``module`` or ``module:attribute``."""
    provenance: Provenance

    def load(self) -> Any:
        """Import the plug-in.

        Raises:
            PluginError: the import failed.
        """
        module_name, _, attribute = self.target.partition(":")
        with self.running(f"importing {self.target}", "Importing it failed"):
            plugin: Any = importlib.import_module(module_name)
            for part in filter(None, attribute.split(".")):
                plugin = getattr(plugin, part)
        return plugin

    def running(self, action: str, what: str) -> AbstractContextManager[None]:
        """Run code of this plug-in: whatever it raises is a `failure`, of the step `what`."""
        return foreign_import(
            f"{action} (plug-in {self.name!r} of {self._package()})",
            lambda error: self.failure(what, error),
        )

    def failure(self, what: str, error: BaseException) -> PluginError:
        """Return the error of this plug-in for a step that raised `error`."""
        return PluginError(
            f"Plug-in {self.name!r} of {self._package()} ({self.target}): {what}: "
            f"{error_text(error)}",
            fix=f"Report it to its authors, or leave it out: PUFFER_POLICIES_PLUGINS, or [block] "
            f'distributions = ["{self.provenance.distribution}"] in registry.toml.',
            distribution=self.provenance.distribution,
            version=self.provenance.version,
        )

    def misspelled(self, hook: str) -> PluginError:
        """Return the error of a hook that does not exist."""
        hint = did_you_mean(hook, HOOKS) or f"The hooks are {', '.join(HOOKS)}."
        return PluginError(
            f"Plug-in {self.name!r} of {self._package()} ({self.target}) implements a hook "
            f"{hook!r}, which does not exist.",
            fix=hint,
            distribution=self.provenance.distribution,
            version=self.provenance.version,
        )

    def _package(self) -> str:
        return f"{self.provenance.distribution} {self.provenance.version}".strip()


class Registrar:
    """Takes the names that one plug-in registers; they count when its hook has returned.

    The keywords are those of a registry.toml: the fields of `Description`, and those of
    `Capabilities` or `Traits` in `puffer_policies.registry.records`.
    """

    def __init__(self, provenance: Provenance) -> None:
        self.records: list[Record] = []
        self._provenance = provenance

    def add_policy(
        self,
        name: str,
        target: str | type,
        *,
        capabilities: Capabilities | None = None,
        **keywords: Any,
    ) -> None:
        """Register a policy.

        Args:
            name: its bare name.
            target: ``module:Class``, or a class where no import can name it.
            capabilities: all capabilities at once, instead of one keyword each.
            keywords: ``summary``, ``recurrent`` and so on, as in a registry.toml.

        Raises:
            PolicyError: a keyword that does not exist, or a value of the wrong type.
        """
        if not isinstance(capabilities, Capabilities | None):
            raise PolicyError(
                "add_policy(): capabilities should be Capabilities, "
                f"got {value_text(capabilities)}.",
                fix="Pass each capability as a keyword, such as recurrent=True.",
            )
        if capabilities is not None:
            keywords = {**vars(capabilities), **keywords}
        self._add("add_policy", "policy", name, target, keywords)

    def add_wrapper(self, name: str, target: str | type, **keywords: Any) -> None:
        """Register a wrapper; arguments and errors are like those of `add_policy`."""
        self._add("add_wrapper", "wrapper", name, target, keywords)

    def _add(
        self, method: str, kind: Kind, name: str, target: str | type, keywords: dict[str, Any]
    ) -> None:
        if not isinstance(target, str | type):
            raise PolicyError(
                f"{method}(): target should be 'module:Class' or a class, got {value_text(target)}."
            )
        # Not in the registry yet: if the hook fails later on, none of its names must remain, as an
        # alias or preset of the plug-in could lead to a missing one.
        self.records.append(
            make_record(
                kind,
                checked_keywords(method, kind, keywords),
                name=name,
                target=target if isinstance(target, str) else target_of(target),
                loaded=target if isinstance(target, type) else None,
                provenance=self._provenance,
            )
        )


class Timing(NamedTuple):
    """How long loading one plug-in took."""

    seconds: float
    imported_torch: bool
    """Whether it imported torch: then ``list`` is slow for everybody."""


@dataclass
class PluginHooks:
    """The hooks of all plug-ins. An error of one is kept in `errors` and warned about."""

    plugins: list[Plugin] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)
    strict: bool = False

    def register_checks(self, registrar: Any) -> None:
        """Let plug-ins add conformance checks."""
        self._call_each("register_checks", {"registrar": registrar})

    def policy_built(self, policy: Any, spec: PolicySpec) -> None:
        """Tell plug-ins about a policy that `get_policy` built."""
        self._call_each("policy_built", {"policy": policy, "spec": spec})

    def register_commands(self, commands: Any) -> None:
        """Let plug-ins add verbs to the command line."""
        self._call_each("register_commands", {"commands": commands})

    def _call_each(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for plugin in self.plugins:
            try:
                call(plugin, hook, arguments)
            except PluginError as error:
                if self.strict:
                    raise
                # What was built, or is being checked, is fine without this plug-in: go on.
                self.errors.append(error)
                warnings.warn(str(error), RuntimeWarning, stacklevel=3)


def admit(plugin: Plugin) -> tuple[list[Record], list[PluginError]]:
    """Load a plug-in and return the records it registers, and its misspelled hooks.

    Raises:
        PluginError: its import or its hook failed; then none of its names count.
    """
    manager = _manager(plugin)
    registrar = Registrar(plugin.provenance)
    with plugin.running("calling register_policies", "Its hook register_policies failed"):
        manager.hook.register_policies(registrar=registrar)
        records = _records(registrar)
        unknown = list(_unknown_hooks(manager))
    return records, [plugin.misspelled(name) for name in unknown]


def call(plugin: Plugin, hook: str, arguments: Mapping[str, Any]) -> None:
    """Call one hook of one plug-in; a plug-in without it does nothing.

    Raises:
        PluginError: the hook raised.
    """
    manager = _manager(plugin)
    with plugin.running(f"calling {hook}", f"Its hook {hook} failed"):
        getattr(manager.hook, hook)(**arguments)


def timing_since(start: float, had_torch: bool) -> Timing:
    """Return the time since `start`, a reading of `time.perf_counter`."""
    return Timing(
        seconds=time.perf_counter() - start,
        imported_torch="torch" in sys.modules and not had_torch,
    )


def _manager(plugin: Plugin) -> pluggy.PluginManager:
    """Return a manager of this one plug-in, so that no other's hooks run with it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded = plugin.load()
    # pluggy reads every attribute of the plug-in: anything may happen.
    with plugin.running(f"importing {plugin.target}", "It has hooks that can't be called"):
        manager.register(loaded, name=plugin.name)
    return manager


def _records(registrar: Registrar) -> list[Record]:
    """Return what a hook has registered; it may have reached into the registrar."""
    records = registrar.records
    if not isinstance(records, list) or not all(isinstance(each, Record) for each in records):
        raise PolicyError("registrar.records should be left to add_policy and add_wrapper.")
    return records


def _unknown_hooks(manager: pluggy.PluginManager) -> Iterator[str]:
    for plugin in manager.get_plugins():
        for caller in manager.get_hookcallers(plugin) or ():
            # pluggy ignores a hook without a specification; `optionalhook` marks one on purpose.
            optional = all(impl.optionalhook for impl in caller.get_hookimpls())
            if not caller.has_spec() and not optional:
                yield caller.name
