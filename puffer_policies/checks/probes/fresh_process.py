"""Run a saved policy in a new Python, and bring its outputs back.

The new process starts in the same folder, with the same search path. It rebuilds the policy by its
spec if that names registered policies, else by the lines of source that the subject knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.snippets import HEADER, space_source
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import PolicyError
from puffer_policies.registry import default_registry
from puffer_policies.registry.records import Layer
from puffer_policies.registry.specs import PolicySpec

TIME_LIMIT = 120
"""Seconds for the new process; importing torch takes a few."""

NO_POLICY = 77
"""Exit status where the lines of source do not lead to a policy."""

_IMPORTS = """\
import sys, traceback
from puffer_policies.assembly.checkpoint import load_policy, load_weights
from puffer_policies.checks.probes.rollouts import run_both_ways
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces
"""

_BY_NAME = "policy = load_policy({weights!r}, here)\n"

_BY_SOURCE = """\
try:
{source}
    assert isinstance(policy, torch.nn.Module)
except BaseException:
    traceback.print_exc()
    sys.exit({status})
load_weights({weights!r}, policy)
"""

_RUN = """\
capabilities = Capabilities(**{capabilities!r})
subject = Subject("policy", here, build=lambda: policy, capabilities=capabilities)
observations = torch.load({observations!r}, weights_only=True)
torch.save(run_both_ways(subject, policy.eval(), observations), {outputs!r})
"""


class CannotRebuild(Exception):
    """Another process has no way to build the policy; the text says why."""


def outputs_of_new_process(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Return `run_both_ways` of a new process that loads the weights of `policy`.

    Raises:
        CannotRebuild: it has no registered spec, and its source can't be run elsewhere.
        CheckFailed: the new process failed.
    """
    spec = _registered_spec(subject.policy)
    if spec is None and not subject.source:
        raise CannotRebuild("it has neither a registered spec nor source")
    if spec is not None:
        policy.spec = spec  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "policy.safetensors", policy, env=subject.spaces)
        torch.save(observations, folder / "observations.pt")
        script = folder / "script.py"
        script.write_text(_script(subject, folder, by_name=spec is not None), encoding="utf-8")
        _execute(script)
        outputs: Tensor = torch.load(folder / "outputs.pt", weights_only=True)
    return outputs


def _registered_spec(policy: nn.Module) -> PolicySpec | None:
    """Return its spec if a new process would find every name of it."""
    spec = getattr(policy, "spec", None)
    if not isinstance(spec, PolicySpec):
        return None
    try:
        names = (spec.name, *(wrapper.name for wrapper in spec.wrappers))
        records = [default_registry().get(name) for name in names]
    except PolicyError:
        return None
    # What was registered by hand in this process is unknown to the next.
    is_lasting = all(record.provenance.layer is not Layer.PROCESS for record in records)
    return spec if is_lasting else None


def _script(subject: Subject, folder: Path, *, by_name: bool) -> str:
    pair = (space_source(subject.spaces.observation), space_source(subject.spaces.action))
    source = "\n".join(f"    {line}" for line in subject.source.splitlines())
    form = _BY_NAME if by_name else _BY_SOURCE
    policy = form.format(
        weights=str(folder / "policy.safetensors"), source=source, status=NO_POLICY
    )
    paths = {name: str(folder / f"{name}.pt") for name in ("observations", "outputs")}
    capabilities = {} if subject.capabilities is None else asdict(subject.capabilities)
    here = f"here = Spaces({', '.join(pair)})\n"
    run = _RUN.format(**paths, capabilities=capabilities)
    return f"{HEADER}{_IMPORTS}{here}{policy}{run}"


def _execute(script: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    try:
        process = subprocess.run(
            [sys.executable, str(script)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailed("a new process to answer", f"nothing after {TIME_LIMIT} s") from error
    last = (process.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
    if process.returncode == NO_POLICY:
        raise CannotRebuild(last)
    if process.returncode:
        raise CheckFailed("a new process to load the saved policy and run it", last)
