"""One act: forward_eval, an action, its log-probability and the value.

``python act.py CANDIDATE [lstm] ROWS [--options=N]``: observations Box(8), hidden size 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import turns
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

MANY_ROWS = 512
"""From here on a step of the kernel for sequences is faster than a cell."""

Act = Callable[[Tensor, Tensor], object]
"""Observations (N, 8), episode starts (N,)."""


def env() -> Any:
    """Return the spaces."""
    from puffer_policies.spaces import Spaces

    number = int(turns.option("options", "4"))
    return Spaces(spaces.Box(-1.0, 1.0, (8,)), spaces.Discrete(number))


def policy(*, memory: bool) -> Any:
    """Return ours."""
    from puffer_policies.assembly.factory import get_policy

    return get_policy("LSTMWrapper(Default)" if memory else "Default", env(), hidden_size=128)


def ours(*, memory: bool) -> Act:
    """Return what the trainer's rollout calls."""
    from puffer_policies.nn.distributions import distribution

    return stepping(distribution, memory=memory)


def of_torch(*, memory: bool) -> Act:
    """Return our policy with the distribution of torch."""
    return stepping(lambda logits: torch.distributions.Categorical(logits=logits), memory=memory)


def stepping(distribution: Callable[[Any], Any], *, memory: bool) -> Act:
    """Step our policy, whose state goes on, and draw from a distribution over its logits."""
    actor = policy(memory=memory)
    states = actor.initial_state(turns.num_envs(), "cpu") if memory else {}

    def act(x: Tensor, starts: Tensor) -> object:
        state = {**states, "episode_start": starts}
        logits, values = actor.forward_eval(x, state)
        states.update({key: state[key] for key in states})
        dist = distribution(logits)
        action = dist.sample()
        return action, dist.log_prob(action), values

    return act


def floor(*, memory: bool) -> Act:
    """Return the least that PyTorch can do for the same outputs, on the same sizes.

    No modules, one matrix for both heads, and an action by the inverse of the cumulative
    probabilities. The LSTM's state is set to zero where an episode starts; it is a cell, or the
    kernel for sequences where that is faster.
    """
    first, joint = (
        torch.nn.Linear(8, 128),
        torch.nn.Linear(128, int(turns.option("options", "4")) + 1),
    )
    lstm, many = torch.nn.LSTM(128, 128), turns.num_envs() >= MANY_ROWS
    states = [torch.zeros(turns.num_envs(), 128) for _ in range(2)]

    def act(x: Tensor, starts: Tensor) -> object:
        hidden = functional.gelu(functional.linear(x, first.weight, first.bias))
        if memory:
            kept = 1.0 - starts.unsqueeze(-1).float()
            before = [each * kept for each in states]
            if many:
                _, after = lstm(hidden[None], tuple(each[None] for each in before))
                states[:] = (each[0] for each in after)
            else:
                states[:] = torch.lstm_cell(hidden, before, *lstm.all_weights[0])
            hidden = states[0]
        outputs = functional.linear(hidden, joint.weight, joint.bias)
        log_probs = torch.log_softmax(outputs[:, :-1], -1)
        cumulative = log_probs.exp().cumsum(-1)
        action = (cumulative < torch.rand(len(x), 1)).sum(-1, keepdim=True)
        action.clamp_(max=cumulative.shape[1] - 1)
        return action, log_probs.gather(-1, action), outputs[:, -1:]

    return act


def of_sb3(*, memory: bool) -> Act:
    """Return the policy of stable-baselines3 or sb3-contrib, with the same layers."""
    import numpy as np
    from sb3 import Trunk

    observation = spaces.Box(-1.0, 1.0, (8,), np.float32)
    action = spaces.Discrete(int(turns.option("options", "4")))
    options: dict[str, Any] = {"net_arch": [], "features_extractor_class": Trunk}
    if not memory:
        from stable_baselines3.common.policies import ActorCriticPolicy

        model = ActorCriticPolicy(observation, action, lambda _: 0.0, **options)
        return lambda x, starts: model(x)
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    options |= {"lstm_hidden_size": 128, "shared_lstm": True, "enable_critic_lstm": False}
    recurrent = RecurrentActorCriticPolicy(observation, action, lambda _: 0.0, **options)
    zeros = torch.zeros(1, turns.num_envs(), 128)
    states = [RNNStates((zeros, zeros), (zeros, zeros))]

    def act(x: Tensor, starts: Tensor) -> object:
        *answer, states[0] = recurrent(x, states[0], starts.float())
        return answer

    return act


CANDIDATES: dict[str, Callable[..., Act]] = {
    "ours": ours,
    "torch": of_torch,
    "floor": floor,
    "sb3": of_sb3,
}


def main() -> None:
    """Build a candidate and take turns."""
    torch.set_num_threads(1)
    torch.manual_seed(turns.SEED)
    name = next(each for each in turns.words() if each in CANDIDATES)
    act = CANDIDATES[name](memory=turns.wants_memory())
    x, starts = torch.randn(turns.num_envs(), 8), torch.zeros(turns.num_envs(), dtype=torch.bool)

    def call(number: int) -> None:
        with torch.no_grad():
            for _ in range(number):
                act(x, starts)

    turns.take_turns(call)


if __name__ == "__main__":
    main()
