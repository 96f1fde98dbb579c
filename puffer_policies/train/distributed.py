"""Several processes that train one policy: their ranks, and the sums over all of them.

Under ``torchrun`` every process steps its share of the envs and learns from its share of each
minibatch. Gradients are averaged, so that all hold the same weights after every step. In a single
process the functions here change nothing.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.config.values import Range, convert
from puffer_policies.errors import ConfigError
from puffer_policies.nn import collective

SHARED_SIZES = ("batch_size", "minibatch_size", "max_minibatch_size")
"""Options that count the steps of all processes together."""

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others. The slowest envs need less than this for an update."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, from the point of view of one of them."""

    rank: int = 0
    """Number of this process; the first, 0, writes files, prints and evaluates."""
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine, which is also the number of its GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, total: int, *, of: str) -> int:
        """Return this process's part of `total`.

        Raises:
            ConfigError: `total` can't be divided into equal parts.
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
        """Return whether `flag` is true in any process; all processes get the same answer."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag), device=device)).item())


ALONE = World()
"""The world of a run in a single process."""


def share_of(config: TrainConfig, world: World) -> TrainConfig:
    """Return the config of one process, with its share of the sizes that count all steps.

    Raises:
        ConfigError: a size that does not divide by the number of processes.
    """
    if world.size == 1:
        return config
    sizes: dict[str, Any] = {
        name: world.share(size, of=f"train.{name}")
        for name in SHARED_SIZES
        if isinstance(size := getattr(config, name), int)  # not "auto" or None
    }
    return replace(config, total_timesteps=-(-config.total_timesteps // world.size), **sizes)


_FIX = "Start all processes by torchrun, or unset WORLD_SIZE to train in a single one."


def _world_of(environ: Mapping[str, str]) -> World:
    """Return the world that torchrun describes in the environment of each process."""
    size = _number(environ, "WORLD_SIZE", 1, low=1)
    if size == 1:
        return ALONE
    # Schedulers may leave some of them set, and torch reports the first missing one alone.
    required = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in required if not environ.get(name)]:
        raise ConfigError(f"WORLD_SIZE is {size}, but {_and(missing)} not set.", fix=_FIX)
    _number(environ, "MASTER_PORT", 0, high=2**16 - 1)
    local_rank = _number(environ, "LOCAL_RANK", 0)
    return World(_number(environ, "RANK", 0, high=size - 1), size, local_rank)


def _number(
    environ: Mapping[str, str], name: str, default: int, *, low: int = 0, high: float = math.inf
) -> int:
    try:
        number: int = convert(environ.get(name, default), Annotated[int, Range(low, high)])
    except ValueError as error:
        raise ConfigError(f"{name} in the environment: {error}", fix=_FIX) from error
    return number


def _and(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'}"


@contextmanager
def joined(device_type: str) -> Iterator[World]:
    """Join the other processes if ``torchrun`` started this one, and leave them at the end.

    Raises:
        ConfigError: the environment names some of what torchrun sets, or the others can't be
            joined.
    """
    world = _world_of(os.environ)
    if world.size == 1:
        yield ALONE
        return
    # Importing this module later, as torch's optimizers do, binds the group of that moment to its
    # default arguments. gloo's threads would then outlive the group and could abort the process
    # while it exits.
    importlib.import_module("torch.distributed.nn")
    # Gradients are tensors of the device and use nccl on GPUs; counts of the host use gloo.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    try:
        if device_type == "cuda":
            torch.cuda.set_device(world.local_rank)
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:  # torch's own errors are RuntimeErrors
        raise ConfigError(
            f"The {world.size} processes can't be joined: {str(error).splitlines()[0]}",
            fix=_FIX,
        ) from error
    try:
        yield world
    finally:
        dist.destroy_process_group()
