"""Runs a saved policy in a new Python and brings its answers back.

The new process starts where this one is, with the same search path. It rebuilds the policy by its
recipe if that names registered policies, else by the lines of source that the subject knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.checks.model import CheckFailed
from puffer_policies.checks.probes.rollouts import in_sequence, step_through
from puffer_policies.checks.probes.snippets import HEADER, written
from puffer_policies.checks.probes.subject import BATCH, Subject
from puffer_policies.errors import PolicyError
from puffer_policies.nested import leaves
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
from puffer_policies.checks.probes.reloading import answers
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

_ANSWER = """\
abilities = Capabilities(needs_mask={needs_mask})
subject = Subject("policy", here, build=lambda: policy, capabilities=abilities)
observations = torch.load({observations!r}, weights_only=True)
torch.save(answers(subject, policy.eval(), observations), {answers!r})
"""


class CannotRebuild(Exception):
    """No other process could build the policy; the text says why."""


def answers(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Return outputs (2, B, T, n) of steps and of the sequence, with episodes starting inside."""
    steps = int(next(leaves(observations)).shape[1])
    starts = subject.starts(BATCH, steps=steps, at=[(0, 0), (1, steps // 2), (3, steps - 1)])
    stepped, _ = step_through(subject, policy, observations, starts=starts)
    return torch.stack([stepped, in_sequence(subject, policy, observations, starts=starts)])


def answers_elsewhere(subject: Subject, policy: nn.Module, observations: Any) -> Tensor:
    """Return `answers` of a new process that loads the weights of `policy`.

    Raises:
        CannotRebuild: it has no registered recipe, and its source can't be run elsewhere.
        CheckFailed: the new process failed.
    """
    recipe = _recipe(subject.policy)
    if recipe is None and not subject.source:
        raise CannotRebuild("it has neither a registered recipe nor source")
    if recipe is not None:
        policy.spec = recipe  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "policy.safetensors", policy, env=subject.spaces)
        torch.save(observations, folder / "observations.pt")
        script = folder / "script.py"
        script.write_text(_script(subject, folder, by_name=recipe is not None), encoding="utf-8")
        _run(script)
        found: Tensor = torch.load(folder / "answers.pt", weights_only=True)
    return found


def _recipe(policy: nn.Module) -> PolicySpec | None:
    """Return its spec if a new process would find every name of it."""
    spec = getattr(policy, "spec", None)
    if not isinstance(spec, PolicySpec):
        return None
    try:
        names = (spec.name, *(wrapper.name for wrapper in spec.wrappers))
        records = [default_registry().get(name) for name in names]
    except PolicyError:
        return None
    lasting = all(record.provenance.layer is not Layer.PROCESS for record in records)
    return spec if lasting else None


def _script(subject: Subject, folder: Path, *, by_name: bool) -> str:
    pair = (written(subject.spaces.observation), written(subject.spaces.action))
    source = "\n".join(f"    {line}" for line in subject.source.splitlines())
    form = _BY_NAME if by_name else _BY_SOURCE
    policy = form.format(
        weights=str(folder / "policy.safetensors"), source=source, status=NO_POLICY
    )
    places = {name: str(folder / f"{name}.pt") for name in ("observations", "answers")}
    needs_mask = subject.capabilities is not None and subject.capabilities.needs_mask
    here = f"here = Spaces({', '.join(pair)})\n"
    answer = _ANSWER.format(**places, needs_mask=needs_mask)
    return f"{HEADER}{_IMPORTS}{here}{policy}{answer}"


def _run(script: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    try:
        done = subprocess.run(
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
    last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
    if done.returncode == NO_POLICY:
        raise CannotRebuild(last)
    if done.returncode:
        raise CheckFailed("a new process to load the saved policy and run it", last)
