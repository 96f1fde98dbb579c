"""All that a trainer goes on with, taken at the end of an update and put into a new trainer.

Tensors are kept as they are; the optimiser's settings, counters, episodes and random generators of
the host become plain data. What else a trainer comes to remember belongs into `_memory`.
"""

from __future__ import annotations

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
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.capture import Snapshot, capture
from puffer_policies.vector.restore import restore

NO_ENVS = "the run ended in the midst of an update"
"""Why a state without envs has none, unless `with_envs` finds another reason."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """A trainer between two updates."""

    tensors: Mapping[str, Tensor]
    """Copies: ``policy.*``, ``optimizer.*``, ``here.*`` (what the next rollout begins with), ..."""
    data: Mapping[str, Any]
    """The rest, as JSON holds it."""

    @property
    def epoch(self) -> int:
        """Updates made."""
        return int(self.data["epoch"])

    @property
    def global_step(self) -> int:
        """Env steps taken."""
        return int(self.data["global_step"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The policy's, by the names that stand in checkpoints."""
        return self._named("policy.")

    @property
    def here(self) -> dict[str, Tensor]:
        """What the next rollout begins with."""
        return self._named("here.")

    @property
    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(torch.isfinite(each).all()) for each in self.weights.values())

    def _named(self, prefix: str) -> dict[str, Tensor]:
        found = (name for name in self.tensors if name.startswith(prefix))
        return {name.removeprefix(prefix): self.tensors[name] for name in found}


def take_state(trainer: Trainer) -> TrainerState:
    """Return a copy of everything but the envs, cheap enough for every update."""
    tensors = {f"policy.{name}": each for name, each in weights_of(trainer.policy).items()}
    tensors |= {f"here.{name}": each for name, each in trainer.collector.here().items()}
    optimizer = _packed(trainer.learner.optimizer.state_dict(), "optimizer", tensors)
    memory = capture(_memory(trainer), name="trainer")
    tensors |= {"memory": _as_tensor(memory), **_random_states(trainer)}
    data = {
        "epoch": trainer.epoch,
        "global_step": trainer.global_step,
        "batch_size": trainer.plan.batch_size,
        "num_agents": trainer.plan.num_agents,
        "optimizer_name": trainer.config.optimizer,
        "optimizer": optimizer,
        "memory": memory.nodes,
        "no_envs": NO_ENVS,
    }
    return TrainerState({name: each.detach().clone() for name, each in tensors.items()}, data)


def with_envs(state: TrainerState, trainer: Trainer) -> TrainerState:
    """Return `state`, which must be the trainer's now, with that of its envs if it can be had."""
    try:
        envs = capture(trainer.vecenv, name="vecenv")
    except EnvError as error:
        return replace(state, data={**state.data, "no_envs": error.problem})
    return TrainerState(
        {**state.tensors, "envs": _as_tensor(envs)},
        {**state.data, "envs": envs.nodes, "no_envs": ""},
    )


def put_state(
    trainer: Trainer, state: TrainerState, *, path: Path | str, owner: PolicySpec | None
) -> str:
    """Put `state` into a new trainer; `path` and `owner` are for errors.

    Returns:
        Why the envs start new episodes; empty if they go on with those under way.

    Raises:
        CheckpointError: the state is of another policy, optimiser, kind of device or batch.
    """
    _require_same_plan(trainer, state, path)
    put_weights(trainer.policy, state.weights, path=path, owner=owner)
    _put_optimizer(trainer, state, path)
    trainer.epoch, trainer.global_step = state.epoch, state.global_step
    memory = Snapshot(state.data["memory"], _from_tensor(state.tensors["memory"]))
    try:
        remembered = restore(_memory(trainer), memory, name="trainer")
    except EnvError as error:
        raise CheckpointError(f"{path} was written by another version: {error}.") from error
    reason = _put_envs(trainer, state)
    # Last, as a reset may have drawn from them.
    random.setstate(remembered["python"])
    np.random.set_state(remembered["numpy"])
    _put_random_states(trainer, state)
    return reason


def _memory(trainer: Trainer) -> dict[str, Any]:
    return {
        "episodes": trainer.collector.episodes,
        "reward_scale": trainer.reward_scale,
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
    }


def _put_envs(trainer: Trainer, state: TrainerState) -> str:
    reason = str(state.data["no_envs"])
    if not reason:
        envs = Snapshot(state.data["envs"], _from_tensor(state.tensors["envs"]))
        try:
            restore(trainer.vecenv, envs, name="vecenv")
        except EnvError as error:
            reason = error.problem
    if not reason:
        trainer.collector.go_on(state.here)
        return ""
    trainer.begin_anew()
    return reason


def _random_states(trainer: Trainer) -> dict[str, Tensor]:
    found = {"random.trainer": trainer.generator.get_state(), "random.torch": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        found["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
    return found


def _put_random_states(trainer: Trainer, state: TrainerState) -> None:
    trainer.generator.set_state(state.tensors["random.trainer"].cpu())
    torch.set_rng_state(state.tensors["random.torch"])
    if trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state.tensors["random.cuda"].cpu(), trainer.device)


def _put_optimizer(trainer: Trainer, state: TrainerState, path: Path | str) -> None:
    try:
        trainer.learner.optimizer.load_state_dict(_unpacked(state.data["optimizer"], state.tensors))
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"The optimiser's state in {path} belongs to another policy: {error}."
        ) from error


def _require_same_plan(trainer: Trainer, state: TrainerState, path: Path | str) -> None:
    now = {
        "batch_size": trainer.plan.batch_size,
        "num_agents": trainer.plan.num_agents,
        "optimizer_name": trainer.config.optimizer,
    }
    then = {key: state.data[key] for key in now}
    if then != now:
        raise CheckpointError(
            f"{path} counts updates of {then['batch_size']} steps by {then['num_agents']} agents "
            f"with {then['optimizer_name']}; this run makes updates of {now['batch_size']} steps "
            f"by {now['num_agents']} with {now['optimizer_name']}.",
            fix="Keep vec.num_envs, train.bptt_horizon, train.batch_size and train.optimizer.",
        )
    if state.tensors["random.trainer"].shape != trainer.generator.get_state().shape:
        raise CheckpointError(
            f"{path} was written on another kind of device than {trainer.device.type!r}: its "
            "random numbers can't go on here.",
            fix="Set train.device to the device of the earlier run.",
        )


def _packed(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `tree` as JSON, its tensors moved to `tensors` under their paths."""
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        return {"dict": [[k, _packed(each, f"{path}.{k}", tensors)] for k, each in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [_packed(each, f"{path}.{i}", tensors) for i, each in enumerate(tree)]
        return {type(tree).__name__: items}
    return tree


def _unpacked(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: _unpacked(each, tensors) for key, each in held}
    items = [_unpacked(each, tensors) for each in held]
    return tuple(items) if kind == "tuple" else items


def _as_tensor(snapshot: Snapshot) -> Tensor:
    return torch.from_numpy(snapshot.memory.copy())


def _from_tensor(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
