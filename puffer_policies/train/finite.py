"""Looks for the first number of a rollout that is not finite, and says who made it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from puffer_policies.errors import TrainingError
from puffer_policies.nested import leaves
from puffer_policies.train.rollout import Rollout


def require_finite(rollout: Rollout) -> None:
    """Raise a `TrainingError` that names the first number of a rollout that is not finite.

    Looked at in the order of cause: observations, rewards, values, log-probabilities. Only when the
    last two, which every cause reaches, are not finite, are the observations searched.
    """
    outputs = torch.isfinite(rollout.values).all() & torch.isfinite(rollout.log_probs).all()
    if (
        bool(outputs)
        and np.isfinite(rollout.rewards).all()
        and np.isfinite(rollout.next_values).all()
    ):
        return
    observed = [(f"observation[{i}]", x) for i, x in enumerate(leaves(rollout.observations))]
    others = {
        "reward": torch.from_numpy(rollout.rewards),
        "value": rollout.values,
        "log-probability of the action": rollout.log_probs,
        "value of the next observation": torch.from_numpy(rollout.next_values),
    }
    for name, tensor in [*observed, *others.items()]:
        bad = torch.nonzero(~torch.isfinite(tensor))
        if len(bad):
            raise _not_finite(name, tensor, bad[0].tolist())


def _not_finite(name: str, tensor: Tensor, where: list[int]) -> TrainingError:
    step, env, *rest = where
    place = f", element {rest}" if rest else ""
    number = tensor[tuple(where)].item()
    return TrainingError(
        f"The rollout holds a number that is not finite: {name} = {number} at step {step} of env "
        f"{env}{place}.",
        fix="The environment made it."
        if name.startswith(("observation", "reward"))
        else "Observations and rewards are finite: the policy made it. Try a lower learning rate.",
    )
