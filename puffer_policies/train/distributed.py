"""Several processes that train one policy: who is who, and what they add up.

Started by ``torchrun``, every process steps its share of the envs and works on its share of each
minibatch; gradients are averaged, so that all hold the same weights after every step. With one
process nothing here does anything.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.nn import collective

SHARED_SIZES = ("batch_size", "minibatch_size", "max_minibatch_size")
"""Options that count the steps of all processes together."""

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others: an update with slow envs must fit in."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    """Number of this process; 0 writes, prints and evaluates."""
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine, by which it takes a GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, total: int, *, of: str) -> int:
        """Return this process's part of `total`.

        Raises:
            ConfigError: the processes can't have equal parts.
        """
        if total % self.size:
            below = total - total % self.size
            raise ConfigError(
                f"{of} {total} / {self.size} processes = {total / self.size:g} each: not a whole "
                "number.",
                fix=f"Use {below + self.size}{f' or {below}' if below else ''}, or another number "
                "of processes (torchrun --nproc-per-node).",
            )
        return total // self.size

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over all processes, in place."""
        return collective.sum_(tensor) if self.size > 1 else tensor

    def mean_(self, tensor: Tensor) -> Tensor:
        """Average `tensor` over all processes, in place."""
        return self.sum_(tensor).div_(self.size) if self.size > 1 else tensor

    def broadcast_(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            with collective.peers():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def any(self, flag: bool, *, device: torch.device) -> bool:
        """Return whether `flag` is true in any process: all get the same answer."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag), device=device)).item())


ALONE = World()
"""One process."""


def share_of(config: TrainConfig, world: World) -> TrainConfig:
    """Return the options of one process: its part of what counts the steps of all.

    Raises:
        ConfigError: a size that the processes can't share.
    """
    if world.size == 1:
        return config
    asked = {name: getattr(config, name) for name in SHARED_SIZES}
    sizes: dict[str, Any] = {
        name: world.share(size, of=f"train.{name}")
        for name, size in asked.items()
        if isinstance(size, int)
    }
    return replace(config, total_timesteps=-(-config.total_timesteps // world.size), **sizes)


@contextmanager
def joined(device_type: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, if it did, and leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    if device_type == "cuda":
        torch.cuda.set_device(world.local_rank)
    # Its defaults take hold of the group that there is at its import, which an optimiser begins:
    # gloo's threads would outlive the group, and now and then abort the process as it ends.
    importlib.import_module("torch.distributed.nn")
    # Gradients travel by nccl where there are GPUs, what the host counts by gloo everywhere.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield world
    finally:
        dist.destroy_process_group()
