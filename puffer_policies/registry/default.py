"""The default registry of the process, and fresh ones by `discover`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from puffer_policies.registry.discovery import fill
from puffer_policies.registry.names import matches
from puffer_policies.registry.records import Record
from puffer_policies.registry.registry import Kind, Registry


def discover(
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    strict: bool = False,
    plugins: Iterable[str] | None = None,
) -> Registry:
    """Return a fresh registry of everything that is installed and written in files.

    Args:
        environ: where the variables are read; the process's environment if None.
        cwd: where the search for a project's registry.toml starts; the working directory if None.
        strict: raise what a plug-in breaks, instead of keeping it in ``errors``; also by
            ``PUFFER_POLICIES_STRICT=1``.
        plugins: the distributions to load; all if None, and ``PUFFER_POLICIES_PLUGINS`` is not set.

    Raises:
        ConfigError: the user's or the project's registry.toml is wrong.
        NameTaken: one of them takes a name without ``override``.
        PluginError: a plug-in failed, clashed or misspelt a hook, and `strict` is on.
    """
    registry = Registry()
    fill(registry, environ=environ, cwd=cwd, strict=strict, plugins=plugins)
    return registry


class _Default:
    """The default registry: filled once, at the first question, whichever thread asks.

    A class that is decorated before that waits: decorating, which happens at import, reads no file.
    Nor does it wait for another thread that is filling, which may want the very module whose import
    decorates.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Held while the registry is filled."""
        self._brief = threading.Lock()
        """Held while a class is put on the waiting list or taken from it; nothing is imported."""
        self._registry: Registry | None = None
        self._filling: Registry | None = None
        self._filler = 0
        self._waiting: list[Record] = []

    def get(self) -> Registry:
        if self._registry is not None:
            return self._registry
        with self._lock:
            # While this thread is filling it, a plug-in that asks gets what there is so far.
            return self._registry or self._filling or self._fill()

    def set(self, registry: Registry | None) -> None:
        with self._lock:
            self._registry = registry

    def add(self, record: Record) -> None:
        with self._brief:
            if self._registry is None and self._filler != threading.get_ident():
                self._waiting.append(record)
                return
        _add_decorated(self.get(), record)

    def _fill(self) -> Registry:
        self._filling, self._filler = Registry(), threading.get_ident()
        try:
            fill(self._filling)
            with self._brief:
                for record in self._waiting:
                    _add_decorated(self._filling, record)
                self._waiting.clear()
                self._registry = self._filling
            return self._registry
        finally:
            self._filling, self._filler = None, 0


_default = _Default()


def default_registry() -> Registry:
    """Return the registry of this process, filled at the first call.

    Raises:
        ConfigError, NameTaken: as `discover`; the next call tries again.
    """
    return _default.get()


def set_default_registry(registry: Registry | None) -> None:
    """Make `registry` the default, as a worker does with the one it was handed; None forgets it."""
    _default.set(registry)


def list_policies(pattern: str = "*", *, registry: Registry | None = None) -> list[str]:
    """Return the names of the policies that match a shell pattern, ignoring case, sorted."""
    return _matching(pattern, "policy", registry)


def list_wrappers(pattern: str = "*", *, registry: Registry | None = None) -> list[str]:
    """Return the names of the wrappers that match a shell pattern, ignoring case, sorted."""
    return _matching(pattern, "wrapper", registry)


def _matching(pattern: str, kind: Kind, registry: Registry | None) -> list[str]:
    registry = default_registry() if registry is None else registry
    return [name for name in registry.names(kind) if matches(name, pattern)]


def add_decorated(record: Record, registry: Registry | None) -> None:
    """Register a decorated class: in `registry`, or in the default one if None."""
    if registry is None:
        _default.add(record)
    else:
        _add_decorated(registry, record)


def _add_decorated(registry: Registry, record: Record) -> None:
    """Register a decorated class as its package's, if it lies in a plug-in's, else as the user's.

    The class's module decides, not who imported it, so that its qualified name is always the same.
    """
    owner = registry.packages.get(record.target.partition(":")[0].partition(".")[0])
    if owner is not None:
        record = replace(record, provenance=replace(owner, origin=record.provenance.origin))
    registry.add(record)
