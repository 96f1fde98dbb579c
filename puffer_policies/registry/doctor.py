"""Imports everything that is registered, and reports what is broken, slow, shadowed or blocked."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from puffer_policies.contract import missing_members
from puffer_policies.errors import MissingDependency, PluginError, PolicyError, TrustError
from puffer_policies.registry import Registry
from puffer_policies.registry.explain import package
from puffer_policies.registry.imports import import_env_module
from puffer_policies.registry.names import BUILTIN
from puffer_policies.registry.packages import extras_of, installed_version, pretrained_path
from puffer_policies.registry.records import Record
from puffer_policies.registry.specs import PolicySpec

Verdict = Literal[
    "ok",
    "broken",
    "breaks the contract",
    "missing dependency",
    "not installed",
    "not trusted",
    "slow",
    "imports torch",
    "shadowed",
    "ambiguous",
    "blocked",
]

# About as long as `list` takes: with such a plug-in, every command takes twice as long.
SLOW_DISCOVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation about a plug-in or a record."""

    subject: str
    verdict: Verdict
    detail: str

    @property
    def is_problem(self) -> bool:
        """Whether somebody should fix it; the other verdicts are the user's own choice."""
        choices = ("blocked", "missing dependency", "not installed", "not trusted", "shadowed")
        return self.verdict not in ("ok", *choices)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {**asdict(self), "problem": self.is_problem}


def examine(registry: Registry, *, slow_seconds: float = 1.0) -> list[Finding]:
    """Return findings on every plug-in and record, problems first.

    Args:
        registry: what is examined; each record's class is imported.
        slow_seconds: an import that takes more CPU time, torch not counted, is called slow.
    """
    # Import torch before the clock starts, as the first policy would be charged for it.
    importlib.import_module("torch")
    findings = [
        *(_of_error(error) for error in registry.errors),
        *_of_discovery(registry),
        *_of_pointers(registry),
        *_of_presets(registry),
        *_of_pretrained(registry),
        *_of_envs(registry),
        *(
            finding
            for record in registry.records()
            for finding in _of_record(record, registry, slow_seconds)
        ),
    ]
    return sorted(findings, key=lambda finding: (not finding.is_problem, finding.subject))


def examine_installation() -> list[Finding]:
    """Return findings on Python, torch and its devices, and on each extra of this package."""
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
        devices = f"CUDA {torch.version.cuda}: {', '.join(names)}"
    else:
        built = f"this torch is built for CUDA {torch.version.cuda}"
        devices = f"no CUDA device; {built if torch.version.cuda else 'this torch has no CUDA'}"
    versions = ", ".join(
        f"{name} {installed_version(name) or '(not installed)'}"
        for name in (BUILTIN, "gymnasium", "numpy")
    )
    return [
        Finding("Python", "ok", f"{platform.python_version()}, {versions}"),
        Finding("torch", "ok", f"{torch.__version__}, {devices}"),
        *_of_extras(),
    ]


def _of_extras() -> Iterator[Finding]:
    for extra, requirements in sorted(extras_of(BUILTIN).items()):
        missing = [name for name in requirements if installed_version(name) is None]
        if missing:
            detail = f"needs {', '.join(missing)}: pip install '{BUILTIN}[{extra}]'"
            yield Finding(f"extra {extra}", "not installed", detail)
        else:
            labels = (f"{name} {installed_version(name)}" for name in requirements)
            yield Finding(f"extra {extra}", "ok", ", ".join(labels))


def _of_error(error: PluginError) -> Finding:
    subject = f"{error.distribution} {error.version}".strip() or "plug-in"
    return Finding(subject, "broken", str(error))


def _of_discovery(registry: Registry) -> Iterator[Finding]:
    for name, timing in registry.timings.items():
        if timing.imported_torch:
            detail = "its plug-in module imports torch, so that every command waits for it"
            yield Finding(name, "imports torch", detail)
        elif timing.seconds > SLOW_DISCOVERY_SECONDS:
            yield Finding(name, "slow", f"its plug-in module takes {timing.seconds:.2f} s to load")


def _of_pointers(registry: Registry) -> Iterator[Finding]:
    for pointer in registry.pointers():
        # A tombstone is meant to lead nowhere.
        reason = "" if pointer.kind == "removed" else _dead_end(registry, pointer.qualified_name)
        if reason:
            yield Finding(pointer.qualified_name, "broken", reason)


def _of_presets(registry: Registry) -> Iterator[Finding]:
    # The mapping has each preset twice, under its bare and its qualified name.
    for preset in {id(each): each for each in registry.presets.values()}.values():
        spec = PolicySpec.parse(preset.policy)
        for name in (spec.name, *(wrapper.name for wrapper in spec.wrappers)):
            if reason := _dead_end(registry, name):
                detail = f"{preset.policy!r} ({preset.provenance.origin}): {reason}"
                yield Finding(preset.qualified_name, "broken", detail)


def _of_pretrained(registry: Registry) -> Iterator[Finding]:
    for record in {id(each): each for each in registry.pretrained.values()}.values():
        try:
            pretrained_path(record)
        except PluginError as error:
            yield Finding(record.qualified_name, "broken", str(error))


def _of_envs(registry: Registry) -> Iterator[Finding]:
    for env_id, entry in registry.envs.items():
        try:
            import_env_module(entry)
        except TrustError as error:
            yield Finding(env_id, "not trusted", str(error))
        except PolicyError as error:
            yield Finding(env_id, "broken", str(error))


def _dead_end(registry: Registry, name: str) -> str:
    """Say why a name leads to no record, or return ''. What the user has blocked is meant so."""
    explanation = registry.explain(name)
    if explanation.record is not None or explanation.verdict == "blocked":
        return ""
    return " ".join(explanation.lines)


def _of_record(record: Record, registry: Registry, slow_seconds: float) -> Iterator[Finding]:
    explanation = registry.explain(record.qualified_name)
    if explanation.verdict == "blocked":
        yield Finding(record.qualified_name, "blocked", " ".join(explanation.lines))
        return
    bare = registry.explain(record.name)
    if bare.verdict == "ambiguous":
        yield Finding(record.qualified_name, "ambiguous", f"several packages offer {record.name!r}")
    elif bare.record is not None and bare.record.qualified_name != record.qualified_name:
        detail = f"{record.name!r} is {bare.record.qualified_name}"
        yield Finding(record.qualified_name, "shadowed", detail)
    yield _of_import(record, slow_seconds)


def _of_import(record: Record, slow_seconds: float) -> Finding:
    start = time.process_time()  # CPU time, as other programs run, too
    try:
        cls = record.load()
    except MissingDependency as error:
        return Finding(record.qualified_name, "missing dependency", str(error))
    except TrustError as error:
        return Finding(record.qualified_name, "not trusted", str(error))
    except PluginError as error:
        return Finding(record.qualified_name, "broken", str(error))
    seconds = time.process_time() - start
    if offences := missing_members(cls):
        return Finding(record.qualified_name, "breaks the contract", "; ".join(offences))
    if seconds > slow_seconds:
        return Finding(record.qualified_name, "slow", f"importing it takes {seconds:.1f} s of CPU")
    return Finding(record.qualified_name, "ok", f"{package(record.provenance)}, {record.target}")
