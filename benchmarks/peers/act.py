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

FEW_CLOCKS = 256
"""Probabilities up to which a clock for each is the cheaper draw."""

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
    """Return what the trainer's rollout calls, in which the policy stands still."""
    from puffer_policies.nn.distributions import sample_with_log_prob
    from puffer_policies.nn.fixed import fixed_eval

    actor = policy(memory=memory)
    return stepping(actor, fixed_eval(actor, may_wait=True), sample_with_log_prob)


def plain(*, memory: bool) -> Act:
    """Return the methods that a library or a loop of one's own calls."""
    from puffer_policies.nn.distributions import sample_with_log_prob

    actor = policy(memory=memory)
    return stepping(actor, actor.forward_eval, sample_with_log_prob)


def of_torch(*, memory: bool) -> Act:
    """Return our policy with the distribution of torch."""

    def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
        dist: Any = torch.distributions.Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action)

    actor = policy(memory=memory)
    return stepping(actor, actor.forward_eval, draw)


def stepping(
    actor: Any, forward_eval: Callable[..., Any], draw: Callable[[Any], tuple[Tensor, Tensor]]
) -> Act:
    """Step a policy, whose state goes on, and draw an action with its log-probability."""
    rows = turns.num_envs()
    states = actor.initial_state(rows, "cpu") if hasattr(actor, "initial_state") else {}

    def act(x: Tensor, starts: Tensor) -> object:
        state = {**states, "episode_start": starts}
        logits, values = forward_eval(x, state=state)
        states.update({key: state[key] for key in states})
        return *draw(logits), values

    return act


def floor(*, memory: bool) -> Act:
    """Return the least that PyTorch can do for the same outputs, on the same sizes.

    No modules and one matrix for both heads. The action is drawn by the inverse of the cumulative
    probabilities, or by clocks, one for each option, where these are so few that fewer calls count
    more than fewer random numbers. The LSTM's state is set to zero where an episode starts; it is a
    cell, or the kernel for sequences where that is faster.
    """
    options = int(turns.option("options", "4"))
    first, joint = (
        (layer.weight, layer.bias)
        for layer in (torch.nn.Linear(8, 128), torch.nn.Linear(128, options + 1))
    )
    races = turns.num_envs() * options <= FEW_CLOCKS
    lstm, many = torch.nn.LSTM(128, 128), turns.num_envs() >= MANY_ROWS
    gates = lstm.all_weights[0]
    states = [torch.zeros(turns.num_envs(), 128) for _ in range(2)]

    def act(x: Tensor, starts: Tensor) -> object:
        hidden = functional.gelu(functional.linear(x, *first))
        if memory:
            kept = ~starts.unsqueeze(-1)
            before = [each * kept for each in states]
            if many:
                _, after = lstm(hidden[None], tuple(each[None] for each in before))
                states[:] = (each[0] for each in after)
            else:
                states[:] = torch.lstm_cell(hidden, before, *gates)
            hidden = states[0]
        outputs = functional.linear(hidden, *joint)
        logits, values = outputs.split_with_sizes([options, 1], -1)
        log_probs = torch.log_softmax(logits, -1)
        probs = log_probs.exp()
        if races:
            action = (probs / torch.empty_like(probs).exponential_()).argmax(-1, keepdim=True)
        else:
            action = (probs.cumsum(-1) < torch.rand(x.shape[0], 1)).sum(-1, keepdim=True)
            action.clamp_(max=options - 1)
        return action, log_probs.gather(-1, action), values

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
    "plain": plain,
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
