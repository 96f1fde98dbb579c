"""PufferLib 3.0 as a policy meets it, in our own words: its vector env, its loader, its trainer.

The calls, shapes, state and order of things are PufferLib's. What is left out: workers, the
advantages and the loss, the dashboard, files.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Normal

from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import leaves


def emulated(space: Any) -> tuple[Any, np.dtype[Any] | None]:
    """Return the flat Box that PufferLib makes of an observation space, and what is in it."""
    tree = leaf_spaces(space)
    if isinstance(tree, spaces.Box):
        return space, None
    dtype, kinds = structured(tree), {each.dtype for each in leaves(tree)}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype(np.uint8)
    bounds = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    size = dtype.itemsize // kind.itemsize
    return spaces.Box(bounds.min, bounds.max, (size,), kind), dtype


def structured(tree: Any) -> np.dtype[Any]:
    if isinstance(tree, spaces.Discrete | spaces.MultiDiscrete):
        return np.dtype((np.int32, tree.shape))
    if isinstance(tree, spaces.Space):
        return np.dtype((tree.dtype, tree.shape))
    if isinstance(tree, tuple):
        tree = {f"f{i}": branch for i, branch in enumerate(tree)}
    return np.dtype([(key, structured(branch)) for key, branch in tree.items()], align=True)


def fill(place: Any, observation: Any) -> None:
    """Write an observation into a structured array (1,)."""
    if place.dtype.names is None:
        place[0] = observation
        return
    for i, name in enumerate(place.dtype.names):
        fill(place[name], observation[name if isinstance(observation, dict) else i])


class FakeSerial:
    """What PufferLib 3.0's ``Serial`` does with emulated envs, in place and with its checks."""

    def __init__(self, makers: Sequence[Callable[[], Any]]) -> None:
        self.envs = [FakeEmulated(maker()) for maker in makers]
        self.driver_env = self.envs[0]
        self.emulated = self.driver_env.emulated
        self.single_observation_space = self.driver_env.single_observation_space
        self.single_action_space = self.driver_env.single_action_space
        self.num_agents = sum(each.num_agents for each in self.envs)
        self.agents_per_batch = self.num_envs = self.num_agents
        space = self.single_action_space
        joint = (self.num_agents, *space.shape)
        if isinstance(space, spaces.Box):
            low, high = (np.broadcast_to(each, joint) for each in (space.low, space.high))
            self.action_space: Any = spaces.Box(low, high, dtype=space.dtype)
        else:
            nvec = getattr(space, "nvec", getattr(space, "n", 0))
            self.action_space = spaces.MultiDiscrete(np.broadcast_to(nvec, joint))
        self.agent_ids = np.arange(self.num_agents)
        box = self.single_observation_space
        self.observations = np.zeros((self.num_agents, *box.shape), box.dtype)
        self.rewards = np.zeros(self.num_agents, np.float32)
        self.terminals, self.truncations, self.masks = (
            np.zeros(self.num_agents, bool) for _ in range(3)
        )
        self.flag, self.closed = "reset", False

    def async_reset(self, seed: int | None = None) -> None:
        self.flag, row = "recv", 0
        for i, env in enumerate(self.envs):
            self._write(row, env.restart(None if seed is None else seed + i), starting=True)
            row += env.num_agents

    def send(self, actions: np.ndarray) -> None:
        assert self.flag == "send"
        assert actions.flags.contiguous
        assert self.action_space.contains(actions)
        self.flag, row = "recv", 0
        for env in self.envs:
            if env.done:
                self._write(row, env.restart(None), starting=True)
            else:
                self._write(row, env.play(actions[row : row + env.num_agents]), starting=False)
            row += env.num_agents

    def _write(self, row: int, told: list[Any], *, starting: bool) -> None:
        for i, each in enumerate(told, start=row):
            shown, reward, terminated, truncated = each or (None, 0, True, False)
            self._show(i, shown)
            self.rewards[i] = reward
            self.terminals[i] = terminated and not starting
            self.truncations[i] = truncated
            self.masks[i] = starting or each is not None

    def _show(self, row: int, observation: Any) -> None:
        if observation is None:
            self.observations[row] = 0
        elif self.driver_env.dtype is None:
            self.observations[row] = observation
        else:
            fill(self.observations[row].view(self.driver_env.dtype), observation)

    def recv(self) -> tuple[Any, ...]:
        assert self.flag == "recv"
        self.flag = "send"
        buffers = (self.observations, self.rewards, self.terminals, self.truncations)
        return *buffers, [], self.agent_ids, self.masks

    def close(self) -> None:
        self.closed = True


class FakeEmulated:
    """An env as PufferLib's emulation tells of it: None for an absent agent."""

    def __init__(self, env: Any) -> None:
        self.env, self.done = env, True
        self.agents = getattr(env, "possible_agents", None)
        self.num_agents = len(self.agents) if self.agents else 1
        observation, action = env.observation_space, env.action_space
        if self.agents:
            observation = self.env_single_observation_space = observation(self.agents[0])
            action = self.env_single_action_space = action(self.agents[0])
        self.single_observation_space, self.dtype = emulated(observation)
        # A MultiBinary becomes a choice of its n bits, which is an error of PufferLib's.
        kind = action_layout(action).kind
        self.single_action_space = spaces.MultiDiscrete([action.n]) if "binary" in kind else action
        self.observation_space, self.action_space = (
            self.single_observation_space,
            self.single_action_space,
        )
        self.emulated = {
            "observation_dtype": self.single_observation_space.dtype,
            "emulated_observation_dtype": self.dtype,
        }

    def restart(self, seed: int | None) -> list[Any]:
        self.done = False
        shown, _ = self.env.reset(seed=seed)
        if not self.agents:
            return [(shown, 0, False, False)]
        return [(shown[a], 0, False, False) if a in shown else None for a in self.agents]

    def play(self, actions: np.ndarray) -> list[Any]:
        if not self.agents:
            *told, _ = self.env.step(actions[0])
            self.done = told[2] or told[3]
            return [tuple(told)]
        playing = dict(zip(self.agents, actions, strict=True))
        shown, rewards, ends, cuts, _ = self.env.step(
            {a: act for a, act in playing.items() if a in self.env.agents}
        )
        self.done = not self.env.agents
        return [
            (shown[a], rewards.get(a, 0), ends.get(a, False), cuts.get(a, False))
            if a in shown
            else None
            for a in self.agents
        ]


# -- the trainer -----------------------------------------------------------------------------------


class PuffeRL:
    """PufferLib's trainer without the learning: what it collects, and what it asks in training."""

    def __init__(self, config: dict[str, Any], vecenv: FakeSerial, policy: nn.Module) -> None:
        self.config, self.vecenv, self.policy = config, vecenv, policy
        vecenv.async_reset(config["seed"])
        agents, horizon = vecenv.num_agents, config["bptt_horizon"]
        if config["batch_size"] == "auto":
            config["batch_size"] = agents * horizon
        self.segments = config["batch_size"] // horizon
        box, action = vecenv.single_observation_space, vecenv.single_action_space
        shape = (self.segments, horizon)
        kind = torch.from_numpy(np.empty(0, box.dtype)).dtype
        self.observations = torch.zeros(*shape, *box.shape, dtype=kind)
        kind = torch.from_numpy(np.empty(0, action.dtype)).dtype
        self.actions = torch.zeros(*shape, *action.shape, dtype=kind)
        self.values, self.logprobs, self.terminals = (torch.zeros(shape) for _ in range(3))
        self.ratio = torch.ones(shape)
        if config["use_rnn"]:
            self.lstm_h, self.lstm_c = (
                {0: torch.zeros(agents, policy.hidden_size)} for _ in range(2)
            )

    def evaluate(self) -> None:
        """Collect the segments: every agent writes one after the other."""
        agents, horizon = self.vecenv.num_agents, self.config["bptt_horizon"]
        if self.config["use_rnn"]:
            for carried in (self.lstm_h, self.lstm_c):
                for tensor in carried.values():
                    tensor.zero_()
        for step in range(self.segments // agents * horizon):
            o, r, d, _, _, agent, mask = self.vecenv.recv()
            agent, rewards = slice(agent[0], agent[-1] + 1), torch.as_tensor(r)
            terminals, shown = torch.as_tensor(d), torch.as_tensor(o)
            with torch.no_grad():
                state = {"reward": rewards, "done": terminals, "env_id": agent, "mask": mask}
                if self.config["use_rnn"]:
                    state |= {"lstm_h": self.lstm_h[0], "lstm_c": self.lstm_c[0]}
                logits, value = self.policy.forward_eval(shown, state)
                action, logprob, _ = sample_logits(logits)
                if self.config["use_rnn"]:
                    self.lstm_h[0], self.lstm_c[0] = state["lstm_h"], state["lstm_c"]
                at = (slice(step // horizon * agents, (step // horizon + 1) * agents),)
                at += (step % horizon,)
                self.observations[at], self.actions[at] = shown, action
                self.logprobs[at], self.values[at] = logprob, value.flatten()
                self.terminals[at] = terminals.float()
                action = action.numpy()
                if isinstance(logits, Normal):
                    space = self.vecenv.action_space
                    action = np.clip(action, space.low, space.high)
            self.vecenv.send(action)

    def train(self) -> None:
        """Ask for the segments as they were collected, and note the ratios."""
        segments = torch.randperm(self.segments)
        observations, actions = self.observations[segments], self.actions[segments]
        if not self.config["use_rnn"]:
            shape = self.vecenv.single_observation_space.shape
            observations = observations.reshape(-1, *shape)
        state = {"action": actions, "lstm_h": None, "lstm_c": None}
        logits, values = self.policy(observations, state)
        _, logprob, entropy = sample_logits(logits, action=actions)
        old = self.logprobs[segments]
        self.ratio[segments] = (logprob.reshape(old.shape) - old).exp().detach()
        self.values[segments] = values.view(old.shape).detach()
        (logprob.mean() + entropy.mean() + values.mean()).backward()


def sample_logits(logits: Any, action: Any = None) -> tuple[Any, Any, Any]:
    """Return actions, their log-probabilities (N,) and the entropies (N,)."""
    if isinstance(logits, Normal):
        rows = len(logits.loc)
        action = logits.sample().view(rows, -1) if action is None else action
        log_prob = logits.log_prob(action.view(rows, -1)).sum(1)
        return action, log_prob, logits.entropy().view(rows, -1).sum(1)
    one = isinstance(logits, torch.Tensor)
    choices = [each.log_softmax(-1) for each in ([logits] if one else logits)]
    if action is None:
        action = torch.stack([torch.multinomial(each.exp(), 1)[:, 0] for each in choices], 1).int()
    else:
        action = action.view(len(choices[0]), -1)
    picked = [each.gather(1, action[:, i : i + 1].long())[:, 0] for i, each in enumerate(choices)]
    floor = torch.finfo(torch.float32).min
    entropy = [-(each.clamp(min=floor) * each.exp()).sum(-1) for each in choices]
    return action[:, 0] if one else action, sum(picked), sum(entropy)


def load_policy(args: Mapping[str, Any], vecenv: Any) -> nn.Module:
    """Build a policy of the env's package by its names, as PufferLib's function does."""
    classes = importlib.import_module("pufferlib.ocean").torch
    policy = getattr(classes, args["policy_name"])(vecenv.driver_env, **args["policy"])
    if args["rnn_name"] is not None:
        memory = getattr(classes, args["rnn_name"])
        policy = memory(vecenv.driver_env, policy, **args["rnn"])
    policy = policy.to(args["train"]["device"])
    if args["load_model_path"] is not None:
        weights = torch.load(args["load_model_path"])
        policy.load_state_dict({key.replace("module.", ""): w for key, w in weights.items()})
    return policy


class Theirs(nn.Module):
    """A policy of PufferLib's form that leans on its env, and has no forward of its own."""

    def __init__(self, env: Any, hidden_size: int = 8) -> None:
        super().__init__()
        self.hidden_size, self.is_continuous = hidden_size, False
        self.encoder = nn.Linear(math.prod(env.single_observation_space.shape), hidden_size)
        self.decoder = nn.Linear(hidden_size, env.single_action_space.n + env.num_agents)

    def encode_observations(self, observations: Any, state: Any = None) -> Any:
        return self.encoder(observations.flatten(1).float())

    def decode_actions(self, hidden: Any) -> tuple[Any, Any]:
        logits = self.decoder(hidden)
        return logits[:, 1:], logits[:, :1]


class TheirMemory(nn.Module):
    """A memory of PufferLib's: that it is built is what counts."""

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__()
        self.policy, self.hidden_size = policy, 8


def put_in_place(monkeypatch: Any) -> ModuleType:
    """Let ``import pufferlib.pufferl`` find the trainer above, and return it."""
    modules = {name: ModuleType(f"pufferlib{name}") for name in ("", ".pufferl", ".ocean")}
    modules[""].__path__ = []
    trainer, ocean = modules[".pufferl"], modules[".ocean"]
    trainer.load_policy, trainer.PuffeRL = load_policy, PuffeRL
    ocean.torch = SimpleNamespace(Policy=Theirs, Recurrent=TheirMemory)
    for module in modules.values():
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return trainer
