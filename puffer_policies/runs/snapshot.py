"""All that a trainer needs to go on: taken after an update, and put into a new trainer.

Tensors are copied as they are, everything else is plain data. What a trainer comes to remember
belongs into its ``state_dict()``, else a resumed run differs from one that never stopped.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puffer_policies.assembly.checkpoint import put_weights, weights_of
from puffer_policies.errors import CheckpointError, EnvError
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.runs.snapshot_structure import generators_structure, state_structure
from puffer_policies.structure import StructureError
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.state import get_state, set_state

MID_UPDATE = "the run ended in the midst of an update"
"""Why a snapshot has no envs, unless `with_envs` has another reason."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trainer between two updates."""

    trainer: Mapping[str, Any]
    """The trainer's ``state_dict()``."""
    policy: Mapping[str, Tensor]
    """The weights and buffers, by the names that stand in checkpoints."""
    plan: Mapping[str, Any]
    """The sizes and the optimizer's name, which a resumed run must share."""
    generators: Mapping[str, Any]
    """The process's random generators, by name: ``python``, ``numpy``, ``torch``, ``cuda``."""
    envs: Any = None
    """The envs as `vector.state` gives them, or None."""
    missing_envs: str = MID_UPDATE
    """Why `envs` is None; empty if it is not."""

    @property
    def epoch(self) -> int:
        """Updates made."""
        return int(self.trainer["epoch"])

    @property
    def global_step(self) -> int:
        """Env steps taken."""
        return int(self.trainer["global_step"])

    @property
    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(torch.isfinite(each).all()) for each in self.policy.values())


def take_snapshot(trainer: Trainer) -> Snapshot:
    """Return a copy of everything but the envs; it is cheap enough for every update."""
    return Snapshot(
        # The next rollout and update write over the tensors.
        trainer=copy.deepcopy(trainer.state_dict()),
        policy={name: each.detach().clone() for name, each in weights_of(trainer.policy).items()},
        plan=_plan_of(trainer),
        generators=_generators_of(trainer.device),
    )


def with_envs(snapshot: Snapshot, trainer: Trainer) -> Snapshot:
    """Return `snapshot`, taken just now, with the state of the trainer's envs if they offer it."""
    try:
        return replace(snapshot, envs=get_state(trainer.vecenv), missing_envs="")
    except EnvError as error:
        return replace(snapshot, missing_envs=error.problem)


def put_snapshot(
    trainer: Trainer, snapshot: Snapshot, *, path: Path | str, owner: PolicySpec | None
) -> str:
    """Let a new trainer go on from `snapshot`; `path` and `owner` are for errors.

    Returns:
        Why the envs start new episodes; empty if they go on with those under way.

    Raises:
        CheckpointError: the snapshot is of another policy, optimizer, kind of device or batch.
    """
    _require_same_plan(trainer, snapshot, path)
    # Weights first: their error names each parameter that differs, the optimizer's none.
    put_weights(trainer.policy, snapshot.policy, path=path, owner=owner)
    try:
        state_structure(trainer).check(snapshot.trainer, "trainer")
        generators_structure(trainer.device).check(snapshot.generators, "generators")
    except StructureError as error:
        raise CheckpointError(
            f"The trainer's state in {path} does not belong to this policy and config: {error}.",
            fix="Resume with the policy and the config of the run, or start a new one.",
        ) from error
    trainer.load_state_dict(snapshot.trainer)
    reason = _put_envs(trainer, snapshot)
    # Last, as a reset may have drawn from them.
    _put_generators(snapshot.generators, trainer.device)
    return reason


def _plan_of(trainer: Trainer) -> dict[str, Any]:
    return {
        "batch_size": trainer.plan.batch_size,
        "num_agents": trainer.plan.num_agents,
        "optimizer": trainer.config.optimizer,
    }


def _put_envs(trainer: Trainer, snapshot: Snapshot) -> str:
    reason = snapshot.missing_envs
    if not reason:
        try:
            set_state(trainer.vecenv, snapshot.envs)
        except EnvError as error:
            reason = error.problem
    if reason:
        trainer.restart_episodes()
    return reason


def _generators_of(device: torch.device) -> dict[str, Any]:
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # `PufferVecEnv` draws its seeds from it
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _put_generators(states: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def _require_same_plan(trainer: Trainer, snapshot: Snapshot, path: Path | str) -> None:
    then, now = snapshot.plan, _plan_of(trainer)
    if then != now:
        raise CheckpointError(
            f"{path} counts updates of {then['batch_size']} steps by {then['num_agents']} agents "
            f"with {then['optimizer']}; this run makes updates of {now['batch_size']} steps "
            f"by {now['num_agents']} with {now['optimizer']}.",
            fix="Keep vec.num_envs, train.bptt_horizon, train.batch_size and train.optimizer.",
        )
    # The states of generators on a CPU and on a GPU have different sizes.
    if snapshot.trainer["generator"].shape != trainer.generator.get_state().shape:
        raise CheckpointError(
            f"{path} was written on another kind of device than {trainer.device.type!r}: its "
            "random numbers can't go on here.",
            fix="Set train.device to the device of the earlier run.",
        )
