"""The golden sample of a checkpoint: inputs, and what the policy answered when it was saved.

Whoever loads the file asks again. Another version of a package or a statistic that was lost gives
other answers, and is told before anyone acts on them. `R` rows, `T` steps, with an episode start in
the middle, so that memories and their resets are part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.contract import (
    ACTION_MASK,
    EPISODE_START,
    LSTM_STATE,
    PREV_ACTION,
    PREV_REWARD,
)
from puffer_policies.nn.distributions import FULL_PRECISION, distribution
from puffer_policies.nn.samples import random_observations
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.spaces.nested import leaves, map_nested, names_of

ROWS, STEPS, SEED = 2, 4, 0

TOLERANCE, HALF_TOLERANCE = 1e-3, 1e-1
"""The largest difference of an answer, as a share of its size or of 1: other processors and other
kernels change about 1e-5 of it, and with weights in half precision 1e-2."""

OBSERVATION, ACTION = "observation", "action"
ANSWERS = ("log_prob", "entropy", "value")
"""What is compared, (R, T) each. `log_prob` is of the action in the sample, (R, T, ...), which was
the likeliest one."""
EXTRAS = (EPISODE_START, PREV_ACTION, PREV_REWARD, ACTION_MASK)


def take_sample(
    policy: nn.Module, spaces: Spaces, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the sample of a policy by the names of its tensors; {} where it can't be had.

    A copy runs on the CPU in evaluation mode, so that nothing of the policy, and no generator, is
    moved. It can't be had of a policy that can't be copied, or that does not answer to every member
    of its spaces.

    Args:
        policy: keeps the contract.
        spaces: those of the policy.
        weights: its state_dict at another moment; the present one if None.
    """
    try:
        twin = copy.deepcopy(policy).cpu()
        if weights is not None:
            twin.load_state_dict(dict(weights))
        sample = sample_inputs(spaces)
        return sample | _answers(twin, spaces, sample)
    except Exception:  # a policy may raise anything; where it does not answer, there is no sample
        return {}


def deviation(policy: nn.Module, spaces: Spaces, sample: Mapping[str, Tensor]) -> float:
    """Return how far a policy's answers are from those of a sample, as a share of their size or 1.

    Whatever the policy raises is raised.
    """
    answers = _answers(copy.deepcopy(policy).cpu(), spaces, sample)
    return max(difference(answers[name], sample[name]) for name in ANSWERS)


def tolerance(policy: nn.Module) -> float:
    """Return the largest `deviation` that is rounding."""
    full = all(each.dtype in FULL_PRECISION for each in policy.parameters())
    return TOLERANCE if full else HALF_TOLERANCE


def _answers(policy: nn.Module, spaces: Spaces, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Step a policy through the inputs of a sample, and return its answers and their action."""
    policy.eval()
    template = random_observations(spaces.observation, (1,), seed=SEED)
    names, extras = names_of(template, OBSERVATION), [key for key in EXTRAS if key in sample]
    state = _initial_state(policy)
    steps = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        for step in range(STEPS):
            inputs = {key: each[:, step] for key, each in sample.items()}
            state.update({key: inputs[key] for key in extras})
            parts = iter([inputs[name] for name in names])
            observation = map_nested(lambda _, parts=parts: next(parts), template)
            logits, values = policy.forward_eval(observation, state)  # type: ignore[operator]
            choices = distribution(logits)
            action = inputs[ACTION] if ACTION in inputs else choices.mode()
            numbers = (choices.log_prob(action), choices.entropy(), values.reshape(ROWS))
            steps.append((action, *(each.float() for each in numbers)))
    columns = [torch.stack(each, 1) for each in zip(*steps, strict=True)]
    return dict(zip((ACTION, *ANSWERS), columns, strict=True))


def sample_inputs(spaces: Spaces) -> dict[str, Tensor]:
    """Return all that a policy may read, (R, T, ...): each takes what it knows."""
    observations = random_observations(spaces.observation, (ROWS, STEPS), seed=SEED)
    starts = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    starts[:, 0] = starts[-1, STEPS // 2] = True
    layout = action_layout(spaces.action)
    no_actions = np.zeros((ROWS, STEPS, *layout.policy_shape), layout.policy_dtype)
    inputs = {
        EPISODE_START: starts,
        PREV_ACTION: torch.from_numpy(no_actions),
        PREV_REWARD: torch.ones(ROWS, STEPS),
    }
    if layout.nvec:
        inputs[ACTION_MASK] = torch.ones(ROWS, STEPS, sum(layout.nvec), dtype=torch.bool)
    return inputs | dict(
        zip(names_of(observations, OBSERVATION), leaves(observations), strict=True)
    )


def _initial_state(policy: nn.Module) -> dict[str, Any]:
    initial_state = getattr(policy, "initial_state", None)
    if callable(initial_state):
        return dict(initial_state(ROWS))
    # PufferLib's form. A policy without memory never looks at it.
    size = int(policy.hidden_size)  # type: ignore[arg-type]
    return {key: torch.zeros(ROWS, size) for key in LSTM_STATE}


def difference(answer: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the size of what is expected, or of 1."""
    same = (answer == expected) | (answer.isnan() & expected.isnan())
    gap = (answer - expected).abs() / expected.abs().clamp(min=1)
    return float(torch.where(same, 0.0, gap.nan_to_num(torch.inf)).max())
