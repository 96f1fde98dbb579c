"""Time of one act (forward_eval + sample + log_prob) against a hand-written floor and torch's own.

``python benchmarks/bench_act.py [--options N] [--rounds R]``. One thread, MLP 128, observations
Box(8). *floor* is plain PyTorch: one hidden layer, one joint head, inverse-CDF sampling, no
modules. *torch* is our policy with `torch.distributions`. The three take turns, so that a noisy
machine hurts them alike; the best round counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from puffer_policies.nn.distributions import distribution
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.mlp import Default

Act = Callable[[Tensor], object]


def floor_act(policy: Any) -> Act:
    """The least that PyTorch can do for the same outputs, on the same weights."""
    first = policy.encoder.layers[0]
    joint_weight = torch.cat([policy.actor.linear.weight, policy.critic.weight]).detach()
    joint_bias = torch.cat([policy.actor.linear.bias, policy.critic.bias]).detach()

    def act(x: Tensor) -> object:
        hidden = functional.gelu(functional.linear(x, first.weight, first.bias))
        joint = functional.linear(hidden, joint_weight, joint_bias)
        log_probs = torch.log_softmax(joint[:, :-1], -1)
        cumulative = log_probs.exp().cumsum(-1)
        action = (cumulative < torch.rand(len(x), 1)).sum(-1, keepdim=True)
        action.clamp_(max=cumulative.shape[1] - 1)
        return action, log_probs.gather(-1, action), joint[:, -1:]

    return act


def our_act(policy: Any) -> Act:
    """What the trainer's rollout calls."""

    def act(x: Tensor) -> object:
        logits, values = policy.forward_eval(x)
        dist = distribution(logits)
        action = dist.sample()
        return action, dist.log_prob(action), values

    return act


def torch_act(policy: Any) -> Act:
    """The same policy with `torch.distributions.Categorical`."""

    def act(x: Tensor) -> object:
        logits, values = policy.forward_eval(x)
        dist: Any = torch.distributions.Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action), values

    return act


def best_times(acts: list[Act], x: Tensor, *, rounds: int) -> list[float]:
    """Microseconds a call of each, the best of `rounds` turns."""
    calls = max(20, 4000 // (10 + len(x)))
    best = [float("inf")] * len(acts)
    for _ in range(rounds):
        for index, act in enumerate(acts):
            start = time.perf_counter()
            for _ in range(calls):
                act(x)
            best[index] = min(best[index], (time.perf_counter() - start) / calls * 1e6)
    return best


def main() -> None:
    """Print a line for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--options", type=int, default=4, help="number of discrete actions")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    env = Spaces(spaces.Box(-1.0, 1.0, (8,)), spaces.Discrete(args.options))
    policy = Default(env)
    lstm = LSTMWrapper(env, Default(env))
    acts = [floor_act(policy), our_act(policy), torch_act(policy), our_act(lstm)]
    print("rows   floor us    ours us   torch us    LSTM us   ours/floor   ours/torch")
    with torch.no_grad():
        for rows in (1, 64, 1024):
            floor, ours, theirs, memory = best_times(acts, torch.randn(rows, 8), rounds=args.rounds)
            times = f"{floor:10.1f} {ours:10.1f} {theirs:10.1f} {memory:10.1f}"
            print(f"{rows:4} {times} {ours / floor:12.2f} {ours / theirs:12.2f}")


if __name__ == "__main__":
    main()
