"""Exporting a policy: `export_policy`."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn

from puffer_policies.errors import ExportError, did_you_mean
from puffer_policies.export.source import source_of
from puffer_policies.export.targets import DEFAULT_STYLE, TARGETS, Target
from puffer_policies.files import user_path
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.registry import Registry


def export_policy(
    policy_or_path: nn.Module | Location,
    path: Path | str | None = None,
    *,
    to: str = "onnx",
    style: str = DEFAULT_STYLE,
    env: Any = None,
    best: bool = False,
    registry: Registry | None = None,
) -> Path:
    """Write a policy as a file of another runtime, and return its path.

    ONNX and torch.export hold one step with everything inside: the normalizer, the memory with its
    resets, the masks. Its answers to a sample are compared with the policy's before the file is
    left there. PufferLib's file and C are for a `PufferNet` alone.

    Args:
        policy_or_path: a policy; or a checkpoint, wherever one is taken.
        path: the file; if None, it stands beside the checkpoint, with its name.
        to: one of `TARGETS`.
        style: names of inputs and outputs, or the build of PufferLib; the target lists its styles.
        env: whatever `spaces_of` reads; needed only where neither the policy nor the file has
            spaces.
        best: the run's best checkpoint instead of its last.
        registry: where the policy's names are looked up; the default registry if None.

    Raises:
        ExportError: there is no such target or style, or the policy can't be exported to it.
        IncompatibleSpace: PufferLib would take the actions for others than they are.
        MissingDependency: the extra that the target needs is not installed.
        CheckpointError: the checkpoint can't be read.
    """
    target = require_target(to, style)
    if path is None:
        if isinstance(policy_or_path, nn.Module) or "://" in str(policy_or_path):
            raise ExportError(
                "There is no file here, beside which the new one could stand.",
                fix="Give a path as well.",
            )
        path = checkpoint_of(policy_or_path, best=best, registry=registry)
        path = path.with_suffix(target.suffix)
    path = user_path(path)
    if not path.parent.is_dir():
        raise ExportError(f"There is no folder {path.parent}.", fix="Make it first.")
    source = source_of(policy_or_path, env, best=best, registry=registry)
    resolve_name(target.writer)(source, path, style=style)
    return path


def require_target(to: str, style: str) -> Target:
    """Return a target that has a style.

    Raises:
        ExportError: there is no such target, or it has no such style.
    """
    for kind, name, names in (
        ("target", to, tuple(TARGETS)),
        ("style", style, TARGETS[to].styles if to in TARGETS else (style,)),
    ):
        if name not in names:
            raise ExportError(
                f"There is no {kind} {name!r} of an export; there is {', '.join(names)}.",
                fix=did_you_mean(name, names),
            )
    return TARGETS[to]
