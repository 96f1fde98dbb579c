"""The registry: every policy and wrapper by name. It reads no file and imports no plug-in."""

from __future__ import annotations

import copy
import importlib
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from puffer_policies.errors import NameTaken, PluginError, PolicyDeprecationWarning, PolicyError
from puffer_policies.registry.explain import (
    Explanation,
    deprecation,
    env_explanation,
    explanation,
    label,
    lookup_error,
    preset_error,
    preset_explanation,
    pretrained_as_name,
    pretrained_error,
    pretrained_explanation,
    wrong_kind,
)
from puffer_policies.registry.names import (
    normalize,
    preset_name_offence,
    record_offences,
    split_name,
)
from puffer_policies.registry.plugins import PluginHooks, Timing
from puffer_policies.registry.records import (
    EnvModule,
    Kind,
    Layer,
    Pointer,
    Preset,
    Pretrained,
    Provenance,
    Record,
)
from puffer_policies.registry.resolution import USABLE, Book, Entry, Resolution, Rule, resolve
from puffer_policies.registry.specs import PolicySpec


class Registry:
    """Policies, wrappers, aliases and presets by name, and the user's rules about them.

    A registry can be pickled: in a worker process every name resolves as it does here, and a class
    is imported when it is needed.
    """

    def __init__(self) -> None:
        self.errors: list[PluginError] = []
        """The errors for which plug-ins, or parts of them, are missing."""
        self.timings: dict[str, Timing] = {}
        """Plug-in name -> how long loading it took."""
        self.load_seconds = 0.0
        """How long the whole discovery took."""
        self.hooks = PluginHooks(errors=self.errors)
        """The hooks of installed plug-ins that do more than register names."""
        self.packages: dict[str, Provenance] = {}
        """Top-level package -> the distribution that owns the classes decorated in it."""
        self.envs: dict[str, EnvModule] = {}
        """Env id -> the module that registers it; a project's line replaces the user's."""
        self._book = Book()
        self._presets: dict[str, Preset] = {}
        self._pretrained: dict[str, Pretrained] = {}
        self._lock = threading.RLock()
        """Held while a name is checked and entered, and while the registry is pickled."""

    def __repr__(self) -> str:
        return f"<Registry of {len(self.records())} names, {len(self.errors)} errors>"

    # -- look up ---------------------------------------------------------------------------------

    def get(self, name: str, *, kind: Kind | None = None) -> Record:
        """Return the record of a ``Name`` or ``distribution/Name``; a deprecated name warns.

        Raises:
            PolicyNotFound: no such name, a blocked one, or one of the other `kind`.
            AmbiguousName: several installed packages offer this bare name.
            PolicyRemoved: the name has a tombstone.
        """
        resolution = self._resolve(name)
        # A preset is looked for last, so that it can never hide a policy of the same name.
        if resolution.verdict == "not found" and name in self.presets:
            raise preset_error(self.presets[name])
        if resolution.verdict == "not found" and name in self.pretrained:
            raise pretrained_as_name(self.pretrained[name], name)
        error = lookup_error(
            resolution,
            names=self._candidates(kind),
            distributions=self._distributions(),
            failures=self.errors,
        )
        if error is not None:
            raise error
        record = resolution.record
        assert record is not None
        if kind is not None and record.kind != kind:
            raise wrong_kind(record, name, self.names(kind))
        if resolution.verdict == "deprecated":
            warnings.warn(deprecation(resolution), PolicyDeprecationWarning, stacklevel=2)
        return record

    def spec(self, policy: str) -> PolicySpec:
        """Return the spec that an expression, or the name of a preset, stands for.

        Raises:
            BuildError: the text is not an expression.
        """
        preset = self.presets.get(policy)
        return PolicySpec.parse(preset.policy if preset else policy)

    def explain(self, name: str) -> Explanation:
        """Return everything that is known about a name, whether it leads to a record or not."""
        resolution = self._resolve(name)
        if resolution.verdict == "not found" and name in self.presets:
            return preset_explanation(self.presets[name], name)
        if resolution.verdict == "not found" and name in self.envs:
            return env_explanation(self.envs[name])
        if resolution.verdict == "not found" and name in self.pretrained:
            return pretrained_explanation(self.pretrained[name], name)
        return explanation(
            resolution,
            names=self._candidates(None),
            distributions=self._distributions(),
            failures=self.errors,
        )

    def names(self, kind: Kind | None = None) -> list[str]:
        """Return the usable names, sorted: bare where the bare name leads there, else qualified."""
        names = (self._shortest_name(record) for record in self.records(kind))
        return sorted(name for name in names if name)

    def records(self, kind: Kind | None = None) -> list[Record]:
        """Return every record, also shadowed and blocked ones, sorted by name and distribution."""
        entries = (entry for entry in self._book.all() if isinstance(entry, Record))
        return [record for record in entries if kind is None or record.kind == kind]

    def pointers(self) -> list[Pointer]:
        """Return every alias, deprecated name and tombstone, sorted."""
        return [entry for entry in self._book.all() if isinstance(entry, Pointer)]

    def clashes(self) -> list[list[Record]]:
        """Return the records of each bare name that installed packages dispute, unsettled."""
        named = {record.name: self._book.named(record.name) for record in self.records()}
        packaged = (
            [e for e in entries if isinstance(e, Record) and e.provenance.layer <= Layer.BUILTIN]
            for name, entries in sorted(named.items())
            if name not in self._book.settled
        )
        # Blocking all rivals but one settles a dispute as well as a line under [resolve] does.
        allowed = ([e for e in rivals if not self._book.block(e)] for rivals in packaged)
        return [rivals for rivals in allowed if len(rivals) > 1]

    @property
    def presets(self) -> dict[str, Preset]:
        """The presets by name: bare where the strongest layer has one, and qualified."""
        return _by_name(self._presets)

    @property
    def pretrained(self) -> dict[str, Pretrained]:
        """The pretrained policies by name: bare where one package has it, and qualified."""
        return _by_name(self._pretrained)

    def pretrained_policy(self, name: str) -> Pretrained:
        """Return the pretrained policy of a name, bare or qualified.

        Raises:
            PolicyNotFound: no installed package brings it.
            AmbiguousName: several do.
        """
        distribution, bare = split_name(name)
        record = self.pretrained.get(f"{distribution}/{bare}" if distribution else bare)
        if record is None:
            raise pretrained_error(name, list(self._pretrained.values()))
        return record

    # -- register --------------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """Register a record.

        Raises:
            PolicyError: something in the record is wrong; every offence is listed.
            NameTaken: the name is taken and the record has no ``override``.
        """
        offences = record_offences(record)
        # Check everything before anything changes: a registry is never half updated.
        if offences:
            raise PolicyError(
                f"Can't register {record.name!r} ({record.provenance.origin}): "
                f"{'; '.join(offences)}."
            )
        with self._lock:
            if not self._is_repeated(record):
                self._require_free(record)
                self._enter(record)

    def alias(self, pointer: Pointer) -> None:
        """Register an alias, a deprecated name or a tombstone.

        Raises:
            NameTaken: the name is taken.
        """
        with self._lock:
            self._require_free(pointer)
            self._enter(pointer)

    def add_preset(self, preset: Preset) -> None:
        """Register a preset; a stronger layer's has the bare name."""
        self._presets[preset.qualified_name] = preset

    def add_pretrained(self, record: Pretrained) -> None:
        """Register a pretrained policy.

        Raises:
            PolicyError: its name can't be one.
        """
        if offence := preset_name_offence(record.name):
            raise PolicyError(
                f"Can't register {record.name!r} ({record.provenance.origin}): {offence}."
            )
        self._pretrained[record.qualified_name] = record

    def settle(self, name: str, distribution: str, *, origin: str) -> None:
        """Give a disputed bare name to one distribution, against every layer."""
        self._book.settled[name] = Rule(normalize(distribution), origin)

    def block(
        self, *, names: Iterable[str] = (), distributions: Iterable[str] = (), origin: str
    ) -> None:
        """Make names, or everything of some distributions, unusable."""
        for name in names:
            distribution, bare = split_name(name)
            key = f"{distribution}/{bare}" if distribution else bare
            self._book.blocked_names[key] = Rule(f"the name {name!r} is blocked", origin)
        for each in distributions:
            rule = Rule(f"the distribution {each!r} is blocked", origin)
            self._book.blocked_distributions[normalize(each)] = rule

    def refuse(self, distribution: str, reason: str, *, origin: str) -> None:
        """Make everything of a distribution unusable, as its version is outside a limit."""
        self._book.refused[normalize(distribution)] = Rule(reason, origin)

    def blocks_distribution(self, distribution: str) -> bool:
        """Return whether a distribution is blocked as a whole."""
        return normalize(distribution) in self._book.blocked_distributions

    # -- inside ----------------------------------------------------------------------------------

    def _resolve(self, name: str) -> Resolution:
        if not isinstance(name, str):
            raise PolicyError(f"A name should be a string, got {name!r}.")
        return resolve(self._book, name)

    def _candidates(self, kind: Kind | None) -> Iterator[str]:
        """Yield the names to suggest. A generator, as look-ups that succeed need none of them."""
        yield from self.names(kind)
        yield from (pointer.name for pointer in self.pointers() if pointer.kind != "removed")

    def _distributions(self) -> Iterator[str]:
        """Yield the distribution of every entry, also for look-ups that fail only."""
        yield from (entry.provenance.distribution for entry in self._book.all())

    def _shortest_name(self, record: Record) -> str:
        """Return the bare name if it leads to `record`, else the qualified one, else ''."""
        for name in (record.name, record.qualified_name):
            resolution = resolve(self._book, name)
            if resolution.record is record and resolution.verdict in USABLE:
                return name
        return ""

    def _enter(self, entry: Entry) -> None:
        self._book.entries.setdefault(entry.name, {})[entry.provenance.distribution] = entry

    def _is_repeated(self, record: Record) -> bool:
        """Whether this class has the name already, by a manifest or a registry.toml.

        A package may list it there and at its entry points; a module that a registry.toml names may
        decorate it, which happens when the registry imports the module.
        """
        holders = (each for each in self._book.named(record.name) if isinstance(each, Record))
        if record.provenance.layer is Layer.PLUGIN:
            place = record.provenance.distribution
            own = (each for each in holders if each.provenance.distribution == place)
            return any(each.target == record.target for each in own)
        cls = record.loaded
        return (
            cls is not None
            and not record.override
            and any(each.search_path and each.is_record_of(cls) for each in holders)
        )

    def _require_free(self, entry: Entry) -> None:
        """Refuse a second entry of one distribution, and a silent take-over of the user's own."""
        for holder in self._book.named(entry.name):
            if not _may_stand_beside(holder, entry):
                raise _name_taken(holder, entry)

    def __getstate__(self) -> dict[str, Any]:
        """Return a copy that no thread changes while it is pickled; the lock stays here."""
        with self._lock:
            # A class made in this process can't be pickled by value: its record names it instead.
            entries = {
                name: {dist: _portable(entry) for dist, entry in rivals.items()}
                for name, rivals in self._book.entries.items()
            }
            errors = list(self.errors)
            state = {
                name: copy.copy(value) for name, value in vars(self).items() if name != "_lock"
            }
        # The hooks add to the errors of the registry.
        hooks = replace(self.hooks, errors=errors, plugins=list(self.hooks.plugins))
        book = replace(self._book, entries=entries)
        return {**state, "errors": errors, "hooks": hooks, "_book": book}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()


_Named = TypeVar("_Named", Preset, Pretrained)


def _by_name(entries: Mapping[str, _Named]) -> dict[str, _Named]:
    """Return entries by their qualified names, and by the bare ones that lead to one alone."""
    strongest: dict[str, list[_Named]] = {}
    # As with policies, the strongest layer has the bare name, and two packages dispute it.
    for entry in sorted(entries.values(), key=lambda each: -each.provenance.layer):
        rivals = strongest.setdefault(entry.name, [])
        if not rivals or rivals[0].provenance.layer == entry.provenance.layer:
            rivals.append(entry)
    bare = {name: rivals[0] for name, rivals in strongest.items() if len(rivals) == 1}
    return dict(sorted({**entries, **bare}.items()))


def _may_stand_beside(holder: Entry, entry: Entry) -> bool:
    """Whether two entries of one bare name can both be registered, whichever came first."""
    # Both orders must give the same answer, as imports and installs have no order to rely on.
    if holder.provenance.distribution == entry.provenance.distribution:
        return _is_redefinition(holder, entry) or _overrides(entry)
    weaker, stronger = sorted((holder, entry), key=lambda each: each.provenance.layer)
    if weaker.provenance.layer is Layer.PLUGIN:
        return True  # the look-up tells them apart
    # An alias makes room for a class of its name: PufferLib's users call theirs `Policy`.
    return _overrides(stronger) or (isinstance(weaker, Pointer) and isinstance(stronger, Record))


def _overrides(entry: Entry) -> bool:
    return isinstance(entry, Record) and entry.override


def _is_redefinition(holder: Entry, entry: Entry) -> bool:
    """Whether a decorated class is defined again, by a notebook cell or a reloaded module."""
    return (
        isinstance(holder, Record)
        and isinstance(entry, Record)
        and entry.provenance.layer is Layer.PROCESS
        and (holder.target, holder.kind) == (entry.target, entry.kind)
    )


def _name_taken(holder: Entry, entry: Entry) -> NameTaken:
    if isinstance(entry, Pointer):
        cure = "."  # an alias or a tombstone can't override anything
    elif entry.provenance.layer is Layer.PROCESS:
        cure = ", or pass override=True to replace it on purpose."
    else:
        cure = ", or set override = true to replace it on purpose."
    return NameTaken(
        f"{entry.qualified_name} ({entry.provenance.origin}) can't be called {entry.name!r}: "
        f"that is {label(holder)}.",
        fix=f"Choose another name{cure}",
    )


def _portable(entry: Entry) -> Entry:
    """Return an entry that names its class instead of holding it."""
    if isinstance(entry, Pointer) or entry.loaded is None:
        return entry
    cls = entry.loaded
    try:
        importable: Any = importlib.import_module(cls.__module__)
        for part in cls.__qualname__.split("."):
            importable = getattr(importable, part, None)
    except Exception:  # such as that of a module that a program has made up
        importable = None
    if importable is not cls:
        raise PolicyError(
            f"{entry.qualified_name!r} can't be handed to another process: {cls!r} can't be "
            f"imported as {cls.__module__}:{cls.__qualname__}.",
            fix="Define the class at the top level of a module.",
        )
    return replace(entry, loaded=None)
