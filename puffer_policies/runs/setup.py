"""The parts of a run, from its config: seeds, device, envs and policy."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from puffer_policies.assembly.blueprint import spec_of
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.header import Header, read_header
from puffer_policies.config.config import Config
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import CheckpointError, ConfigError, EnvError, PolicyNotFound
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.specs import WrapperSpec
from puffer_policies.registry.user_modules import require_names
from puffer_policies.train.distributed import ALONE, World
from puffer_policies.vector.factory import make_vecenv
from puffer_policies.vector.protocol import VecEnv
from puffer_policies.vector.seeds import Stream, spawn_seeds

NORMALIZER = "puffer-policies/NormalizeObservationWrapper"
"""The wrapper of ``train.normalize_observations``."""


def prepare_process(config: TrainConfig, world: World = ALONE) -> None:
    """Seed Python, NumPy and torch and set torch's threads, which nothing else does."""
    for_python, for_numpy, for_torch = spawn_seeds(config.seed, 3, Stream.PROCESS, world.rank)
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)
    torch.set_num_threads(config.num_threads)
    torch.backends.cudnn.deterministic = config.torch_deterministic
    # The search for the fastest kernel may choose another one in each run.
    torch.backends.cudnn.benchmark = not config.torch_deterministic


def device_of(config: TrainConfig) -> torch.device:
    """Return the device to train on.

    Raises:
        ConfigError: this machine has no such device.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # The only sure test: torch may know a kind of device that this machine lacks.
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"train.device is {config.device!r}, which this machine can't use: {reason}",
            fix="Use auto, which takes a GPU where there is one, or cpu.",
        ) from error
    return torch.device(name)


def vecenv_of(config: Config, world: World = ALONE) -> VecEnv:
    """Make the envs of a config, or this process's share of them.

    Raises:
        ConfigError: the envs can't be divided equally among the processes.
        EnvError: the env can't be made.
    """
    return make_vecenv(
        config.base.env_name,
        world.share(config.vec.num_envs, of="vec.num_envs"),
        vectorization=config.vec.vectorization,
        env_kwargs=config.env,
        timeout=config.vec.timeout,
        device=device_of(config.train),
    )


@contextmanager
def naming_imports(checkpoint: Path | None) -> Iterator[None]:
    """Where an env can't be made, let the error name what the run of `checkpoint` had imported."""
    try:
        yield
    except EnvError as error:
        header = _header(checkpoint)
        if header is None or not header.imports_text:
            raise
        raise EnvError(error.problem, fix=header.imports_text) from error


@contextmanager
def naming_packages(checkpoint: Path | None) -> Iterator[None]:
    """Where a name is not registered, let the error say what `checkpoint` was trained with."""
    try:
        yield
    except PolicyNotFound as error:
        header = _header(checkpoint)
        if header is None:
            raise
        fix = header.training_text(error)
        raise PolicyNotFound(error.problem, fix=fix or error.fix) from error


def _header(checkpoint: Path | None) -> Header | None:
    """Return the header of a checkpoint, or None if there is none that can be read."""
    try:
        return None if checkpoint is None else read_header(checkpoint)
    except CheckpointError:  # it is reported where the checkpoint is needed
        return None


def single_vecenv_of(config: Config) -> VecEnv:
    """Make a single env of a config, for its spaces."""
    return vecenv_of(replace(config, vec=replace(config.vec, num_envs=1)))


def policy_of(config: Config, env: Any, *, registry: Registry | None = None) -> nn.Module:
    """Build the policy of a config for `env`, on the config's device.

    Observations are normalized right around the policy, so that other wrappers read masks, frames
    and the like as the env returned them.
    """
    registry = default_registry() if registry is None else registry
    rnn = config.base.rnn_name
    require_names(config.base.policy_name, rnn, package=config.base.package, registry=registry)
    # Into the spec, not as keywords of get_policy: [policy] must not reach the builder's own.
    spec = spec_of(config.base.policy_name, registry).with_kwargs(config.policy)
    if config.train.normalize_observations:
        # Inside, not outside: memories and masks around it would otherwise see normalized values.
        spec = spec.wrapped_inside(WrapperSpec(NORMALIZER))
    policy = get_policy(
        spec,
        env,
        wrappers=[WrapperSpec(rnn, config.rnn)] if rnn else [],
        registry=registry,
    )
    return policy.to(device_of(config.train))
