"""Policies, their inputs and trainers, the same on every device."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.contract import ACTION_MASK, EPISODE_START
from puffer_policies.spaces.nested import map_nested
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how large."""

    device: torch.device
    small: bool
    """Whether sizes are those of a trial of the script itself, on a CPU."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, full: int, small: int) -> int:
        return small if self.small else full


def env_of(observation: Any, action: Any) -> Any:
    """What a policy is built for, without envs."""
    return SimpleNamespace(single_observation_space=observation, single_action_space=action)


VECTOR = env_of(spaces.Box(-1, 1, (8,), np.float32), spaces.Discrete(4))
IMAGE = env_of(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6))
REALS = env_of(spaces.Box(-1, 1, (8,), np.float32), spaces.Box(-1, 1, (3,), np.float32))
SETS = env_of(spaces.Box(-1, 1, (5, 4), np.float32), spaces.MultiDiscrete([3, 2]))
HYBRID = env_of(
    spaces.Dict({"map": spaces.Box(0, 255, (3, 40, 40), np.uint8), "speed": spaces.Discrete(3)}),
    spaces.Dict({"turn": spaces.Box(-1, 1, (1,), np.float32), "fire": spaces.Discrete(2)}),
)

POLICIES = {
    "Default": VECTOR,
    "Structured": VECTOR,
    "Continuous": REALS,
    "SquashedGaussianWrapper(Default)": REALS,
    "Convolutional": IMAGE,
    "Default of sets": SETS,
    "EntityAttention": SETS,
    "MultiInput": HYBRID,
    "ActionMaskWrapper(Default)": VECTOR,
    "NormalizeObservationWrapper(Default)": VECTOR,
    "PopArtWrapper(Default)": VECTOR,
    "HLGaussWrapper(Default)": VECTOR,
    "SeparateCriticWrapper(Default)": VECTOR,
}
MEMORIES = ("LSTM", "GRU", "RNN", "MinGRU", "GTrXL", "TransformerXL")
MEMORY_POLICIES = {f"{name}Wrapper(Default)": VECTOR for name in MEMORIES}


def build(name: str, env: Any, *, seed: int = 0) -> nn.Module:
    """Return a policy with the same weights every time."""
    torch.manual_seed(seed)
    return get_policy(name.removesuffix(" of sets"), env)


def drawn(space: Any, *batch: int) -> Any:
    """Return observations (*batch, *obs) on the CPU, the same every time."""
    if isinstance(space, spaces.Dict):
        return {key: drawn(each, *batch) for key, each in space.spaces.items()}
    draws = np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(draws.integers(0, int(space.n), batch))
    if space.dtype == np.uint8:
        return torch.from_numpy(draws.integers(0, 256, (*batch, *space.shape), np.uint8))
    return torch.from_numpy(draws.uniform(-1, 1, (*batch, *space.shape)).astype(np.float32))


def inputs(
    policy: nn.Module, env: Any, *batch: int, device: torch.device, starts: float = 0.05
) -> tuple[Any, dict[str, Tensor]]:
    """Return observations (*batch, *obs) and a state with episode starts, on a device."""
    generator = torch.Generator().manual_seed(1)
    state = {EPISODE_START: torch.rand(batch, generator=generator) < starts}
    if isinstance(env.single_action_space, spaces.Discrete):
        mask = torch.rand((*batch, int(env.single_action_space.n)), generator=generator) < 0.7
        mask[..., 0] = True
        state[ACTION_MASK] = mask
    initial = getattr(policy, "initial_state", None)
    if initial is not None:
        state.update(initial(batch[0], device))
    observations = drawn(env.single_observation_space, *batch)
    move = lambda leaf: leaf.to(device)  # noqa: E731
    return map_nested(move, observations), {key: move(each) for key, each in state.items()}


def trainer_of(
    policy: str,
    env_id: str,
    num_envs: int,
    device: torch.device,
    *,
    steps: int = 16,
    hidden_size: int = 128,
    **options: Any,
) -> Trainer:
    """Return a trainer whose policy, and whose envs if they can, live on `device`."""
    torch.manual_seed(1)
    vecenv = make_vecenv(env_id, num_envs, device=device)
    config = TrainConfig(total_timesteps=10**9, bptt_horizon=steps, anneal_lr=False, **options)
    built = get_policy(policy, vecenv, hidden_size=hidden_size)
    return Trainer(config, vecenv, built.to(device))


def update(trainer: Trainer) -> dict[str, float]:
    """Make one update."""
    return trainer.learn(trainer.estimate(trainer.collect()))


def parameters_of(policy: nn.Module) -> Tensor:
    """Return all parameters in one tensor on the CPU."""
    return torch.cat([each.detach().flatten().cpu() for each in policy.parameters()])


def tensors_of(logits: Any) -> list[Tensor]:
    """Return the tensors of logits of any kind."""
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(logits, dict):
        return [each for value in logits.values() for each in tensors_of(value)]
    if isinstance(logits, tuple | list):
        return [each for value in logits for each in tensors_of(value)]
    return [logits.loc, logits.scale]  # a Normal


def to_cpu(tree: Any) -> Any:
    """Copy nested tensors to the CPU, in float32 at least."""
    return map_nested(
        lambda leaf: leaf.detach().cpu().to(torch.promote_types(leaf.dtype, torch.float32)), tree
    )
