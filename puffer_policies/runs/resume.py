"""A trainer's own state in a file beside the weights, so that a run can go on where it stopped.

A resumed run equals the uninterrupted one up to the envs, whose state no vector API hands out: they
start new episodes. Optimiser, schedule, counters, random generators and the scale of rewards go on.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puffer_policies.errors import CheckpointError
from puffer_policies.tensorfile import read_tensors, write_tensors
from puffer_policies.train.trainer import Trainer

METADATA_KEY = "puffer_policies_trainer"


def save_trainer(path: Path | str, trainer: Trainer) -> Path:
    """Write everything of `trainer` but the weights of its policy."""
    tensors = {
        f"optimizer.{index}.{key}": value
        for index, each in trainer.optimizer.state_dict()["state"].items()
        for key, value in each.items()
    }
    tensors["generator"] = trainer.generator.get_state()
    tensors["torch_rng"] = torch.get_rng_state()
    return write_tensors(path, tensors, header=json.dumps(_counters(trainer)), key=METADATA_KEY)


def load_trainer(path: Path | str, trainer: Trainer) -> None:
    """Put the state of `save_trainer` into a new trainer, and start new episodes.

    Raises:
        CheckpointError: the file can't be read, or belongs to another policy, another kind of
            device or another batch size, by which epochs are counted.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    counters = json.loads(text)
    _require_same_plan(path, trainer, counters, tensors)
    _load_optimizer(path, trainer.optimizer, tensors)
    trainer.generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["torch_rng"])
    trainer.epoch, trainer.global_step = counters["epoch"], counters["global_step"]
    for name, value in counters["reward_scale"].items():
        setattr(trainer.reward_scale, name, value)
    trainer.collector.episodes.restore(counters["episodes"])
    trainer.collector.restart(seed=trainer.config.seed + trainer.epoch)


def _require_same_plan(
    path: Path | str, trainer: Trainer, counters: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    then, now = counters.get("batch_size", trainer.plan.batch_size), trainer.plan.batch_size
    if then != now:
        raise CheckpointError(
            f"{path} counts updates of {then} steps; this run makes updates of {now}.",
            fix="Keep vec.num_envs, train.bptt_horizon and train.batch_size.",
        )
    kind = counters.get("optimizer", "adam")
    if kind != trainer.config.optimizer:
        raise CheckpointError(
            f"{path} holds the state of {kind!r}; this run's optimiser is "
            f"{trainer.config.optimizer!r}.",
            fix=f"Set train.optimizer to {kind}.",
        )
    if tensors["generator"].shape != trainer.generator.get_state().shape:
        raise CheckpointError(
            f"{path} was written on another kind of device than {trainer.device.type!r}: its "
            "random numbers can't go on here.",
            fix="Set train.device to the device of the earlier run.",
        )


def _counters(trainer: Trainer) -> dict[str, Any]:
    scale = asdict(trainer.reward_scale)
    del scale["gathered"]  # of episodes that the envs will not go on with
    return {
        "epoch": trainer.epoch,
        "global_step": trainer.global_step,
        "batch_size": trainer.plan.batch_size,
        "optimizer": trainer.config.optimizer,
        "reward_scale": scale,
        "episodes": trainer.collector.episodes.to_dict(),
    }


def _load_optimizer(
    path: Path | str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fitting = all(
        index < len(parameters) and value.shape in (parameters[index].shape, ())
        for index, each in state.items()
        for value in each.values()
    )
    if not fitting:
        raise CheckpointError(f"The optimiser's state in {path} belongs to another policy.")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
