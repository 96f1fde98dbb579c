"""PPO in one file, as CleanRL's ppo.py does it (https://docs.cleanrl.dev/rl-algorithms/ppo/).

A `SyncVectorEnv` of wrapped envs, `torch.distributions.Categorical`, buffers of torch tensors, and
minibatches by NumPy indices. It is written to be raced against, not to be improved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
import turns
from torch import Tensor, nn
from torch.distributions import Categorical


def make_env() -> Callable[[], gymnasium.Env[Any, Any]]:
    """Return a function that makes one env."""

    def thunk() -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(turns.ENV_ID))

    return thunk


def layer_init(layer: nn.Linear, std: float = 2**0.5) -> nn.Linear:
    """Orthogonal weights, biases zero."""
    nn.init.orthogonal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """One hidden layer under both heads."""

    def __init__(self, observation_size: int, num_actions: int) -> None:
        super().__init__()
        first = layer_init(nn.Linear(observation_size, turns.HIDDEN_SIZE))
        self.network = nn.Sequential(first, nn.GELU())
        self.actor = layer_init(nn.Linear(turns.HIDDEN_SIZE, num_actions), std=0.01)
        self.critic = layer_init(nn.Linear(turns.HIDDEN_SIZE, 1), std=1)

    def get_value(self, x: Tensor) -> Tensor:
        """(N, *obs) -> (N, 1)."""
        value: Tensor = self.critic(self.network(x))
        return value

    def get_action_and_value(
        self, x: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, *obs) -> action, log_prob, entropy (N,), value (N, 1)."""
        hidden = self.network(x)
        probs: Any = Categorical(logits=self.actor(hidden))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden)


def trainer(num_envs: int) -> turns.Train:
    """Set everything up and return the function that makes updates."""
    batch_size = num_envs * turns.NUM_STEPS
    minibatch_size = batch_size // turns.NUM_MINIBATCHES
    torch.set_num_threads(1)
    np.random.seed(turns.SEED)
    torch.manual_seed(turns.SEED)
    envs = gymnasium.vector.SyncVectorEnv([make_env() for _ in range(num_envs)])
    shape = envs.single_observation_space.shape
    agent = Agent(shape[0], int(envs.single_action_space.n))  # type: ignore[attr-defined,index]
    optimizer = torch.optim.Adam(agent.parameters(), lr=turns.LEARNING_RATE, eps=1e-5)

    size = (turns.NUM_STEPS, num_envs)
    obs = torch.zeros(size + shape)  # type: ignore[operator]
    actions, logprobs, rewards, dones, values = (torch.zeros(size) for _ in range(5))
    next_obs = torch.Tensor(envs.reset(seed=turns.SEED)[0])
    next_done = torch.zeros(num_envs)

    def collect() -> None:
        nonlocal next_obs, next_done
        for step in range(turns.NUM_STEPS):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                action, logprob, _, value = agent.get_action_and_value(next_obs)
                values[step] = value.flatten()
            actions[step], logprobs[step] = action, logprob
            answer, reward, terminations, truncations, _ = envs.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            next_obs = torch.Tensor(answer)
            next_done = torch.Tensor(np.logical_or(terminations, truncations))

    def estimate() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_value = agent.get_value(next_obs).reshape(1, -1)
            advantages, last = torch.zeros_like(rewards), torch.zeros(num_envs)
            for t in reversed(range(turns.NUM_STEPS)):
                final = t == turns.NUM_STEPS - 1
                nonterminal = 1.0 - (next_done if final else dones[t + 1])
                nextvalues = next_value if final else values[t + 1]
                delta = rewards[t] + turns.GAMMA * nextvalues * nonterminal - values[t]
                last = delta + turns.GAMMA * turns.GAE_LAMBDA * nonterminal * last
                advantages[t] = last
            return advantages, advantages + values

    def update(advantages: Tensor, returns: Tensor) -> None:
        b_obs, b_actions = obs.reshape((-1, *shape)), actions.reshape(-1)  # type: ignore[misc]
        b_logprobs, b_values = logprobs.reshape(-1), values.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
        b_inds, clipfracs = np.arange(batch_size), []
        for _ in range(turns.NUM_EPOCHS):
            np.random.shuffle(b_inds)
            for start in range(0, batch_size, minibatch_size):
                mb_inds = b_inds[start : start + minibatch_size]
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(
                    b_obs[mb_inds], b_actions.long()[mb_inds]
                )
                logratio = newlogprob - b_logprobs[mb_inds]
                ratio = logratio.exp()
                with torch.no_grad():
                    ((ratio - 1) - logratio).mean()
                    clipfracs += [((ratio - 1.0).abs() > turns.CLIP_COEF).float().mean().item()]
                mb_advantages = b_advantages[mb_inds]
                mb_advantages = (mb_advantages - mb_advantages.mean()) / (
                    mb_advantages.std() + 1e-8
                )
                pg_loss1 = -mb_advantages * ratio
                pg_loss2 = -mb_advantages * torch.clamp(
                    ratio, 1 - turns.CLIP_COEF, 1 + turns.CLIP_COEF
                )
                pg_loss = torch.max(pg_loss1, pg_loss2).mean()
                newvalue = newvalue.view(-1)
                v_loss_unclipped = (newvalue - b_returns[mb_inds]) ** 2
                v_clipped = b_values[mb_inds] + torch.clamp(
                    newvalue - b_values[mb_inds], -turns.CLIP_COEF, turns.CLIP_COEF
                )
                v_loss_clipped = (v_clipped - b_returns[mb_inds]) ** 2
                v_loss = 0.5 * torch.max(v_loss_unclipped, v_loss_clipped).mean()
                loss = pg_loss - turns.ENT_COEF * entropy.mean() + v_loss * turns.VF_COEF
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(agent.parameters(), turns.MAX_GRAD_NORM)
                optimizer.step()

    def train(num_updates: int) -> None:
        for _ in range(num_updates):
            collect()
            update(*estimate())

    return train


if __name__ == "__main__":
    turns.take_turns(trainer(turns.num_envs()))
