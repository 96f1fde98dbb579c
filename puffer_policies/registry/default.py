"""The registry that this process uses unless it is told otherwise, and what it lists."""

from __future__ import annotations

import threading
from dataclasses import replace

from puffer_policies.errors import PolicyError
from puffer_policies.foreign import value_text
from puffer_policies.registry.discovery import fill
from puffer_policies.registry.names import matches
from puffer_policies.registry.records import Kind, Record
from puffer_policies.registry.registry import Registry


class _Default:
    """The default registry, filled once, at the first look-up of any thread.

    A class that is decorated before that is put on a list: decorating, which happens at import,
    reads no file. Nor does it wait for another thread that is filling, which may be about to import
    the very module that decorates.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Held while the registry is filled."""
        self._list_lock = threading.Lock()
        """Held while the list of decorated classes is changed; nothing is imported meanwhile."""
        self._registry: Registry | None = None
        self._filling: Registry | None = None
        self._filler = 0
        self._pending: list[Record] = []

    def get(self) -> Registry:
        # Without the lock, as every look-up passes here; the assignment below is atomic.
        if self._registry is not None:
            return self._registry
        with self._lock:
            # A plug-in that looks something up while this thread loads it sees what is there so
            # far; waiting for the rest would wait for itself, which is why the lock is an RLock.
            return self._registry or self._filling or self._fill()

    def set(self, registry: Registry | None) -> None:
        with self._lock:
            self._registry = registry

    def add(self, record: Record) -> None:
        with self._list_lock:
            if self._registry is None and self._filler != threading.get_ident():
                self._pending.append(record)
                return
        _add_decorated(self.get(), record)

    def _fill(self) -> Registry:
        # A registry of its own until it is whole: after an error the next call starts afresh.
        self._filling, self._filler = Registry(), threading.get_ident()
        try:
            fill(self._filling)
            with self._list_lock:
                for record in self._pending:
                    _add_decorated(self._filling, record)
                self._pending.clear()
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
    """Make `registry` the default, as a worker does with its parent's; None forgets it."""
    _default.set(registry)


def list_policies(pattern: str = "*", *, registry: Registry | None = None) -> list[str]:
    """Return the names of the policies that match a shell pattern, ignoring case, sorted.

    Raises:
        PolicyError: the pattern is not a string.
    """
    return _matching(pattern, "policy", registry)


def list_wrappers(pattern: str = "*", *, registry: Registry | None = None) -> list[str]:
    """Return the names of the wrappers that match a shell pattern, ignoring case, sorted."""
    return _matching(pattern, "wrapper", registry)


def _matching(pattern: str, kind: Kind, registry: Registry | None) -> list[str]:
    if not isinstance(pattern, str):
        raise PolicyError(
            f"The pattern of list_{'policies' if kind == 'policy' else 'wrappers'} should be a "
            f"string such as '*Conv*', got {value_text(pattern)}.",
            fix="puffer_policies.assembly.fit.fits(env) tells which policies fit an env.",
        )
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
