"""Sampling alone: an action of 18 options, its log-probability and the entropy.

``python sample.py ours|floor|torch ROWS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import turns
from torch import Tensor

OPTIONS = 18
"""As many as a joystick and a button have in Atari."""

Sample = Callable[[Tensor], object]


def ours() -> Sample:
    """Return our distribution."""
    from puffer_policies.nn.distributions import distribution

    def sample(logits: Tensor) -> object:
        dist = distribution(logits)
        action = dist.sample()
        return action, dist.log_prob(action), dist.entropy()

    return sample


def of_torch() -> Sample:
    """Return the distribution of torch, which stable-baselines3 and CleanRL use."""

    def sample(logits: Tensor) -> object:
        dist: Any = torch.distributions.Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action), dist.entropy()

    return sample


def floor() -> Sample:
    """Return the inverse of the cumulative probabilities, from one random number a row."""

    def sample(logits: Tensor) -> object:
        log_probs = torch.log_softmax(logits, -1)
        probs = log_probs.exp()
        action = (probs.cumsum(-1) < torch.rand(len(logits), 1)).sum(-1, keepdim=True)
        action.clamp_(max=OPTIONS - 1)
        return action, log_probs.gather(-1, action), -(probs * log_probs).sum(-1)

    return sample


CANDIDATES = {"ours": ours, "torch": of_torch, "floor": floor}


def main() -> None:
    """Build a candidate and take turns."""
    torch.set_num_threads(1)
    torch.manual_seed(turns.SEED)
    sample = CANDIDATES[turns.words()[0]]()
    logits = torch.randn(turns.num_envs(), OPTIONS)

    def call(number: int) -> None:
        with torch.no_grad():
            for _ in range(number):
                sample(logits)

    turns.take_turns(call)


if __name__ == "__main__":
    main()
