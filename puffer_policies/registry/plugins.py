"""Loads pluggy plug-ins and calls their hooks, each alone, so that one failure stays alone."""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pluggy

import puffer_policies.hookspecs as hookspecs
from puffer_policies.errors import PluginError, did_you_mean
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
        try:
            plugin: Any = importlib.import_module(module_name)
            for part in filter(None, attribute.split(".")):
                plugin = getattr(plugin, part)
        # SystemExit too: a plug-in that calls sys.exit() must not end every command.
        except (Exception, SystemExit) as error:
            raise self.failure("Importing it failed", error) from error
        return plugin

    def failure(self, what: str, error: BaseException) -> PluginError:
        """Return the error of this plug-in for a step that raised `error`."""
        return PluginError(
            f"Plug-in {self.name!r} of {self._package()} ({self.target}): {what}: "
            f"{type(error).__name__}: {error}",
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
        if capabilities is not None:
            keywords = {**vars(capabilities), **keywords}
        self._add("add_policy", "policy", name, target, keywords)

    def add_wrapper(self, name: str, target: str | type, **keywords: Any) -> None:
        """Register a wrapper; arguments and errors are like those of `add_policy`."""
        self._add("add_wrapper", "wrapper", name, target, keywords)

    def _add(
        self, method: str, kind: Kind, name: str, target: str | type, keywords: dict[str, Any]
    ) -> None:
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
    _call(manager, plugin, "register_policies", {"registrar": registrar})
    return registrar.records, [plugin.misspelled(name) for name in _unknown_hooks(manager)]


def call(plugin: Plugin, hook: str, arguments: Mapping[str, Any]) -> None:
    """Call one hook of one plug-in; a plug-in without it does nothing.

    Raises:
        PluginError: the hook raised.
    """
    _call(_manager(plugin), plugin, hook, arguments)


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
    try:
        manager.register(loaded, name=plugin.name)
    except Exception as error:  # pluggy reads every attribute of the plug-in: anything may happen
        raise plugin.failure("It has hooks that can't be called", error) from error
    return manager


def _call(
    manager: pluggy.PluginManager, plugin: Plugin, hook: str, arguments: Mapping[str, Any]
) -> None:
    try:
        getattr(manager.hook, hook)(**arguments)
    except (Exception, SystemExit) as error:
        raise plugin.failure(f"Its hook {hook} failed", error) from error


def _unknown_hooks(manager: pluggy.PluginManager) -> Iterator[str]:
    for plugin in manager.get_plugins():
        for caller in manager.get_hookcallers(plugin) or ():
            # pluggy ignores a hook without a specification; `optionalhook` marks one on purpose.
            optional = all(impl.optionalhook for impl in caller.get_hookimpls())
            if not caller.has_spec() and not optional:
                yield caller.name
