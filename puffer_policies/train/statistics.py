"""Statistics that a policy gathers of observations: when they change, and from what."""

from __future__ import annotations

import torch
from torch import nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.nested import map_nested
from puffer_policies.nn.moments import RunningMoments
from puffer_policies.train.rollout import Rollout


def require_statistics(config: TrainConfig, policy: nn.Module) -> None:
    """Refuse an option that the policy, built elsewhere, does not follow.

    Raises:
        ConfigError: observations are to be normalised, and nothing in the policy does.
    """
    normalises = any(isinstance(module, RunningMoments) for module in policy.modules())
    if config.normalize_observations and not normalises:
        raise ConfigError(
            f"train.normalize_observations is set, but {type(policy).__name__} normalises nothing.",
            fix="Put a NormalizeObservationWrapper around it, or build it with load_policy.",
        )


@torch.no_grad()
def show_what_was_seen(policy: nn.Module, rollout: Rollout) -> None:
    """Call the policy's ``update_statistics``, if it has one, once nothing scores the rollout.

    Ghosts are left out: with them, statistics would depend on how the env restarts episodes.
    """
    update = getattr(policy, "update_statistics", None)
    if update is None:
        return
    valid = torch.from_numpy(~rollout.ghost).to(rollout.values.device)
    update(map_nested(lambda leaf: leaf[valid], rollout.observations))  # (M, *obs)
