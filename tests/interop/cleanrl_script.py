"""PPO as CleanRL's scripts have it, for agents without memory and for those with `lstm_state`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

SETTINGS = {
    "steps": 10_000,
    "num_steps": 128,
    "minibatches": 4,
    "epochs": 4,
    "learning_rate": 2.5e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.2,
    "entropy": 0.01,
}


def run_script(agent, envs, *, seed=0, update=True, **settings):
    """Train an agent, or roll it out once, and return the storage of the last rollout.

    It has `first_ratio`, of the first minibatch, and `returns` of the episodes that have ended.
    """
    args = SimpleNamespace(**{**SETTINGS, **settings})
    order, num_envs = np.random.default_rng(seed), envs.num_envs
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    store = SimpleNamespace(returns=[], first_ratio=None)
    shape = (args.num_steps, num_envs)
    store.is_discrete = not isinstance(envs.single_action_space, spaces.Box)
    store.obs = torch.zeros(shape + envs.single_observation_space.shape)
    store.actions = torch.zeros(shape + envs.single_action_space.shape)
    for name in ("log_probs", "rewards", "dones", "values"):
        setattr(store, name, torch.zeros(shape))
    obs = torch.Tensor(envs.reset(seed=seed)[0])
    done, running = torch.zeros(num_envs), np.zeros(num_envs)
    state = None
    if hasattr(agent, "lstm"):
        size = agent.lstm.num_layers, num_envs, agent.lstm.hidden_size
        state = torch.zeros(size), torch.zeros(size)
    iterations = max(args.steps // (args.num_steps * num_envs), 1)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = (1 - iteration / iterations) * args.learning_rate
        store.initial = None if state is None else (state[0].clone(), state[1].clone())
        for step in range(args.num_steps):
            store.obs[step], store.dones[step] = obs, done
            with torch.no_grad():
                if state is None:
                    action, log_prob, _, value = agent.get_action_and_value(obs)
                else:
                    action, log_prob, _, value, state = agent.get_action_and_value(obs, state, done)
            store.values[step], store.log_probs[step] = value.flatten(), log_prob
            store.actions[step] = action
            obs, reward, terminated, truncated, _ = envs.step(action.numpy())
            ended = np.logical_or(terminated, truncated)
            running += reward
            store.returns += running[ended].tolist()
            running[ended] = 0
            store.rewards[step] = torch.tensor(reward)
            obs, done = torch.Tensor(obs), torch.Tensor(ended)
        if update:
            improve(agent, optimizer, store, args, order, obs, state, done)
    return store


def improve(agent, optimizer, store, args, order, obs, state, done):
    """Update an agent by a rollout."""
    with torch.no_grad():
        context = () if state is None else (state, done)
        following = agent.get_value(obs, *context).reshape(1, -1)
        values = torch.cat([store.values, following])
        live = 1 - torch.cat([store.dones, done[None]])
        advantages, last = torch.zeros_like(store.rewards), 0
        for t in reversed(range(args.num_steps)):
            delta = store.rewards[t] + args.gamma * values[t + 1] * live[t + 1] - values[t]
            last = delta + args.gamma * args.gae_lambda * live[t + 1] * last
            advantages[t] = last
        returns = advantages + store.values
    rows = torch.arange(store.rewards.numel()).reshape(store.rewards.shape)
    columns = rows.shape[1] if state is not None else rows.numel()
    flat = {
        name: getattr(store, name).flatten(0, 1)
        for name in ("obs", "actions", "log_probs", "dones")
    }
    flat |= {"advantages": advantages.flatten(), "returns": returns.flatten()}
    for _ in range(args.epochs):
        for part in np.array_split(order.permutation(columns), args.minibatches):
            part = torch.from_numpy(part)
            picked = rows[:, part].flatten() if state is not None else part
            batch = {name: each[picked] for name, each in flat.items()}
            actions = batch["actions"]
            context = ()
            if state is not None:
                initial = tuple(each[:, part] for each in store.initial)
                context = initial, batch["dones"]
            if store.is_discrete:
                actions = actions.long()
            results = agent.get_action_and_value(batch["obs"], *context, actions)
            _, log_prob, entropy, value = results[:4]
            ratio = (log_prob - batch["log_probs"]).exp()
            if store.first_ratio is None:
                store.first_ratio = ratio.detach()
            gain = batch["advantages"]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            policy_loss = torch.max(-gain * ratio, -gain * clipped).mean()
            value_loss = 0.5 * (value.flatten() - batch["returns"]).square().mean()
            loss = policy_loss - args.entropy * entropy.mean() + 0.5 * value_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
